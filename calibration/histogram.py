"""What one tensor's activations look like: counted in place, kept in a form that merges exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.calibration.bins import BINS_PER_OCTAVE, BinWindow, bin_of, edge
from segdeploy.calibration.errors import CalibrationError

DEFAULT_NUM_BINS = 2048

_CHUNK = 1 << 15
"""Values binned at a time, so that their bins stay in the cache."""


@dataclass(frozen=True, kw_only=True, eq=False)
class UniformHistogram:
    """Counts of ``|x|`` in bins of equal width from zero.

    Attributes:
        counts: float64 (B,), at or above zero; fractions come from bins that were split.
        width: of one bin; bin k covers ``k * width`` to ``(k + 1) * width``.
    """

    counts: NDArray[np.float64]
    width: float

    @property
    def edges(self) -> NDArray[np.float64]:
        """float64 (B + 1,)."""
        return np.arange(self.counts.size + 1, dtype=np.float64) * self.width


@dataclass(frozen=True, kw_only=True)
class TensorHistogram:
    """Exact extremes and counts of one tensor over the fixed grid of ``calibration.bins``.

    Adding two histograms adds integers, so any partition of the data, in any order, gives the
    same histogram. It holds no reference to the data.

    Attributes:
        min: smallest value seen, exact.
        max: largest value seen, exact.
        zeros: values whose magnitude is at most ``bins.TINY``.
        negative: counts of the magnitudes of the values below zero.
        positive: counts of the values above zero.
    """

    min: float
    max: float
    zeros: int
    negative: BinWindow
    positive: BinWindow

    def __post_init__(self) -> None:
        if not (math.isfinite(self.min) and math.isfinite(self.max) and self.min <= self.max):
            raise CalibrationError(f"a histogram from {self.min} to {self.max} is not a range")
        if self.zeros < 0 or self.total == 0:
            raise CalibrationError("a histogram must hold at least one value")
        for extreme, window in ((-self.min, self.negative), (self.max, self.positive)):
            top = int(bin_of(np.array([max(extreme, 0.0)], np.float32))[0])
            if top != window.stop - 1:
                raise CalibrationError(
                    f"counts and extremes disagree: {extreme} is in bin {top}, "
                    f"but the last occupied bin is {window.stop - 1}"
                )

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> TensorHistogram:
        """Count one array.

        Example:
            >>> histogram = TensorHistogram.of(np.array([0, 0, 1.5, -2], np.float32))
            >>> histogram.min, histogram.max, histogram.zeros, histogram.total
            (-2.0, 1.5, 2, 4)

        Raises:
            CalibrationError: not float32, empty, or NaN or Inf among the values.
        """
        counter = TensorCounter()
        counter.add(values)
        return counter.histogram()

    @cached_property
    def magnitudes(self) -> BinWindow:
        """Counts of ``|x|`` above ``TINY``, both signs together."""
        return self.negative + self.positive

    @property
    def total(self) -> int:
        """Values counted."""
        return self.zeros + self.negative.total + self.positive.total

    @property
    def signed(self) -> bool:
        """True where a value below zero was seen."""
        return self.min < 0

    @property
    def max_magnitude(self) -> float:
        """The largest ``|x|``, exact."""
        return max(-self.min, self.max)

    @property
    def limit(self) -> float:
        """The edge of the grid at or next above the largest ``|x|``; 0 where all is zero."""
        return edge(self.magnitudes.stop - 1) if self.magnitudes.counts.size else 0.0

    def __add__(self, other: TensorHistogram) -> TensorHistogram:
        return TensorHistogram(
            min=min(self.min, other.min),
            max=max(self.max, other.max),
            zeros=self.zeros + other.zeros,
            negative=self.negative + other.negative,
            positive=self.positive + other.positive,
        )

    def uniform(
        self, num_bins: int = DEFAULT_NUM_BINS, *, limit: float | None = None
    ) -> UniformHistogram:
        """The histogram of ``|x|`` over ``num_bins`` equal bins from 0 to ``limit``.

        ``limit`` is by default ``self.limit``, the largest ``|x|`` rounded up to 12 significant
        bits. Near the top a bin of the grid is at most as wide as one of 2048 uniform bins; one
        that straddles an edge is split in proportion, as if its values lay evenly in it. So the
        counts are fractions, none is lost (up to ``limit``), and an empty stretch stays exactly
        zero. Zeros fall in the first bin.

        Example:
            >>> histogram = TensorHistogram.of(np.array([0, 0.5, -1, 2, 4], np.float32))
            >>> histogram.uniform(4).counts  # (0..1], (1..2], (2..3], (3..4]
            array([3., 1., 0., 1.])

        Raises:
            CalibrationError: every value is zero, or fewer than 1 bin.
        """
        top = self.limit if limit is None else limit
        if num_bins < 1 or top <= 0:
            raise CalibrationError(f"no uniform histogram of {num_bins} bins from 0 to {top}")
        width = top / num_bins
        edges = np.arange(1, num_bins + 1, dtype=np.float64) * width
        edges[-1] = top
        kept = self.zeros + self.magnitudes.count_up_to(edges)
        return UniformHistogram(counts=np.diff(kept, prepend=0.0), width=width)

    def signed_uniform(self, num_bins: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The values, sign and all, in equal bins from the smallest to the largest: for a chart.

        A bin holds what lies above its lower and at or below its upper edge, the first one its
        lower edge too. Counts inside a bin of the grid are spread evenly and rounded; none is
        lost. Where all values are equal there is one bin, without width.

        Example:
            >>> histogram = TensorHistogram.of(np.array([0, 0, 0.5, -1, 2, 4, 4], np.float32))
            >>> edges, counts = histogram.signed_uniform(5)
            >>> edges.tolist(), counts.tolist()
            ([-1.0, 0.0, 1.0, 2.0, 3.0, 4.0], [3, 1, 1, 0, 2])

        Returns:
            Edges, float64 (bins + 1,), and counts, int64 (bins,).

        Raises:
            CalibrationError: fewer than 1 bin.
        """
        if num_bins < 1:
            raise CalibrationError(f"no histogram of {num_bins} bins; give 1 or more")
        if self.min == self.max:
            return np.array([self.min, self.max]), np.array([self.total])
        edges = np.linspace(self.min, self.max, num_bins + 1)
        below = self.negative.total - self.negative.count_up_to(np.maximum(-edges, 0.0))
        above = self.positive.count_up_to(np.maximum(edges, 0.0))
        kept = np.rint(np.where(edges < 0, below, self.negative.total + self.zeros + above))
        kept[0], kept[-1] = 0, self.total
        return edges, np.diff(kept).astype(np.int64)

    def share_beyond(self, low: float, high: float) -> float:
        """The share of values below ``low`` or above ``high``, for ``low <= 0 <= high``.

        Exact at the edges of the grid; inside a bin its count is spread evenly.
        """
        beyond = 0.0
        for limit, extreme, window in (
            (-low, -self.min, self.negative),
            (high, self.max, self.positive),
        ):
            if extreme > limit:
                beyond += window.total - float(window.count_up_to(np.array([limit]))[0])
        return beyond / self.total

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The histogram as named arrays, to store or to send to another process."""
        return {
            "extremes": np.array([self.min, self.max], np.float64),
            "sizes": np.array([self.zeros, self.negative.start, self.positive.start], np.int64),
            "negative": self.negative.counts,
            "positive": self.positive.counts,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> TensorHistogram:
        """Read back what ``to_arrays`` gave.

        Raises:
            CalibrationError: an array is missing or does not fit the others.
        """
        try:
            low, high = (float(value) for value in arrays["extremes"])
            zeros, negative, positive = (int(value) for value in arrays["sizes"])
            return cls(
                min=low,
                max=high,
                zeros=zeros,
                negative=BinWindow(start=negative, counts=arrays["negative"]),
                positive=BinWindow(start=positive, counts=arrays["positive"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"not a stored histogram ({error})") from error


def sum_histograms(histograms: Iterable[TensorHistogram]) -> TensorHistogram:
    """One histogram of all values: the histogram of a Concat is the sum of its inputs'.

    Raises:
        CalibrationError: no histograms.
    """
    parts = list(histograms)
    if not parts:
        raise CalibrationError("no histograms to add; give at least one")
    return reduce(TensorHistogram.__add__, parts)


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
