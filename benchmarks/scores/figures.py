"""One figure of each image of a set, in 8 bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound="float | None")


class Figures(Sequence[T]):
    """As a tuple of numbers, each made when it is asked for: an object of Python takes 32 bytes.

    Example:
        >>> distances = Figures(np.array([2.0, np.nan, 4.0]))
        >>> distances, distances[1] is None, distances == (2.0, None, 4.0)
        (Figures(2.0, None, 4.0), True, True)
        >>> Figures(np.array([3, 4]))[-1]
        4

    Args:
        values: float64 or int64 (N,); NaN where an image has no figure.
    """

    __slots__ = ("array",)

    def __init__(self, values: NDArray[np.float64] | NDArray[np.int64]) -> None:
        self.array = values.copy()
        self.array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, place: int) -> T: ...

    @overload
    def __getitem__(self, place: slice) -> Figures[T]: ...

    def __getitem__(self, place: int | slice) -> T | Figures[T]:
        if isinstance(place, slice):
            return Figures(self.array[place])
        return cast("T", _plain(self.array[place].item()))

    def __iter__(self) -> Iterator[T]:
        return (cast("T", _plain(value.item())) for value in self.array)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Figures):
            return bool(np.array_equal(self.array, other.array, equal_nan=True))
        if not isinstance(other, (tuple, list)):
            return NotImplemented
        return len(self) == len(other) and all(
            one == another for one, another in zip(self, other, strict=True)
        )

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Figures({', '.join(map(repr, self))})"


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
