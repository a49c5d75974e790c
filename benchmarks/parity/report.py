"""What parity found: raw counts per image, and the statistics and verdict derived from them."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.parity.verdict import Evidence, Verdict, kept_percent
from segdeploy.benchmarks.scores.accuracy import Scores
from segdeploy.benchmarks.scores.classes import ClassCounts, change_of_images
from segdeploy.benchmarks.scores.paired_interval import paired_interval
from segdeploy.deploy.system.errors import InputError, UsageError

FEWEST_IMAGES = 2
"""Over which parity has an interval."""

WORST_IMAGES = 6
"""How many images a report shows unless it asks for another number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageChange:
    """One image on both sides: its score in percent, and numbers of pixels.

    Attributes:
        name: of the image.
        pixels: that count.
        differing: whose class differs.
        reference_iou: IoU of the foreground; of several classes the mean over those the truth of
            the image holds.
        candidate_iou: likewise.
    """

    name: str
    pixels: int
    differing: int
    reference_iou: float
    candidate_iou: float

    @property
    def delta(self) -> float:
        """Candidate minus reference IoU, percentage points."""
        return self.candidate_iou - self.reference_iou

    @property
    def disagreement_percent(self) -> float:
        """Share of pixels whose class differs from the reference, percent."""
        return 100.0 * self.differing / max(self.pixels, 1)

    @property
    def collapsed(self) -> bool:
        """Never told of one image of several classes: the report tells it of a class."""
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageParity(ImageChange):
    """One image of one label, with its foreground on both sides and in truth, in pixels."""

    truth_foreground: int
    reference_foreground: int
    candidate_foreground: int

    @property
    def collapsed(self) -> bool:
        """The candidate sees only background where truth and reference both hold foreground."""
        expected = self.truth_foreground > 0 and self.reference_foreground > 0
        return expected and self.candidate_foreground == 0


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """A candidate against a reference over the same images.

    Holds what was measured; the verdict and its evidence are derived. ``max_drop`` is the largest
    loss of IoU that still passes, in percentage points; ``seed`` that of the bootstrap.

    Raises:
        InputError: fewer than two images, of which no interval can be estimated.
        UsageError: ``max_drop`` is negative or not finite.
    """

    reference: str
    candidate: str
    reference_scores: Scores
    candidate_scores: Scores
    images: Sequence[ImageChange]
    max_drop: float
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.images) < FEWEST_IMAGES:
            raise InputError(
                f"parity of {self.candidate} was asked over {len(self.images)} image; "
                f"an interval needs at least {FEWEST_IMAGES} (and tells something from about 30)"
            )
        if not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise UsageError(
                f"--max-drop is {self.max_drop}; expected percentage points of IoU, 0 or more"
            )

    @property
    def score(self) -> str:
        """What is compared, in a sentence."""
        return "IoU"

    @property
    def reference_iou_per_image(self) -> tuple[float, ...]:
        """IoU of the reference on each image, percent."""
        return tuple(image.reference_iou for image in self.images)

    @property
    def candidate_iou_per_image(self) -> tuple[float, ...]:
        """IoU of the candidate on each image, percent."""
        return tuple(image.candidate_iou for image in self.images)

    @property
    def delta(self) -> float:
        """Candidate minus reference IoU, percentage points; negative is a loss."""
        return math.fsum(image.delta for image in self.images) / len(self.images)

    @cached_property
    def ci95(self) -> tuple[float, float]:
        """95 % interval of ``delta``, percentage points: paired bootstrap over the images.

        Cut where no change of IoU can lie, which the interval of a handful of images reaches.
        """
        deltas = np.fromiter((image.delta for image in self.images), np.float64, len(self.images))
        return _interval(deltas, seed=self.seed)

    @property
    def disagreement_percent(self) -> float:
        """Share of pixels whose class differs from the reference, percent."""
        differing = sum(image.differing for image in self.images)
        return 100.0 * differing / max(sum(image.pixels for image in self.images), 1)

    @property
    def collapsed_images(self) -> tuple[str, ...]:
        """Names of the images on which the candidate lost all foreground."""
        return tuple(image.name for image in self.images if image.collapsed)

    @property
    def collapsed(self) -> bool:
        """The candidate lost all foreground of at least one image."""
        return bool(self.collapsed_images)

    @property
    def reference_iou_kept_percent(self) -> float | None:
        """Candidate over reference IoU, percent; ``None`` of a reference of 0."""
        before, after = self.reference_scores.iou, self.candidate_scores.iou
        return None if before is None or after is None else kept_percent(before, after)

    @property
    def evidence(self) -> Evidence:
        """What the interval says about the budget."""
        low, high = self.ci95
        return Evidence(
            delta=self.delta,
            low=low,
            high=high,
            max_drop=self.max_drop,
            images=len(self.images),
            score=self.score,
        )

    @property
    def verdict(self) -> Verdict:
        """A collapse where there is one, else what the interval proves."""
        return Verdict.COLLAPSED if self.collapsed else self.evidence.verdict

    @property
    def passed(self) -> bool:
        """It is proven that the budget is kept, and nothing collapsed."""
        return self.verdict is Verdict.KEPT

    @property
    def failures(self) -> tuple[str, ...]:
        """Why it did not pass and what would prove it, one sentence each; empty when it did."""
        reasons = [self.evidence.failure] if self.evidence.failure else []
        if self.collapsed:
            names = ", ".join(self.collapsed_images[:WORST_IMAGES])
            more = len(self.collapsed_images) - WORST_IMAGES
            reasons.append(
                f"foreground collapse on {len(self.collapsed_images)} of {len(self.images)} "
                f"images (only background predicted): {names}"
                + (f" and {more} more" if more > 0 else "")
            )
        return tuple(reasons)

    def worst_images(self, count: int = WORST_IMAGES) -> tuple[ImageChange, ...]:
        """The ``count`` images that lost most IoU; of equals, those with more changed pixels."""
        lost = heapq.nsmallest(
            count, self.images, key=lambda image: (image.delta, -image.differing, image.name)
        )
        return tuple(lost)


@dataclass(frozen=True, kw_only=True)
class ClassChange:
    """One class on both sides: IoU pooled over all pixels, and its change.

    Attributes:
        name: of the class.
        delta: candidate minus reference, percentage points.
        ci95: its 95 % interval.
        evidence: what that says about the budget of a class; ``None`` where none was stated.
    """

    name: str
    delta: float
    ci95: tuple[float, float]
    evidence: Evidence | None


@dataclass(frozen=True, kw_only=True)
class ClassParityReport(ParityReport):
    """A candidate against a reference, of several classes: the gate is on mIoU.

    The scores are pooled over all pixels, and their change has the interval of the images' bearing
    on it (``change_of_images``).

    Attributes:
        classes: names.
        before: what the reference said.
        after: what the candidate said.
        max_drop_class: largest loss of IoU of a class that passes, percentage points; ``None`` asks
            only that no class is lost altogether.

    Raises:
        InputError: as its base.
        UsageError: a budget is negative or not finite.
    """

    classes: tuple[str, ...]
    before: ClassCounts
    after: ClassCounts
    max_drop_class: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_drop_class is not None and not (
            math.isfinite(self.max_drop_class) and self.max_drop_class >= 0
        ):
            raise UsageError(
                f"--max-drop-class is {self.max_drop_class}; expected percentage points of IoU, 0 "
                "or more"
            )

    @property
    def score(self) -> str:
        """What is compared, in a sentence."""
        return "mIoU"

    @property
    def delta(self) -> float:
        """Candidate minus reference mIoU, percentage points; negative is a loss."""
        return self.candidate_scores.miou - self.reference_scores.miou

    @cached_property
    def _bearing(self) -> NDArray[np.float64]:
        """Of each image on the change of each class, (N, K): their means are the changes."""
        sides = ((each.shared, each.either) for each in (self.before, self.after))
        return change_of_images(*sides)

    @cached_property
    def ci95(self) -> tuple[float, float]:
        """95 % interval of ``delta``, percentage points."""
        held = self._bearing[:, self.before.held]
        return _interval(held.mean(axis=1), seed=self.seed)

    @cached_property
    def class_changes(self) -> dict[str, ClassChange]:
        """Of each class that has scores, by name."""
        found = {}
        for index in np.flatnonzero(self.before.held):
            name, delta = self.classes[index], float(self.after.iou[index] - self.before.iou[index])
            low, high = _interval(self._bearing[:, index], seed=self.seed)
            evidence = None
            if self.max_drop_class is not None:
                evidence = Evidence(
                    delta=delta,
                    low=low,
                    high=high,
                    max_drop=self.max_drop_class,
                    images=len(self.images),
                    score=f"IoU of {name}",
                    flag="--max-drop-class",
                )
            found[name] = ClassChange(name=name, delta=delta, ci95=(low, high), evidence=evidence)
        return found

    @property
    def collapsed_classes(self) -> tuple[str, ...]:
        """Names of the classes that the candidate never predicts, and truth and reference hold."""
        held = self.before.held & (self.before.predicted.sum(axis=0) > 0)
        lost = held & (self.after.predicted.sum(axis=0) == 0)
        return tuple(self.classes[index] for index in np.flatnonzero(lost))

    @property
    def collapsed(self) -> bool:
        """The candidate lost a class altogether."""
        return bool(self.collapsed_classes)

    @property
    def reference_iou_kept_percent(self) -> float | None:
        """Candidate over reference mIoU, percent; ``None`` of a reference of 0."""
        return kept_percent(self.reference_scores.miou, self.candidate_scores.miou)

    @property
    def verdict(self) -> Verdict:
        """A collapse where there is one, else the worst of what the intervals prove."""
        asked = [each.evidence for each in self.class_changes.values() if each.evidence]
        found = {each.verdict for each in (self.evidence, *asked)}
        order = (Verdict.LOST, Verdict.NOT_PROVEN, Verdict.KEPT)
        worst = next(verdict for verdict in order if verdict in found)
        return Verdict.COLLAPSED if self.collapsed else worst

    @property
    def failures(self) -> tuple[str, ...]:
        """Why it did not pass and what would prove it, one sentence each; empty when it did."""
        asked = [each.evidence for each in self.class_changes.values() if each.evidence]
        reasons = [each.failure for each in (self.evidence, *asked) if each.failure]
        if self.collapsed:
            reasons.append(f"never predicted: {', '.join(self.collapsed_classes)}")
        return tuple(reasons)


def _interval(differences: NDArray[np.float64], *, seed: int) -> tuple[float, float]:
    """Of a mean of changes, cut where no change of a score can lie."""
    low, high = paired_interval(differences, seed=seed)
    return max(low, -100.0), min(high, 100.0)
