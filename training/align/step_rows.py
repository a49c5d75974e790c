"""What a comparison of two dumps found, as values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from segdeploy.training.align.dump import Step
from segdeploy.training.align.tolerance import Difference, Tolerance


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
