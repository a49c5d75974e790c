"""What parity found: raw counts per image, and the statistics and verdict derived from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import bootstrap

from benchmarks.accuracy import Scores
from deploy.errors import InputError, UsageError

CONFIDENCE = 0.95
"""Coverage of the interval around delta."""

RESAMPLES = 9999
"""Bootstrap resamples behind the interval."""

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
        if len(self.images) < 2:
            raise InputError(
                f"parity of {self.candidate} was asked over {len(self.images)} image; "
                "an interval needs at least 2 (and tells something from about 30)"
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
        """95 % interval of ``delta``, percentage points: paired bootstrap over the images."""
        return paired_interval([image.delta for image in self.images], seed=self.seed)

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
    def passed(self) -> bool:
        """No foreground collapse, and ``delta`` itself (not its interval) within ``max_drop``."""
        return not self.failures

    @property
    def failures(self) -> tuple[str, ...]:
        """Why the verdict is negative, one sentence each; empty when it passed."""
        reasons = []
        if self.delta < -self.max_drop:
            reasons.append(
                f"IoU changed by {self.delta:+.3f} points, more than the {self.max_drop:g} allowed"
            )
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


def paired_interval(differences: Sequence[float], *, seed: int) -> tuple[float, float]:
    """95 % bias-corrected, accelerated bootstrap interval of the mean of paired differences.

    Identical differences have no spread to resample: their interval is the value itself.

    Example:
        >>> paired_interval([0.0, 0.0, 0.0], seed=0)
        (0.0, 0.0)

    Source: Efron, "Better Bootstrap Confidence Intervals", JASA 1987.
    """
    values = np.asarray(differences, np.float64)
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    interval = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
