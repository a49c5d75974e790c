"""What a layer-by-layer check found, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segdeploy.training.align.tolerance import Difference, finite


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One activation, over all images.

    Attributes:
        name: of the tensor.
        operator: that made it, e.g. ``Conv``.
        difference: from the reference.
        tolerance: the largest ``difference.relative`` that passes.
    """

    name: str
    operator: str
    difference: Difference
    tolerance: float

    @property
    def departs(self) -> bool:
        """Whether it is further from the reference than the tolerance."""
        return not self.difference.relative <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class LayerAlignment:
    """One runtime against the reference.

    Attributes:
        reference: its name.
        candidate: file and runtime.
        layers: in the order they are computed, each in the file whose tensors are returned.
        left_out: activations of the file without a counterpart, and why.
        output: of the file as it is, nothing more returned: what is used in production.
        images: how many were run.
    """

    reference: str
    candidate: str
    layers: tuple[Layer, ...]
    left_out: Mapping[str, str]
    output: Layer
    images: int

    @property
    def first_departure(self) -> Layer | None:
        """The first layer that departs. All its inputs agree, so the cause lies in it.

        The file as it is comes last: only there does what fusion changes show.
        """
        return next((layer for layer in (*self.layers, self.output) if layer.departs), None)

    @property
    def departed(self) -> int:
        """How many layers depart; those behind the first usually do so because of it."""
        return sum(layer.departs for layer in self.layers)

    @property
    def passed(self) -> bool:
        """True when nothing departs."""
        return self.first_departure is None

    def as_json(self) -> dict[str, Any]:
        """Everything, for ``--format json``."""
        first = self.first_departure
        return {
            "reference": self.reference,
            "candidate": self.candidate,
            "images": self.images,
            "tolerance": finite(self.output.tolerance),
            "layers": [_row(layer) for layer in self.layers],
            "left_out": dict(self.left_out),
            "unmodified_output": _row(self.output),
            "first_departure": first.name if first else None,
            "departed": self.departed,
            "passed": self.passed,
        }


def _row(layer: Layer) -> dict[str, Any]:
    figures = layer.difference.as_json()
    return {"name": layer.name, "operator": layer.operator, **figures, "departs": layer.departs}
