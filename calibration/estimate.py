"""From a tensor's histogram to the range its quantization keeps: one interface, four methods."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from segdeploy.calibration.baselines import (
    DEFAULT_PERCENTILE,
    minmax_threshold,
    mse_threshold,
    percentile_threshold,
)
from segdeploy.calibration.entropy import entropy_threshold
from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.histogram import DEFAULT_NUM_BINS, TensorHistogram
from segdeploy.calibration.threshold import Threshold
from segdeploy.calibration.two_ends import least_error, loss_db

LARGEST_VALUE = float(np.finfo(np.float32).max)
"""Of an activation, which is float32."""


MOST_LOST_DB = 1.0
"""Noise that a checked range may have more than the one of least error."""


class Method(str, Enum):
    """How a range was found."""

    ENTROPY = "entropy"
    PERCENTILE = "percentile"
    MSE = "mse"
    MINMAX = "minmax"
    IMPORTED = "imported"
    """Read from another tool's file; not something ``estimate`` can do."""


SEARCH_METHODS = (Method.ENTROPY, Method.PERCENTILE, Method.MSE, Method.MINMAX)
"""What ``estimate`` accepts."""


@dataclass(frozen=True, kw_only=True)
class CalibrationRange:
    """The values a quantized tensor keeps apart, and how they were found.

    Attributes:
        min: lower end, at or below zero.
        max: upper end, at or above zero.
        observed_min: smallest value seen.
        observed_max: largest value seen.
        method: what was asked for.
        divergence: of the winner of a KL search, in nats; ``None`` where none took place.
        candidates: thresholds compared.
        share_clipped: share of the values outside the range, 0 to 1.
        fallback: why another range stands in for the method's, or what is not known about an
            imported one; ``None`` where neither applies.

    Raises:
        CalibrationError: NaN or Inf, zero outside the range, or a figure that cannot be.
    """

    min: float
    max: float
    observed_min: float
    observed_max: float
    method: Method
    divergence: float | None
    candidates: int
    share_clipped: float
    fallback: str | None

    def __post_init__(self) -> None:
        ends = (self.min, self.max, self.observed_min, self.observed_max)
        if not all(abs(end) <= LARGEST_VALUE for end in ends):
            raise CalibrationError(f"range ends {ends} must be finite in float32")
        if self.min > self.max or self.observed_min > self.observed_max:
            raise CalibrationError(f"range ends {ends} are out of order: min is above max")
        if not self.min <= 0 <= self.max:
            raise CalibrationError(f"range {self.min} to {self.max} must include zero")
        if self.divergence is not None and not 0 <= self.divergence < math.inf:
            raise CalibrationError(f"divergence is {self.divergence}; expected 0 or more, finite")
        if self.candidates < 0 or not 0 <= self.share_clipped <= 1:
            raise CalibrationError(
                f"candidates {self.candidates} and share_clipped {self.share_clipped}; "
                "expected 0 or more, and 0 to 1"
            )


def estimate(
    histogram: TensorHistogram,
    *,
    method: Method,
    num_bins: int = DEFAULT_NUM_BINS,
    percentile: float = DEFAULT_PERCENTILE,
    checked: bool = False,
) -> CalibrationRange:
    """Find the range of one tensor.

    A threshold T on ``|x|`` gives max(-T, observed min) to min(T, observed max), widened to
    include zero; a non-negative tensor so gets 0 to min(T, observed max).

    Example:
        >>> values = np.append(np.linspace(0, 4, 10000, dtype=np.float32), np.float32(100))
        >>> histogram = TensorHistogram.of(values)
        >>> for method in SEARCH_METHODS:
        ...     found = estimate(histogram, method=method)
        ...     print(method.value, found.min, round(found.max, 2), found.candidates)
        entropy 0.0 4.0 1793
        percentile 0.0 4.0 0
        mse 0.0 99.46 1793
        minmax 0.0 100.0 0

    Args:
        histogram: of the tensor.
        method: one of ``SEARCH_METHODS``.
        num_bins: equal bins for the searches (entropy and mse).
        percentile: for that method, above 0 and at most 100.
        checked: take the range of least squared error where that of the KL search has
            ``MOST_LOST_DB`` more noise: for tensors that are neither what a ReLU leaves nor about
            symmetric, which the search is made for.

    Raises:
        CalibrationError: fewer bins than levels, or a percentile or method out of place.
    """
    found = _threshold(histogram, method, num_bins, percentile)
    low, high = (
        max(-found.value, min(histogram.min, 0.0)),
        min(found.value, max(histogram.max, 0.0)),
    )
    if checked and method is Method.ENTROPY:
        best = least_error(histogram)
        lost = loss_db(histogram, low, high, best)
        if lost > MOST_LOST_DB:
            low, high = best.low, best.high
            words = f"the KL search's range has {lost:.1f} dB more noise than that of least error"
            found = Threshold(value=max(-low, high), candidates=best.candidates, fallback=words)
    low, high = float(np.float32(low)) + 0.0, float(np.float32(high))
    return CalibrationRange(
        min=low,
        max=high,
        observed_min=histogram.min,
        observed_max=histogram.max,
        method=method,
        divergence=found.divergence,
        candidates=found.candidates,
        share_clipped=histogram.share_beyond(low, high),
        fallback=found.fallback,
    )


def _threshold(
    histogram: TensorHistogram, method: Method, num_bins: int, percentile: float
) -> Threshold:
    if method is Method.ENTROPY:
        return entropy_threshold(histogram, num_bins=num_bins)
    if method is Method.PERCENTILE:
        return percentile_threshold(histogram, percentile=percentile)
    if method is Method.MSE:
        return mse_threshold(histogram, num_bins=num_bins)
    if method is Method.MINMAX:
        return minmax_threshold(histogram)
    expected = ", ".join(known.value for known in SEARCH_METHODS)
    raise CalibrationError(f"method {method.value!r} cannot be estimated; expected {expected}")
