"""What could stand elsewhere: every departure from a target's rule that this network allows.

Choices of one pattern are tried together first, so a pattern is named by what makes its sites alike
on a device: the departure and the operator it is about.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import prod

import onnx

from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.onnx_model.graph import GraphIndex, attributes
from segdeploy.deploy.onnx_model.shapes import float_tensors
from segdeploy.deploy.quantize.activations import quantized_nodes
from segdeploy.deploy.quantize.operators import (
    Carries,
    activation_inputs,
    carries,
    is_layer,
    operator_of,
)
from segdeploy.deploy.quantize.qdq_placement import QdqPlacement
from segdeploy.deploy.quantize.to_int8 import activation_params, passed_integers
from segdeploy.deploy.targets.profiles import TargetProfile


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One departure at one place.

    Attributes:
        pattern: what it is, in words that fit any network.
        change: the departure.
        elements: values of the tensor it is about, of one image; more of them are worth more.
    """

    pattern: str
    change: QdqPlacement
    elements: int


def choices(
    model: onnx.ModelProto,
    table: CalibrationTable,
    profile: TargetProfile,
    exclude: Collection[str] = (),
) -> tuple[Choice, ...]:
    """Every choice a network offers, in graph order.

    Args:
        model: the float model that was calibrated, nodes in topological order.
        table: its ranges; a tensor without one cannot be rounded.
        profile: the target, whose rule they depart from.
        exclude: nodes that stay in float whatever is found.
    """
    index = GraphIndex(model.graph)
    nodes = quantized_nodes(model, kernels=profile.kernels, exclude=exclude)
    found = _Found(model, table, profile, exclude, index, nodes)
    return (*found.scales(), *found.pairs(), *found.in_float(), *found.rounded())


class _Found:
    """The choices of one network, kind by kind."""

    def __init__(
        self,
        model: onnx.ModelProto,
        table: CalibrationTable,
        profile: TargetProfile,
        exclude: Collection[str],
        index: GraphIndex,
        nodes: tuple[onnx.NodeProto, ...],
    ) -> None:
        self.table, self.index, self.nodes = table, index, nodes
        self.floats = float_tensors(model)
        self.params = activation_params(model, table, profile, exclude)
        self.passed = passed_integers(model.graph, nodes, self.params, profile.kernels)
        self.elements = _elements(model)

    def scales(self) -> Iterator[Choice]:
        """Concats and Adds: one scale, or their own."""
        for node in self.nodes:
            if node.op_type not in ("Add", "Concat") or node.output[0] not in self.params:
                continue
            data = [self.params[n] for n in activation_inputs(node) if n in self.params]
            shared = [params == self.params[node.output[0]] for params in data]
            if node.op_type == "Concat" and any(shared):
                yield self._of(node, "own_scales", (node.name,))
            if not all(shared):
                yield self._of(node, "one_scale", (node.name,))

    def pairs(self) -> Iterator[Choice]:
        """A second pair behind what passes integers on, or none."""
        for node in self.nodes:
            moves = node.op_type == "Concat" or carries(node, self.index) is not Carries.NOTHING
            if not moves or attributes(node).get("mode") == "linear":
                continue
            outputs = [name for name in node.output if name in self.params]
            for field, kept in (("paired", True), ("unpaired", False)):
                names = tuple(name for name in outputs if (name in self.passed) is kept)
                if names:
                    yield self._of(node, field, names)

    def in_float(self) -> Iterator[Choice]:
        """Nodes that need not be int8: what lies between layers, the first and the last layer."""
        ends = _leading_out(self.index)
        for node in self.nodes:
            operator = node.op_type
            if is_layer(node):
                if not ends.isdisjoint(node.output):
                    operator = "last layer"
                elif not set(self.index.inputs).isdisjoint(node.input):
                    operator = "first layer"
                elif operator == "Conv" and attributes(node).get("group", 1) > 1:
                    operator = "grouped Conv"
                elif operator == "Conv":
                    continue
            yield self._of(node, "in_float", (node.name,), operator)

    def rounded(self) -> Iterator[Choice]:
        """Tensors between an int8 layer and something that computes in float."""
        made = {name for node in self.nodes for name in node.output}
        for name in self.index.tensors:
            known = name in self.table.ranges and name in self.floats and name not in self.params
            readers = self.index.readers.get(name, [])
            if not known or not readers or name in self.index.outputs:
                continue
            node = self.index.producer.get(name)
            if node is None or made.isdisjoint({name, *node.input}):
                continue
            yield self._of(node, "rounded", (name,), f"before {readers[0].op_type}")

    def _of(
        self, node: onnx.NodeProto, field: str, names: tuple[str, ...], operator: str | None = None
    ) -> Choice:
        return Choice(
            pattern=f"{field} {operator or node.op_type}",
            change=QdqPlacement(**{field: names}),
            elements=self.elements.get(node.output[0], 0),
        )


def _leading_out(index: GraphIndex) -> frozenset[str]:
    """Tensors from which the graph's outputs follow without another layer."""
    found = set(index.outputs)
    for node in reversed(index.graph.node):
        if not is_layer(node) and not found.isdisjoint(node.output):
            places = operator_of(node).activations
            found.update(node.input if places is None else activation_inputs(node))
    return frozenset(found)


def _elements(model: onnx.ModelProto) -> dict[str, int]:
    """Values of each tensor, as far as shapes tell; an axis of any length counts once."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: prod(axis.dim_value or 1 for axis in value.type.tensor_type.shape.dim)
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
