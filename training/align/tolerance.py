"""How far two tensors are apart, and how far they may be: the measure of every alignment check.

Absolute differences only. Signed ones cancel, so that a mean of 0 may hide any drift.

The checks: ``align_layers`` (a network against its ONNX file, layer by layer), ``align_steps`` and
``align_compare`` (two implementations or devices, from the inputs to a short training), and
``align_curves`` (two long trainings).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.system.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What is kept of a reference and a candidate; adding two gives that of both tensors as one.

    A value that is NaN or infinite on either side counts as infinitely far.

    Attributes:
        count: values compared.
        max_abs: largest absolute difference.
        sum_abs: sum of the absolute differences.
        sum_squares: sum of the squared differences.
        reference_max: largest magnitude of the reference.
        reference_squares: sum of the squared reference.
    """

    count: int
    max_abs: float
    sum_abs: float
    sum_squares: float
    reference_max: float
    reference_squares: float

    @property
    def mean_abs(self) -> float:
        """Mean absolute difference; 0 of nothing."""
        return self.sum_abs / self.count if self.count else 0.0

    @property
    def relative(self) -> float:
        """Largest absolute difference in units of the reference's largest magnitude."""
        return _ratio(self.max_abs, self.reference_max)

    @property
    def relative_rms(self) -> float:
        """Root of the squared difference over the squared reference."""
        return math.sqrt(_ratio(self.sum_squares, self.reference_squares))

    @property
    def sqnr_db(self) -> float:
        """Signal to noise, dB: -20 log10 of ``relative_rms``; infinite for equal tensors."""
        noise = self.relative_rms
        return -20 * math.log10(noise) if noise else math.inf

    def __add__(self, other: Difference) -> Difference:
        return Difference(
            count=self.count + other.count,
            max_abs=max(self.max_abs, other.max_abs),
            sum_abs=self.sum_abs + other.sum_abs,
            sum_squares=self.sum_squares + other.sum_squares,
            reference_max=max(self.reference_max, other.reference_max),
            reference_squares=self.reference_squares + other.reference_squares,
        )

    def as_json(self) -> dict[str, float | int | None]:
        """Figures for a report; what is not finite is ``None``."""
        return {
            "values": self.count,
            "max_abs": finite(self.max_abs),
            "mean_abs": finite(self.mean_abs),
            "relative": finite(self.relative),
            "relative_rms": finite(self.relative_rms),
            "sqnr_db": finite(self.sqnr_db),
            "reference_max": finite(self.reference_max),
        }


NOTHING = Difference(
    count=0, max_abs=0.0, sum_abs=0.0, sum_squares=0.0, reference_max=0.0, reference_squares=0.0
)
"""The difference of no values: adding it changes nothing."""


def difference(reference: NDArray[Any], candidate: NDArray[Any]) -> Difference:
    """Compare two tensors, in float64.

    Example:
        >>> found = difference(np.array([1.0, -2.0, 4.0]), np.array([1.5, -2.5, 4.0]))
        >>> found.max_abs, round(found.mean_abs, 3), found.relative  # signed, the mean would be 0
        (0.5, 0.333, 0.125)
        >>> round(found.sqnr_db, 2)  # 10 log10(21 / 0.5)
        16.23

    Args:
        reference: any shape, not empty.
        candidate: the same shape.

    Raises:
        InputError: shapes that differ, or nothing to compare.
    """
    if reference.shape != candidate.shape or not reference.size:
        raise InputError(
            f"the reference has shape {reference.shape}, the candidate {candidate.shape}; "
            "expected the same, not empty"
        )
    wanted = reference.astype(np.float64, copy=False)
    found = candidate.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore"):  # infinity minus infinity, which counts as far below
        gap = np.abs(wanted - found)
    gap = np.where(np.isfinite(gap), gap, np.inf)
    wanted = np.where(np.isfinite(wanted), wanted, 0.0)  # its magnitudes are those that count
    return Difference(
        count=gap.size,
        max_abs=float(gap.max()),
        sum_abs=float(gap.sum()),
        sum_squares=float(np.square(gap).sum()),
        reference_max=float(np.abs(wanted).max()),
        reference_squares=float(np.square(wanted).sum()),
    )


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far a tensor's largest absolute difference may go: a sum of three parts.

    Attributes:
        relative: share of the largest magnitude of the reference tensor.
        floor: share of the largest magnitude among all reference tensors of the step. What lies
            below is rounding noise, such as the gradient of a bias that BatchNorm cancels.
        absolute: in the tensor's own unit.

    Example:
        A gradient tensor that reaches 0.2 in a network whose largest gradient is 4:

        >>> round(Tolerance(relative=0.01, floor=1e-4).allowed(0.2, step_max=4.0), 6)
        0.0024

    Raises:
        InputError: a part that is negative or no number.
    """

    relative: float = 0.0
    floor: float = 0.0
    absolute: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= part < math.inf for part in (self.relative, self.floor, self.absolute)):
            raise InputError(f"{self}: expected parts of 0 or more")

    def allowed(self, reference_max: float, *, step_max: float | None = None) -> float:
        """The largest absolute difference that passes.

        Args:
            reference_max: largest magnitude of the reference tensor.
            step_max: that of all tensors of the step; ``None`` takes this tensor's.
        """
        largest = reference_max if step_max is None else step_max
        return self.relative * reference_max + self.floor * largest + self.absolute

    @property
    def words(self) -> str:
        """For a table, e.g. ``0.005 of the tensor's maximum + 5e-05 of the step's``."""
        parts = [
            (self.relative, "{:g} of the tensor's maximum"),
            (self.floor, "{:g} of the step's"),
            (self.absolute, "{:g}"),
        ]
        return " + ".join(text.format(value) for value, text in parts if value) or "equal"


def finite(value: float) -> float | None:
    """A number as JSON has it; ``None`` for one that is not finite."""
    return value if math.isfinite(value) else None


def _ratio(part: float, whole: float) -> float:
    """``part / whole``; of nothing, nothing is 0 and anything is infinite."""
    if whole == 0:
        return 0.0 if part == 0 else math.inf
    return part / whole if math.isfinite(part) and math.isfinite(whole) else math.inf
