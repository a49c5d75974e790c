"""Where a packaged model's input contract is kept: with the caller, or in the model."""

from __future__ import annotations

from enum import Enum


class Preprocessing(str, Enum):
    """Which models a package holds, by the command-line words.

    Attributes:
        OUTSIDE: those that take normalised tensors; the caller does the preprocessing.
        INSIDE: those that take 8-bit RGB images.
        BOTH: one of each kind.
    """

    OUTSIDE = "outside"
    INSIDE = "inside"
    BOTH = "both"

    @property
    def outside(self) -> bool:
        """Whether models that take tensors are wanted."""
        return self is not Preprocessing.INSIDE

    @property
    def inside(self) -> bool:
        """Whether models that take images are wanted."""
        return self is not Preprocessing.OUTSIDE
