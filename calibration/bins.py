"""A fixed grid of magnitudes, the same for every tensor, taken from the float32 pattern itself.

The 8 exponent bits and the leading 11 mantissa bits of a float32 name its bin: 2048 bins in each
octave, each closed at its upper end, each at most 2**-11 (0.05 %) of its value wide. Nothing has
to be known about the data beforehand, so counts from any two parts of it add up exactly.
Magnitudes up to ``TINY``, subnormals included, share one slot with zero: in a tensor that reaches
2e-9 or more they would all fall in the first of 2048 uniform bins anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segdeploy.calibration.errors import CalibrationError

MANTISSA_BITS = 11
BINS_PER_OCTAVE = 1 << MANTISSA_BITS
TINY_EXPONENT = -40
TINY = 2.0**TINY_EXPONENT
"""Magnitudes up to this count as zero (9.1e-13)."""

MAX_BIN = (128 - TINY_EXPONENT) * BINS_PER_OCTAVE
"""The bin of the largest finite float32."""

_SHIFT = 23 - MANTISSA_BITS
_TINY_PATTERN = np.int32((127 + TINY_EXPONENT) << 23)
_BEFORE_TINY = np.int32(_TINY_PATTERN - ((1 << _SHIFT) - 1))
_MAGNITUDE_MASK = np.int32(0x7FFFFFFF)


def bin_of(values: NDArray[np.float32], out: NDArray[np.int32] | None = None) -> NDArray[np.int32]:
    """The bin of every magnitude.

    Example:
        >>> bin_of(np.array([0.0, TINY, 1.0, -1.0, 1.0001], np.float32))
        array([    0,     0, 81920, 81920, 81921], dtype=int32)

        1.0 is 40 octaves of 2048 bins above ``TINY`` and closes its bin; 1.0001 opens the next.

    Args:
        values: finite float32, contiguous, any shape.
        out: int32 of that shape to write to.

    Returns:
        int32, the shape of ``values``: 0 for magnitudes up to ``TINY``, otherwise k in
        1..``MAX_BIN`` where ``edge(k - 1) < |value| <= edge(k)``.
    """
    index: NDArray[np.int32] = np.bitwise_and(values.view(np.int32), _MAGNITUDE_MASK, out=out)
    np.maximum(index, _TINY_PATTERN, out=index)
    index -= _BEFORE_TINY
    index >>= _SHIFT
    return index


def edge(index: int) -> float:
    """The upper end of a bin: ``edge(0)`` is ``TINY``, ``edge(81920)`` is 1.0."""
    octave, step = divmod(index, BINS_PER_OCTAVE)
    return float(2.0 ** (TINY_EXPONENT + octave) * (1.0 + step / BINS_PER_OCTAVE))


def position(magnitudes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where magnitudes lie on the grid; the inverse of ``edge``, linear inside each bin.

    Example:
        >>> position(np.array([TINY, 1.0, 1.0 + 0.5 / 2048]))
        array([    0. , 81920. , 81920.5])

    Args:
        magnitudes: float64, at or above zero; below ``TINY`` the position is 0.
    """
    mantissa, exponent = np.frexp(np.maximum(magnitudes, TINY))
    octave = exponent - 1 - TINY_EXPONENT
    located: NDArray[np.float64] = (octave + (2.0 * mantissa - 1.0)) * BINS_PER_OCTAVE
    return located


@dataclass(frozen=True, kw_only=True, eq=False)
class BinWindow:
    """Counts over the occupied stretch of the grid: the first and last count are not zero.

    Attributes:
        start: the bin of ``counts[0]``; 1 where nothing was counted.
        counts: int64, read-only.
    """

    start: int
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        counts = self.counts
        if counts.dtype != np.int64 or counts.ndim != 1 or (counts < 0).any():
            raise CalibrationError("bin counts must be a vector of int64 at or above zero")
        if not (self.start == 1 if counts.size == 0 else counts[0] > 0 < counts[-1]):
            raise CalibrationError("bin counts must start and end with an occupied bin")
        if not 1 <= self.start <= MAX_BIN + 1 - counts.size:
            raise CalibrationError(f"bins start at {self.start}, outside 1..{MAX_BIN}")
        counts.flags.writeable = False

    @classmethod
    def of_dense(cls, counts: NDArray[np.int64]) -> BinWindow:
        """Copy the occupied stretch of ``counts``, where ``counts[k]`` belongs to bin k >= 1."""
        occupied = np.flatnonzero(counts[1:]) + 1
        if occupied.size == 0:
            return cls(start=1, counts=np.zeros(0, np.int64))
        return cls(start=int(occupied[0]), counts=counts[occupied[0] : occupied[-1] + 1].copy())

    @property
    def stop(self) -> int:
        """One past the last occupied bin."""
        return self.start + self.counts.size

    @property
    def total(self) -> int:
        """Values counted."""
        return int(self.counts.sum())

    def __add__(self, other: BinWindow) -> BinWindow:
        if not self.counts.size or not other.counts.size:
            return self if self.counts.size else other
        start, stop = min(self.start, other.start), max(self.stop, other.stop)
        counts = np.zeros(stop - start, np.int64)
        for window in (self, other):
            counts[window.start - start : window.stop - start] += window.counts
        return BinWindow(start=start, counts=counts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BinWindow):
            return NotImplemented
        return self.start == other.start and np.array_equal(self.counts, other.counts)

    def __hash__(self) -> int:
        return hash((self.start, self.counts.tobytes()))

    def count_up_to(self, magnitudes: NDArray[np.float64]) -> NDArray[np.float64]:
        """How many counted magnitudes are at most each given one.

        Exact at the edges of the grid; inside a bin its count is spread evenly.

        Example:
            >>> window = BinWindow(start=81921, counts=np.array([4, 2]))  # just above 1.0
            >>> window.count_up_to(np.array([1.0, 1.0 + 0.5 / 2048, 1.0 + 1 / 2048, 9.0]))
            array([0., 2., 4., 6.])

        Args:
            magnitudes: float64 at or above zero, any order.

        Returns:
            float64 of the same shape, never falling as the magnitude grows.
        """
        offset = np.clip(position(magnitudes) - (self.start - 1), 0, self.counts.size)
        whole = offset.astype(np.intp)
        cumulative = np.concatenate(([0], np.cumsum(self.counts)))
        inside = np.append(self.counts, 0)
        return np.asarray(cumulative[whole] + (offset - whole) * inside[whole], np.float64)
