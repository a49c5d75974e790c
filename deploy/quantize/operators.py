"""One table: what each operator reads, which of its constants is a weight, and what it keeps.

Facts about ONNX operators, the same on every device. What a device computes on integers is in
``deploy.targets.kernels``. Nothing else in this project lists operators to quantize.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from segdeploy.deploy.onnx_model.graph import GraphIndex, attributes

T = TypeVar("T", bound=np.generic)


class Carries(Enum):
    """What an operator's outputs hold of its first input's values."""

    NOTHING = "values of its own"
    SOME = "values of the input, or zero, some more often than others"
    ALL = "the values of the input, each as often as any other"


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One ONNX operator.

    Attributes:
        activations: places of the inputs that hold data; ``None`` for all of them.
        weight: place of the weight; ``None`` where it has none.
        bias: place of the bias.
        carries: whether outputs never leave the range of the first input, and so keep its scale.
    """

    activations: tuple[int, ...] | None = (0,)
    weight: int | None = None
    bias: int | None = None
    carries: Carries = Carries.NOTHING


_LAYER = Operator(weight=1, bias=2)
_JOIN = Operator(activations=None)
_SAME, _PART = Operator(carries=Carries.ALL), Operator(carries=Carries.SOME)

OPERATORS: Mapping[str, Operator] = {
    "Conv": _LAYER,
    "ConvTranspose": _LAYER,
    "Gemm": _LAYER,
    "MatMul": Operator(weight=1),
    "Add": _JOIN,
    "Concat": _JOIN,
    "Mul": _JOIN,
    "DepthToSpace": _SAME,
    "Flatten": _SAME,
    "Identity": _SAME,
    "Reshape": _SAME,
    "SpaceToDepth": _SAME,
    "Squeeze": _SAME,
    "Transpose": _SAME,
    "Unsqueeze": _SAME,
    "MaxPool": _SAME,
    "Resize": _SAME,
    "Gather": _PART,
    "Pad": _PART,
    "Slice": _PART,
    "Split": _PART,
}
"""By type. An operator that is not here reads data in its first input alone and keeps nothing.

MaxPool is taken to weaken no value's share; how often a Resize repeats one is told by its sizes. An
average stays in the range of what it averages, but seldom fills it: it has a scale of its own.
"""

_OTHER = Operator()

_SAME_SIZE = ("SAME_UPPER", "SAME_LOWER")
"""What pads on its own."""


@dataclass(frozen=True, kw_only=True)
class LayerWeight:
    """The constant that a layer multiplies its input by.

    Attributes:
        place: among the node's inputs.
        bias: place of the bias among them; ``None`` where the node has none.
        axis: of the stored tensor along which its scales lie.
        groups: output channels that share a scale: a ConvTranspose stores them as (I, O / groups,
            ...), so channel o and channel o + O / groups lie at one place of the axis.
    """

    place: int
    bias: int | None
    axis: int
    groups: int = 1

    def rows(self, stored: NDArray[T]) -> NDArray[T]:
        """The weight as (O, inputs of one output channel, ...), output channels in order.

        Example:
            >>> weight = LayerWeight(place=1, bias=None, axis=1, groups=2)  # ConvTranspose
            >>> stored = np.arange(8).reshape(4, 2)  # 4 inputs, 2 outputs a group
            >>> weight.rows(stored)  # each of 4 outputs reads 2 inputs
            array([[0, 2],
                   [1, 3],
                   [4, 6],
                   [5, 7]])
        """
        if self.axis == 0:
            return stored
        inputs, outputs, *kernel = stored.shape
        grouped = stored.reshape(self.groups, inputs // self.groups, outputs, *kernel)
        shape = (self.groups * outputs, inputs // self.groups, *kernel)
        return np.asarray(grouped.swapaxes(1, 2).reshape(shape))

    def stored(self, rows: NDArray[T]) -> NDArray[T]:
        """What ``rows`` gave, in the form it is stored in."""
        if self.axis == 0:
            return rows
        outputs, inputs, *kernel = rows.shape
        grouped = rows.reshape(self.groups, outputs // self.groups, inputs, *kernel)
        shape = (self.groups * inputs, outputs // self.groups, *kernel)
        return np.asarray(grouped.swapaxes(1, 2).reshape(shape))

    def of_rows(self, scales: NDArray[T]) -> NDArray[T]:
        """Scales along the stored axis, repeated for every output channel."""
        return np.tile(scales, self.groups)

    def along_axis(self, of_rows: NDArray[T]) -> NDArray[T]:
        """The largest of what output channels need that share a place of the stored axis."""
        return np.asarray(of_rows.reshape(self.groups, -1).max(axis=0))


def operator_of(node: onnx.NodeProto) -> Operator:
    """A node's row of the table."""
    return OPERATORS.get(node.op_type, _OTHER) if _standard(node) else _OTHER


def is_layer(node: onnx.NodeProto) -> bool:
    """Whether a node multiplies its input by a weight."""
    return operator_of(node).weight is not None


def activation_inputs(node: onnx.NodeProto) -> list[str]:
    """A node's data inputs, without weights, biases, scales and sizes."""
    places = operator_of(node).activations
    if places is None:
        return list(node.input)
    return [node.input[place] for place in places if place < len(node.input)]


def layer_weight(node: onnx.NodeProto) -> LayerWeight | None:
    """A layer's weight and bias; ``None`` for other nodes, and for forms that are no plain product.

    A Gemm that transposes or scales its input, scales its product or scales its bias is none.
    """
    operator, said = operator_of(node), attributes(node)
    if operator.weight is None or len(node.input) <= operator.weight:
        return None
    place, bias = operator.weight, operator.bias
    if bias is not None and (len(node.input) <= bias or not node.input[bias]):
        bias = None
    axis, groups = 0, 1
    if node.op_type == "ConvTranspose":
        axis, groups = 1, int(said.get("group", 1))
    elif node.op_type == "MatMul":
        axis = 1
    elif node.op_type == "Gemm":
        if said.get("transA", 0) or said.get("alpha", 1.0) != 1 or said.get("beta", 1.0) != 1:
            return None
        axis = 0 if said.get("transB", 0) else 1
    return LayerWeight(place=place, bias=bias, axis=axis, groups=groups)


def carries(node: onnx.NodeProto, index: GraphIndex) -> Carries:
    """What a node's outputs hold of its first input.

    A cubic Resize overshoots, one that crops may fill with a value of its own, and so may a Pad.

    Args:
        node: any.
        index: of its graph, for what a Pad fills with.
    """
    said = attributes(node)
    found = operator_of(node).carries
    if node.op_type == "Resize":
        cropped = said.get("coordinate_transformation_mode") == "tf_crop_and_resize"
        if cropped or said.get("mode", "nearest") not in ("linear", "nearest"):
            return Carries.NOTHING
    if node.op_type == "Pad" and said.get("mode", "constant") == "constant":
        filled = node.input[2] if len(node.input) > 2 else ""
        value = index.constant(filled)
        if filled and (value is None or value.size != 1 or value.item() != 0):
            return Carries.NOTHING
    return found


def counts_padding(node: onnx.NodeProto, index: GraphIndex) -> bool:
    """Whether a node averages padding beside values: its own, or that of a Pad in front of it."""
    if node.op_type != "AveragePool":
        return False
    said = attributes(node)
    padded = any(said.get("pads", ())) or said.get("auto_pad", "NOTSET") in _SAME_SIZE
    counted = padded and bool(said.get("count_include_pad", 0))
    return counted or index.made_by(node.input[0], "Pad") is not None


def _standard(node: onnx.NodeProto) -> bool:
    return node.domain in ("", "ai.onnx")
