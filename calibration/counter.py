"""Counting a stream of values into one histogram, in place and fast."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from segdeploy.calibration.bins import BINS_PER_OCTAVE, BinWindow, bin_of
from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.histogram import TensorHistogram

_CHUNK = 1 << 15
"""Values binned at a time, so that their bins stay in the cache."""


class TensorCounter:
    """A histogram being filled; ``histogram()`` gives the frozen result at any time.

    Memory depends on the magnitudes seen, not on how many values: 16 KB for each octave between
    ``bins.TINY`` and the largest magnitude, twice that where values below zero were seen.
    """

    def __init__(self) -> None:
        self._min = math.inf
        self._max = -math.inf
        self._counts = np.zeros((1, BINS_PER_OCTAVE), np.int64)
        self._chunk = np.empty(_CHUNK, np.int32)

    @classmethod
    def of(cls, histogram: TensorHistogram) -> TensorCounter:
        """Go on from what was counted before."""
        counter = cls()
        counter._min, counter._max = histogram.min, histogram.max
        negative, positive = histogram.negative, histogram.positive
        sides = 2 if negative.counts.size else 1
        counter._reserve(sides, max(negative.stop, positive.stop))
        counter._counts[0, 0] = histogram.zeros
        counter._counts[0, positive.start : positive.stop] = positive.counts
        if sides == 2:
            counter._counts[1, negative.start : negative.stop] = negative.counts
        return counter

    def add(self, values: NDArray[np.float32]) -> None:
        """Count an array of any shape.

        Raises:
            CalibrationError: not float32, empty, or NaN or Inf among the values. Nothing is
                counted then.
        """
        low, high = extremes(values)
        self._min, self._max = min(self._min, low), max(self._max, high)
        peak = int(bin_of(np.array([max(-low, high)], np.float32))[0])
        self._reserve(2 if low < 0 else 1, peak + 1)
        flat = np.ascontiguousarray(values).reshape(-1)
        counts, width = self._counts.reshape(-1), self._counts.shape[1]
        for begin in range(0, flat.size, _CHUNK):
            part = flat[begin : begin + _CHUNK]
            index = bin_of(part, out=self._chunk[: part.size])
            if low < 0:
                index += (part < 0) * np.int32(width)
            np.add.at(counts, index, 1)

    def histogram(self) -> TensorHistogram:
        """What was counted so far; later additions do not change it.

        Raises:
            CalibrationError: nothing was counted.
        """
        sides = [BinWindow.of_dense(side) for side in self._counts]
        nothing = BinWindow(start=1, counts=np.zeros(0, np.int64))
        return TensorHistogram(
            min=self._min,
            max=self._max,
            zeros=int(self._counts[:, 0].sum()),
            positive=sides[0],
            negative=sides[1] if len(sides) == 2 else nothing,
        )

    def _reserve(self, sides: int, width: int) -> None:
        """Make room for bins below ``width`` (whole octaves) on one side or both."""
        have_sides, have_width = self._counts.shape
        octaves = -(-width // BINS_PER_OCTAVE) + 1
        wanted = (max(sides, have_sides), max(octaves * BINS_PER_OCTAVE, have_width))
        if width > have_width or sides > have_sides:
            grown = np.zeros(wanted, np.int64)
            grown[:have_sides, :have_width] = self._counts
            self._counts = grown


def extremes(values: NDArray[np.float32]) -> tuple[float, float]:
    """The smallest and largest value, where -0.0 counts as 0.0.

    Raises:
        CalibrationError: not float32, empty, or NaN or Inf among the values.
    """
    if values.dtype != np.float32:
        raise CalibrationError(f"values are {values.dtype}; expected float32")
    if values.size == 0:
        raise CalibrationError(f"values of shape {values.shape} hold nothing to count")
    low, high = float(values.min()) + 0.0, float(values.max()) + 0.0
    if not (math.isfinite(low) and math.isfinite(high)):
        kind = "NaN" if math.isnan(low) else "Inf"
        raise CalibrationError(f"values hold {kind}; expected finite numbers")
    return low, high
