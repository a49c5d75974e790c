"""The KL search: the threshold whose quantized distribution loses the least information.

After S. Migacz, "8-bit inference with TensorRT" (GTC 2017), and NVIDIA's calibration notes for
MLPerf inference v0.5. Bin by bin, for a histogram of ``|x|`` with B equal bins and L levels:

- The first bin is emptied: after a ReLU it holds the zeros, which any scale represents exactly.
- A candidate keeps the first i bins, i = L..B; its threshold is the upper end of bin i - 1.
- The reference P is that prefix with the mass of all later bins added to its last bin, as
  clipping does.
- The candidate Q is the prefix without that mass, quantized: bin k belongs to level
  floor(k * L / i), so levels may differ by one bin in length. A level's mass is spread evenly
  over those of its bins that are occupied in the prefix; an empty bin stays empty.
- Both are normalised, and the divergence is the sum of P * ln(P / Q), in nats. Nothing is
  smoothed: where P has mass and Q has none the divergence is infinite. That happens only in the
  last bin, when it is empty and values lie beyond it, and such a candidate cannot win.
- A candidate that clips more than 2 % of the values cannot win either: P counts what is clipped
  as if it lay in the last bin. Where nothing or little lies below, as in values that begin far
  from zero, P and Q then agree about one bin, whatever lies beyond.
- The smallest divergence wins; among those within 1e-12 of it, the largest threshold.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from segdeploy.calibration.bins import BINS_PER_OCTAVE, edge
from segdeploy.calibration.histogram import DEFAULT_NUM_BINS, TensorHistogram
from segdeploy.calibration.threshold import (
    Threshold,
    candidate_lengths,
    fall_back,
    levels_of,
    lowest,
)

TIE_NATS = 1e-12
"""Divergences closer than this are equal; rounding leaves about 1e-14."""

MOST_CLIPPED = 0.02
"""Share of the values that a range may clip; searches that make sense clip half of it at most."""

OUTLIER_SHARE = 1e-5
OUTLIER_GAP_OCTAVES = 1


def entropy_threshold(histogram: TensorHistogram, *, num_bins: int = DEFAULT_NUM_BINS) -> Threshold:
    """Search a tensor's threshold on ``|x|``.

    Args:
        histogram: of the tensor.
        num_bins: equal bins from zero to ``search_limit(histogram)``.

    Returns:
        The threshold, or the largest magnitude where there is nothing to search: an all-zero
        tensor, fewer occupied bins than levels, or as many bins as levels (one candidate).

    Raises:
        CalibrationError: fewer bins than levels.
    """
    levels = levels_of(histogram)
    lengths = candidate_lengths(num_bins, levels)
    if lengths.size == 1:
        return fall_back(histogram, f"{num_bins} bins for {levels} levels leave one candidate")
    if histogram.limit == 0:
        return fall_back(histogram, "every value is zero")
    uniform = histogram.uniform(num_bins, limit=search_limit(histogram))
    occupied = int(np.count_nonzero(uniform.counts[1:]))
    if occupied < levels:
        return fall_back(histogram, f"{occupied} occupied bins for {levels} levels")
    found = divergences(uniform.counts, levels)
    kept = np.cumsum(uniform.counts)[lengths - 1]
    found[kept < (1 - MOST_CLIPPED) * uniform.counts.sum()] = np.inf
    best = lowest(found, tolerance=TIE_NATS)
    return Threshold(
        value=float(lengths[best] * uniform.width),
        candidates=lengths.size,
        divergence=float(found[best]),
    )


def divergences(counts: NDArray[np.float64], levels: int) -> NDArray[np.float64]:
    """The divergence of every candidate length.

    Example:
        Three levels over the counts 9 2 5 3 0 1. The first bin is emptied; 11 values remain.

        - i = 3: P = (0, 2, 9) / 11, Q = (0, 2, 5) / 7:
          2/11 ln(7/11) + 9/11 ln(63/55) = 0.0289.
        - i = 4: levels {0, 1} {2} {3}; P = (0, 2, 5, 4) / 11, Q = (0, 2, 5, 3) / 10:
          7/11 ln(10/11) + 4/11 ln(40/33) = 0.0093, the smallest.
        - i = 5: bin 4 is empty and one value lies beyond it: infinite.
        - i = 6: levels {0, 1} {2, 3} {4, 5}; P = (0, 2, 5, 3, 0, 1) / 11,
          Q = (0, 2, 4, 4, 0, 1) / 11: 5/11 ln(5/4) + 3/11 ln(3/4) = 0.0230.

        >>> divergences(np.array([9.0, 2, 5, 3, 0, 1]), 3).round(4)
        array([0.0289, 0.0093,    inf, 0.023 ])

    Args:
        counts: float64 (B,), at or above zero, with mass beyond the first bin; what a bin holds
            must not vanish beside the sum, which counts of single values never do.
        levels: L, at most B.

    Returns:
        float64 (B - L + 1,) for the lengths L..B, in nats, at or above zero.

    The sums over bins of one level collapse, because Q is constant on a level's occupied bins:
    with S its mass and n its occupied bins, sum(P ln Q) = S ln(S / n). So a candidate costs L
    differences of two cumulative sums.
    """
    lengths = candidate_lengths(counts.size, levels)
    searched = counts.copy()
    searched[0] = 0.0
    kept = np.concatenate(([0.0], np.cumsum(searched)))
    occupied = np.concatenate(([0], np.cumsum(searched > 0)))
    starts = _level_starts(counts.size, levels)
    mass = np.diff(kept[starts], axis=1)
    spread = mass / np.maximum(np.diff(occupied[starts], axis=1), 1)
    log_spread = np.log(np.where(spread > 0, spread, 1.0))

    total, inside, last = kept[-1], kept[lengths], searched[lengths - 1]
    beyond = total - inside
    own = np.concatenate(([0.0], np.cumsum(_x_log_x(searched))))[lengths - 1]
    own += _x_log_x(last + beyond)
    cross = np.einsum("ij,ij->i", mass, log_spread) + beyond * log_spread[:, -1]
    impossible = (inside <= 0) | ((last == 0) & (beyond > 0))
    found = (own - cross) / total + np.log(np.where(impossible, 1.0, inside / total))
    return np.where(impossible, np.inf, np.maximum(found, 0.0))


def search_limit(histogram: TensorHistogram) -> float:
    """Where the search's histogram ends: the largest magnitude, isolated outliers set aside.

    One value far out would stretch the equal bins until the rest of the tensor lay in a few of
    them. So magnitudes that lie more than a factor of 2 above everything below them are set
    aside, as long as they are at most 1 in 100,000 of the non-zero values (or a single one):
    the histogram ends at the grid's edge below the gap and does not count them. They are
    clipped, and the search is the same, bit for bit, as if they had never been seen.

    Example:
        >>> bulk = np.linspace(-4, 4, 1000, dtype=np.float32)
        >>> search_limit(TensorHistogram.of(bulk))
        4.0
        >>> search_limit(TensorHistogram.of(np.append(bulk, np.float32(40))))
        4.0
    """
    window = histogram.magnitudes
    occupied = np.flatnonzero(window.counts)
    gaps = np.flatnonzero(np.diff(occupied) > OUTLIER_GAP_OCTAVES * BINS_PER_OCTAVE)
    allowed = max(1.0, OUTLIER_SHARE * window.total)
    for gap in gaps:
        below = int(occupied[gap])
        if window.counts[below + 1 :].sum() <= allowed:
            return edge(window.start + below)
    return histogram.limit


def _x_log_x(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """``x ln x``, 0 at 0."""
    return values * np.log(np.where(values > 0, values, 1.0))


@lru_cache(maxsize=4)
def _level_starts(num_bins: int, levels: int) -> NDArray[np.int64]:
    """First bin of each level and the end of the last, int64 (candidates, levels + 1).

    ``floor(k * L / i) = l`` where k runs from ``ceil(l * i / L)`` up to the next level's start.
    """
    lengths = candidate_lengths(num_bins, levels)
    starts = -(-np.outer(lengths, np.arange(levels + 1)) // levels)
    starts.flags.writeable = False
    return starts
