"""The range of least squared error with both ends free, and what any range loses, from a histogram.

The KL search folds a tensor to ``|x|`` and shares 8 bits between the two signs. That suits what a
ReLU leaves and what is about symmetric. A LeakyReLU, a SiLU or a norm leaves a small negative lobe
beside a long positive tail: most of the 256 levels serve one sign, and a threshold that was chosen
for 128 clips too much. A spike away from zero pulls it in, too.

A quantizer with the step ``s = (high - low) / 255`` rounds a value below ``s / 2`` to zero, which
costs its square; others inside the range cost ``s**2 / 12`` on average; a value outside costs the
square of its distance from the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segdeploy.calibration.bins import BINS_PER_OCTAVE, TINY_EXPONENT, BinWindow
from segdeploy.calibration.histogram import TensorHistogram

STEPS = 255
"""Of an 8-bit tensor, from one end of its range to the other."""

ENDS_PER_OCTAVE = 32
OCTAVES = 6
"""Candidates for an end: from the extreme down to a 64th of it, 2 % apart."""


@dataclass(frozen=True, kw_only=True)
class Ends:
    """A range and its squared error, summed over all values.

    Attributes:
        low: lower end, at or below zero.
        high: upper end, at or above zero.
        noise: the error.
        candidates: ranges compared.
    """

    low: float
    high: float
    noise: float
    candidates: int


def noise_within(histogram: TensorHistogram, low: float, high: float) -> float:
    """The squared error of a range in 8 bits, summed over all values.

    Example:
        >>> values = np.linspace(-1, 3, 40001, dtype=np.float32)
        >>> found = noise_within(TensorHistogram.of(values), -1, 3) / 40001
        >>> round(found / ((4 / 255) ** 2 / 12), 2)
        1.0

    Args:
        histogram: of the tensor.
        low: at or below zero.
        high: at or above zero.
    """
    sides = _Side(histogram.negative), _Side(histogram.positive)
    return float(_noise(sides, np.array([-low]), np.array([high]))[0, 0])


def least_error(histogram: TensorHistogram) -> Ends:
    """The two ends with the least squared error among ``ENDS_PER_OCTAVE * OCTAVES`` for each.

    Example:
        What a LeakyReLU leaves of -4 to 4: both ends stay within 4 % of the values'.

        >>> values = np.linspace(-4, 4, 100000, dtype=np.float32)
        >>> found = least_error(TensorHistogram.of(np.maximum(values, values * np.float32(0.1))))
        >>> -0.4 <= found.low < -0.38, 3.84 < found.high <= 4
        (True, True)
    """
    sides = _Side(histogram.negative), _Side(histogram.positive)
    below, above = (_candidates(end) for end in (-histogram.min, histogram.max))
    noise = _noise(sides, below, above)
    row, column = np.unravel_index(int(np.argmin(noise)), noise.shape)
    return Ends(
        low=-float(below[row]),
        high=float(above[column]),
        noise=float(noise[row, column]),
        candidates=noise.size,
    )


def loss_db(histogram: TensorHistogram, low: float, high: float, best: Ends) -> float:
    """How many decibels of noise a range has more than the best; infinite beside none."""
    noise = noise_within(histogram, low, high)
    if noise <= best.noise:
        return 0.0
    return 10 * math.log10(noise / best.noise) if best.noise > 0 else math.inf


class _Side:
    """Sums over the values of one sign, by magnitude: counts, first and second moments."""

    def __init__(self, window: BinWindow) -> None:
        places = np.flatnonzero(window.counts)
        upper = places + window.start
        self.magnitudes = (_edges(np.maximum(upper - 1, 0)) + _edges(upper)) / 2
        counts = window.counts[places].astype(np.float64)
        moments = (counts, counts * self.magnitudes, counts * self.magnitudes**2)
        self.sums = tuple(np.concatenate(([0.0], np.cumsum(each))) for each in moments)

    def noise(self, end: NDArray[np.float64], step: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of values of this sign in a range that ends at ``end``; both of one shape."""
        count, first, second = self.sums
        inside = np.searchsorted(self.magnitudes, end, side="right")
        small = np.minimum(np.searchsorted(self.magnitudes, step / 2), inside)
        rounded = second[small] + (count[inside] - count[small]) * step**2 / 12
        tail = (sums[-1] - sums[inside] for sums in (count, first, second))
        beyond, beyond_first, beyond_second = tail
        clipped = beyond_second - 2 * end * beyond_first + end**2 * beyond
        return np.asarray(rounded + np.maximum(clipped, 0.0))


def _edges(indices: NDArray[np.intp]) -> NDArray[np.float64]:
    """``bins.edge`` of many bins."""
    octaves, steps = np.divmod(indices, BINS_PER_OCTAVE)
    return np.asarray(np.ldexp(1.0 + steps / BINS_PER_OCTAVE, octaves + TINY_EXPONENT), np.float64)


def _candidates(extreme: float) -> NDArray[np.float64]:
    if extreme <= 0:
        return np.zeros(1)
    return extreme * np.exp2(-np.arange(ENDS_PER_OCTAVE * OCTAVES + 1) / ENDS_PER_OCTAVE)


def _noise(
    sides: tuple[_Side, _Side], below: NDArray[np.float64], above: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Noise of every pair of a magnitude of the lower end and an upper end."""
    low, high = np.broadcast_arrays(below[:, None], above[None, :])
    step = (low + high) / STEPS
    negative, positive = sides
    return negative.noise(low, step) + positive.noise(high, step)
