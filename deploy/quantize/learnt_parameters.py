"""Weights and biases of an int8 model that were learnt, in place of those its float file gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from segdeploy.deploy.onnx_model.graph import GraphIndex
from segdeploy.deploy.quantize.operators import operator_of
from segdeploy.deploy.system.errors import InputError, one_line

METADATA_KEY = "learnt"
"""Under which an int8 file says how its parameters were learnt."""


@dataclass(frozen=True, kw_only=True)
class LearntParameters:
    """What departs from rounding the float file's own weights and biases.

    Scales stay those of the float file: integers that were learnt are steps of them.

    Attributes:
        weights: initializer name to int8, of the initializer's shape.
        biases: node name to float32 (output channels,), which replaces the node's bias or gives
            it one; the writer rounds it to int32.
        provenance: how they were learnt, JSON or words, for the int8 file's metadata.
    """

    weights: Mapping[str, NDArray[np.int8]] = field(default_factory=dict)
    biases: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    provenance: str = ""

    def require_fits(self, graph: onnx.GraphProto, *, largest: int) -> None:
        """Refuse parameters of another model, or of another target's integers.

        Args:
            graph: the float graph.
            largest: magnitude of a weight's integers, 127, or 64 of 7 bits.

        Raises:
            InputError: a name that the graph lacks, another shape or type, a bias on a node that
                takes none, or a value out of range.
        """
        index, nodes = GraphIndex(graph), {node.name: node for node in graph.node}
        for name, integers in self.weights.items():
            shape = tuple(index.constants[name].dims) if name in index.constants else None
            if shape != integers.shape or integers.dtype != np.int8:
                raise _misfit(name, f"{integers.dtype} {integers.shape}", f"int8 {shape}")
            if integers.size and int(np.abs(integers.astype(np.int16)).max()) > largest:
                raise _misfit(name, "larger integers", f"at most {largest} for this target")
        for name, bias in self.biases.items():
            takes = name in nodes and operator_of(nodes[name]).bias is not None
            if not takes or bias.dtype != np.float32 or bias.ndim != 1:
                wanted = "a float32 vector" if takes else "none: no such layer takes a bias"
                raise _misfit(name, f"a bias, {bias.dtype} {bias.shape}", wanted)
            if not np.isfinite(bias).all():
                raise _misfit(name, "a bias with NaN or Inf", "finite values")


def _misfit(name: str, found: str, expected: str) -> InputError:
    return InputError(
        f"learnt parameters of {one_line(name, limit=80)!r}: found {found}, expected {expected}; "
        "learn them for this model and target"
    )
