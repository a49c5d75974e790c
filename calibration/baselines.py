"""The other ways to find a threshold: largest magnitude, percentile, least squared error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segdeploy.calibration.bins import edge
from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.histogram import DEFAULT_NUM_BINS, TensorHistogram
from segdeploy.calibration.noise import SILENCE, Noise
from segdeploy.calibration.threshold import (
    Threshold,
    candidate_lengths,
    fall_back,
    levels_of,
    lowest,
)

DEFAULT_PERCENTILE = 99.99

_RELATIVE_TIE = 1e-12


def minmax_threshold(histogram: TensorHistogram) -> Threshold:
    """The largest magnitude: nothing is clipped."""
    return Threshold(value=histogram.max_magnitude)


def percentile_threshold(
    histogram: TensorHistogram, *, percentile: float = DEFAULT_PERCENTILE
) -> Threshold:
    """The smallest edge of the grid that keeps ``percentile`` percent of all ``|x|``.

    Zeros count among the values. The grid makes it at most 0.05 % larger than the order
    statistic it stands for.

    Example:
        >>> histogram = TensorHistogram.of(np.array([0, 0.5, 1, 2], np.float32))
        >>> percentile_threshold(histogram, percentile=75).value
        1.0

    Raises:
        CalibrationError: ``percentile`` is not above 0 and at most 100.
    """
    if not 0 < percentile <= 100:
        raise CalibrationError(f"percentile is {percentile}; expected above 0 and at most 100")
    kept = histogram.zeros + np.cumsum(histogram.magnitudes.counts)
    wanted = percentile / 100 * histogram.total
    if histogram.zeros >= wanted:
        return fall_back(histogram, f"{percentile:g} % of the values are zero")
    index = min(int(np.searchsorted(kept, wanted)), kept.size - 1)
    value = edge(histogram.magnitudes.start + index)
    return Threshold(value=min(value, histogram.max_magnitude))


def mse_threshold(histogram: TensorHistogram, *, num_bins: int = DEFAULT_NUM_BINS) -> Threshold:
    """The threshold whose rounding and clipping have the least squared error together.

    Candidates are the same as in the KL search, over a histogram up to the largest magnitude.

    Raises:
        CalibrationError: fewer bins than levels.
    """
    levels = levels_of(histogram)
    lengths = candidate_lengths(num_bins, levels)
    if lengths.size == 1:
        return fall_back(histogram, f"{num_bins} bins for {levels} levels leave one candidate")
    if histogram.limit == 0:
        return fall_back(histogram, "every value is zero")
    uniform = histogram.uniform(num_bins)
    found = squared_errors(uniform.counts, levels)
    best = lowest(found, tolerance=_RELATIVE_TIE * float(found.max()))
    return Threshold(value=float(lengths[best] * uniform.width), candidates=lengths.size)


def reachable_noise(histogram: TensorHistogram, *, num_bins: int = DEFAULT_NUM_BINS) -> Noise:
    """Signal and noise of a tensor in 8 bits with the range of least squared error.

    Zeros are exact. What it is good for is to tell a range that is as good as it gets from one
    that is wrong, not the last decibel: values stand at the centres of their bins.

    Example:
        >>> values = np.linspace(0, 1, 100001, dtype=np.float32)  # steps of 1/255: 10 log10(12/3)
        >>> found = reachable_noise(TensorHistogram.of(values))   # + 20 log10(255) = 54.15 dB
        >>> 53.5 < found.sqnr_db < 54.5
        True
    """
    if histogram.limit == 0:
        return SILENCE
    uniform = histogram.uniform(num_bins)
    counts = uniform.counts.copy()
    counts[0] = max(counts[0] - histogram.zeros, 0.0)
    centres = np.arange(num_bins) + 0.5
    noise = float(squared_errors(counts, levels_of(histogram)).min())
    return Noise(
        signal=float(counts @ centres**2) * uniform.width**2,
        noise=max(noise, 0.0) * uniform.width**2,
    )


def squared_errors(counts: NDArray[np.float64], levels: int) -> NDArray[np.float64]:
    """Squared error of quantizing a histogram, for every candidate length.

    A candidate of i bins has the levels j * d, j = 0..L - 1, with the step d = i / (L - 1) bins.
    Every bin's values stand at its centre and go to the nearest level, those beyond to the last.

    Example:
        Counts 4 2 0 1 (centres 0.5 1.5 2.5 3.5) and L = 2. i = 2: levels 0 and 2, so
        4 * 0.25 + 2 * 0.25 + 2.25 = 3.75. i = 3: levels 0 and 3; the centre 1.5 lies between
        them and goes up: 1 + 2 * 2.25 + 0.25 = 5.75. i = 4: 1 + 4.5 + 0.25 = 5.75.

        >>> squared_errors(np.array([4.0, 2, 0, 1]), 2)
        array([3.75, 5.75, 5.75])

    Args:
        counts: float64 (B,).
        levels: L, at most B.

    Returns:
        float64 (B - L + 1,) for the lengths L..B, in squared bin widths.
    """
    lengths = candidate_lengths(counts.size, levels)
    centres = np.arange(counts.size) + 0.5
    steps = lengths / (levels - 1)
    number = np.arange(1, levels)
    first = np.ceil(np.outer(steps, number - 0.5) - 0.5).astype(np.intp)
    mass, moment = _tail_sums(counts), _tail_sums(counts * centres)
    linear = moment[first].sum(axis=1)
    square = mass[first] @ (2.0 * number - 1.0)
    total = float((counts * centres**2).sum())
    return np.asarray(total - 2.0 * steps * linear + steps**2 * square, np.float64)


def _tail_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum from each bin to the end, float64 (B + 1,)."""
    return np.concatenate((np.cumsum(values[::-1])[::-1], [0.0]))
