"""Compare two dumps step by step, and name the first step and tensor that depart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.system.errors import InputError
from segdeploy.training.align.dump import Dump, Step, Tensors
from segdeploy.training.align.tolerance import Difference, Tolerance, difference


@dataclass(frozen=True, kw_only=True)
class TensorRow:
    """One tensor in both dumps.

    Attributes:
        name: in the dumps.
        difference: from the reference; in an update, without what the gradients explain.
        allowed: the largest absolute difference that passes.
    """

    name: str
    difference: Difference
    allowed: float

    @property
    def departs(self) -> bool:
        """Whether it is further from the reference than allowed."""
        return not self.difference.max_abs <= self.allowed  # also what is not finite

    @property
    def noise(self) -> bool:
        """Whether the whole reference tensor is smaller than what is allowed: nothing to tell."""
        return 0 < self.difference.reference_max <= self.allowed


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """One step: its tensors in the order they are computed, at least one."""

    step: Step
    tensors: tuple[TensorRow, ...]
    tolerance: Tolerance

    @property
    def difference(self) -> Difference:
        """All tensors as one."""
        return reduce(add, (row.difference for row in self.tensors))

    @property
    def first_departure(self) -> TensorRow | None:
        """The first tensor that departs."""
        return next((row for row in self.tensors if row.departs), None)

    @property
    def passed(self) -> bool:
        """True when no tensor departs."""
        return self.first_departure is None

    def as_json(self) -> dict[str, Any]:
        """Everything, for ``--format json``."""
        first = self.first_departure
        return {
            "step": self.step.value,
            "tolerance": self.tolerance.words,
            **self.difference.as_json(),
            "passed": self.passed,
            "first_departure": first.name if first else None,
            "noise_tensors": sum(row.noise for row in self.tensors),
            "tensors": [
                {
                    "name": row.name,
                    **row.difference.as_json(),
                    "allowed": row.allowed,
                    "departs": row.departs,
                }
                for row in self.tensors
            ],
        }


TOLERANCES: Mapping[Step, Tolerance] = {
    Step.INPUTS: Tolerance(),
    Step.FORWARD: Tolerance(relative=5e-5),
    Step.METRIC: Tolerance(absolute=0.1),
    Step.LOSS: Tolerance(relative=1e-5),
    Step.BACKWARD: Tolerance(relative=5e-3, floor=5e-5),
    Step.UPDATE: Tolerance(relative=1e-5),
    Step.TRAINING: Tolerance(relative=1e-2),
}
"""Defaults, with margin over what oneDNN, plain kernels, layouts and threads of one CPU differ by.

The metric's is in percentage points of IoU. The update's grows by ``UPDATE_SHARE`` of AdamW's step.
"""

UPDATE_SHARE = 0.001
"""Share of the learning rate by which a weight may be off after AdamW's first step."""

EPSILON = 1e-8
"""AdamW's, as the dump's format states it."""


def compare_dumps(
    reference: Dump, candidate: Dump, *, tolerances: Mapping[Step, Tolerance] = TOLERANCES
) -> tuple[StepRow, ...]:
    """Compare every tensor of two dumps.

    Args:
        reference: taken as right; tolerances are shares of its magnitudes.
        candidate: with the same settings and tensors.
        tolerances: for each step.

    Returns:
        One row for each step that the dumps hold, in the order of ``Step``.

    Raises:
        InputError: settings that contradict each other, a tensor in only one of them, or shapes
            that differ.
    """
    _require_same_settings(reference, candidate)
    _require_same_tensors(reference, candidate)
    rows = []
    for step in Step:
        tensors, tolerance = candidate.of(step), tolerances[step]
        if step is Step.UPDATE and tensors:
            rate = _learning_rate(reference)
            tolerance = replace(tolerance, absolute=tolerance.absolute + UPDATE_SHARE * rate)
            tensors = {
                name: tensor + _explained(name, reference, candidate, rate=rate)
                for name, tensor in tensors.items()
            }
        if tensors:
            rows.append(_step_row(step, reference.of(step), tensors, tolerance))
    return tuple(rows)


def _step_row(step: Step, reference: Tensors, candidate: Tensors, tolerance: Tolerance) -> StepRow:
    """Every tensor of a step, in the reference's order."""
    found = {name: difference(tensor, candidate[name]) for name, tensor in reference.items()}
    largest = max(each.reference_max for each in found.values())
    return StepRow(
        step=step,
        tensors=tuple(
            TensorRow(
                name=name,
                difference=each,
                allowed=tolerance.allowed(each.reference_max, step_max=largest),
            )
            for name, each in found.items()
        ),
        tolerance=tolerance,
    )


def _explained(
    name: str, reference: Dump, candidate: Dump, *, rate: float
) -> NDArray[np.float64] | float:
    """How far an updated parameter is apart because the gradients already were.

    AdamW's first step is ``-rate * g / (|g| + epsilon)``: its size is the same for every gradient
    well above epsilon, so where rounding turns the sign of one, the parameter moves the other way.
    The gradients are judged by themselves; what is left is the update's own.

    Returns:
        To be added to the candidate; 0 for what has no gradient.
    """
    gradient = f"{Step.BACKWARD.value}/{name.partition('/')[2]}"
    if gradient not in reference.tensors:
        return 0.0
    return rate * (
        first_step(candidate.tensors[gradient]) - first_step(reference.tensors[gradient])
    )


def first_step(gradient: NDArray[Any]) -> NDArray[np.float64]:
    """AdamW's first step against a gradient, in learning rates.

    Example:
        >>> first_step(np.array([5.0, -5.0, 1e-8, 0.0])).round(3)
        array([ 1. , -1. ,  0.5,  0. ])
    """
    exact = gradient.astype(np.float64)
    with np.errstate(invalid="ignore"):  # of an infinite gradient: no number, which departs
        step: NDArray[np.float64] = exact / (np.abs(exact) + EPSILON)
    return step


def _learning_rate(reference: Dump) -> float:
    rate = reference.settings.get("learning_rate")
    if not isinstance(rate, int | float) or not rate > 0:
        raise InputError(
            f"{reference.source} holds an update but states no learning_rate in its settings, "
            f"which tolerances are shares of; found {rate!r}"
        )
    return float(rate)


def _require_same_settings(reference: Dump, candidate: Dump) -> None:
    differing = [
        f"{key}: {reference.settings[key]!r} and {candidate.settings[key]!r}"
        for key in sorted({*reference.settings} & {*candidate.settings})
        if reference.settings[key] != candidate.settings[key]
    ]
    if differing:
        raise InputError(
            f"{reference.source} and {candidate.source} were dumped with other settings "
            f"({'; '.join(differing)}); dump both with the same"
        )


def _require_same_tensors(reference: Dump, candidate: Dump) -> None:
    for one, other in ((reference, candidate), (candidate, reference)):
        missing = [name for name in one.tensors if name not in other.tensors]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise InputError(
                f"{other.source} lacks {', '.join(missing[:3])}{more}, which {one.source} holds; "
                "both must hold the same tensors"
            )
    for name, tensor in reference.tensors.items():
        if tensor.shape != candidate.tensors[name].shape or not tensor.size:
            raise InputError(
                f"tensor {name} is {tensor.shape} in {reference.source} and "
                f"{candidate.tensors[name].shape} in {candidate.source}; expected the same shape, "
                "not empty"
            )
