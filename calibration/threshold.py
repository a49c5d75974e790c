"""What a threshold search returns, and what every search shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.histogram import TensorHistogram

SIGNED_LEVELS = 128
"""Magnitudes 8 bits tell apart where values have both signs: 0 to 127."""

NON_NEGATIVE_LEVELS = 256
"""Magnitudes 8 bits tell apart where all values have one sign: 0 to 255."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A bound on ``|x|`` beyond which values are clipped.

    Attributes:
        value: the bound, at or above zero.
        candidates: how many were compared; 0 where nothing was searched.
        divergence: of the winner, in nats; ``None`` where no divergence was computed.
        fallback: why the largest magnitude stands in for a search; ``None`` where it does not.
    """

    value: float
    candidates: int = 0
    divergence: float | None = None
    fallback: str | None = None


def levels_of(histogram: TensorHistogram) -> int:
    """Levels of magnitude: 128 where values have both signs, 256 where they have one."""
    return SIGNED_LEVELS if histogram.min < 0 < histogram.max else NON_NEGATIVE_LEVELS


def fall_back(histogram: TensorHistogram, reason: str) -> Threshold:
    """The largest magnitude, and why there was nothing to search."""
    return Threshold(value=histogram.max_magnitude, fallback=reason)


def candidate_lengths(num_bins: int, levels: int) -> NDArray[np.int64]:
    """Lengths in bins a search compares: ``levels`` to ``num_bins``.

    Raises:
        CalibrationError: fewer bins than levels.
    """
    if not 2 <= levels <= num_bins:
        raise CalibrationError(
            f"{num_bins} bins cannot be searched for {levels} levels; "
            f"use at least {levels} bins (2048 is usual)"
        )
    return np.arange(levels, num_bins + 1)


def lowest(scores: NDArray[np.float64], *, tolerance: float) -> int:
    """Index of the smallest score; of scores within ``tolerance`` of it, the last.

    Candidates come in growing order, so a tie goes to the largest threshold, which clips least.

    Example:
        >>> lowest(np.array([3.0, 1.0, np.inf, 1.0, 2.0]), tolerance=1e-12)
        3
    """
    return int(np.flatnonzero(scores <= scores.min() + tolerance)[-1])
