"""Compare the loss curves of two trainings, on absolute differences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.system.errors import InputError
from segdeploy.training.align.history import Curve

MAX_RELATIVE = 0.05
MAX_ABSOLUTE = 0.0002
"""A curve follows another when either mean error is at most this."""


@dataclass(frozen=True, kw_only=True)
class CurveAlignment:
    """Two curves at the same positions, the first taken as right.

    Example:
        The second curve swings around the first, so that the signed differences cancel:

        >>> def curve(*values):
        ...     return Curve(source="a", column="train_loss", key="epoch",
        ...                  positions=tuple(range(len(values))), values=values)
        >>> found = CurveAlignment(reference=curve(1.0, 1.0), candidate=curve(1.2, 0.8))
        >>> round(found.mean_signed, 9), round(found.mean_absolute, 9), found.passed
        (0.0, 0.2, False)

    Attributes:
        reference: the first curve.
        candidate: the second, at the same positions.
        max_relative: largest mean relative error that passes.
        max_absolute: largest mean absolute error that passes; either is enough.
        left_out: positions that only one of the runs has.
    """

    reference: Curve
    candidate: Curve
    max_relative: float = MAX_RELATIVE
    max_absolute: float = MAX_ABSOLUTE
    left_out: int = 0

    @property
    def mean_relative(self) -> float:
        """Mean of |difference| / |reference|; infinite where only the reference is 0."""
        wanted = np.abs(np.asarray(self.reference.values))
        gap = np.abs(self._gaps())
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.where(gap == 0, 0.0, gap / wanted).mean())

    @property
    def mean_absolute(self) -> float:
        """Mean of |difference|."""
        return float(np.abs(self._gaps()).mean())

    @property
    def mean_signed(self) -> float:
        """Mean of candidate minus reference: shown, and never judged by."""
        return float(self._gaps().mean())

    @property
    def largest(self) -> tuple[float, float]:
        """Position and size of the largest absolute difference."""
        gap = np.abs(self._gaps())
        worst = int(gap.argmax())
        return self.reference.positions[worst], float(gap[worst])

    @property
    def passed(self) -> bool:
        """Whether either mean error is within its limit."""
        return self.mean_relative <= self.max_relative or self.mean_absolute <= self.max_absolute

    def as_json(self) -> dict[str, Any]:
        """Everything, for ``--format json``."""
        position, gap = self.largest
        relative = self.mean_relative
        return {
            "reference": self.reference.source,
            "candidate": self.candidate.source,
            "column": self.reference.column,
            "key": self.reference.key,
            "positions": len(self.reference.positions),
            "left_out": self.left_out,
            "mean_relative": relative if math.isfinite(relative) else None,
            "mean_absolute": self.mean_absolute,
            "mean_signed": self.mean_signed,
            "largest": {"position": position, "absolute": gap},
            "max_relative": self.max_relative,
            "max_absolute": self.max_absolute,
            "passed": self.passed,
        }

    def _gaps(self) -> NDArray[np.float64]:
        gaps: NDArray[np.float64] = np.subtract(self.candidate.values, self.reference.values)
        return gaps


def align_curves(
    reference: Curve,
    candidate: Curve,
    *,
    max_relative: float = MAX_RELATIVE,
    max_absolute: float = MAX_ABSOLUTE,
    common: bool = False,
) -> CurveAlignment:
    """Set two curves side by side.

    Args:
        reference: taken as right.
        candidate: of the same column and key.
        max_relative: largest mean relative error that passes.
        max_absolute: largest mean absolute error that passes.
        common: compare the positions that both have, instead of refusing runs that differ in them.

    Raises:
        InputError: curves of other keys, of other positions, or without any in common.
    """
    if reference.key != candidate.key:
        raise InputError(
            f"{reference.source} counts by {reference.key}, {candidate.source} by {candidate.key}; "
            "expected the same"
        )
    every = {*reference.positions, *candidate.positions}
    both = tuple(sorted({*reference.positions} & {*candidate.positions}))
    if not both or (len(both) < len(every) and not common):
        raise InputError(
            f"{reference.source} has {len(reference.positions)} rows by {reference.key} and "
            f"{candidate.source} {len(candidate.positions)}, {len(both)} in common; compare runs "
            "of the same length, or those in common with --common"
        )
    return CurveAlignment(
        reference=reference.at(both),
        candidate=candidate.at(both),
        max_relative=max_relative,
        max_absolute=max_absolute,
        left_out=len(every) - len(both),
    )
