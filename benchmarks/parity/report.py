"""What parity found: raw counts per image, and the statistics and verdict derived from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from segdeploy.benchmarks.parity.verdict import Evidence, Verdict, kept_percent
from segdeploy.benchmarks.scores.accuracy import Scores
from segdeploy.benchmarks.scores.paired_interval import paired_interval
from segdeploy.deploy.system.errors import InputError, UsageError

FEWEST_IMAGES = 2
"""Over which parity has an interval."""

WORST_IMAGES = 6
"""How many images a report shows unless it asks for another number."""


@dataclass(frozen=True, kw_only=True)
class ImageParity:
    """One image on both sides: IoU in percent, and numbers of pixels."""

    name: str
    pixels: int
    truth_foreground: int
    reference_foreground: int
    candidate_foreground: int
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
        return 100.0 * self.differing / self.pixels

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
    images: tuple[ImageParity, ...]
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
        low, high = paired_interval([image.delta for image in self.images], seed=self.seed)
        return max(low, -100.0), min(high, 100.0)

    @property
    def disagreement_percent(self) -> float:
        """Share of pixels whose class differs from the reference, percent."""
        differing = sum(image.differing for image in self.images)
        return 100.0 * differing / sum(image.pixels for image in self.images)

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
        return kept_percent(self.reference_scores.iou, self.candidate_scores.iou)

    @property
    def evidence(self) -> Evidence:
        """What the interval says about the budget."""
        low, high = self.ci95
        return Evidence(
            delta=self.delta, low=low, high=high, max_drop=self.max_drop, images=len(self.images)
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

    def worst_images(self, count: int = WORST_IMAGES) -> tuple[ImageParity, ...]:
        """The ``count`` images that lost most IoU; of equals, those with more changed pixels."""
        ranked = sorted(self.images, key=lambda image: (image.delta, -image.differing, image.name))
        return tuple(ranked[:count])
