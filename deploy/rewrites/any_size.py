"""Free height and width: the model takes images of any size that four poolings divide.

Both networks are convolutional, and so is every graph made of them here: only the declared input
and output fix the size. A float graph gives at a new size what the checkpoint gives at that size.
An int8 graph keeps the ranges found at the old one.
"""

from __future__ import annotations

import onnx

from segdeploy.deploy.onnx_model.file import specs_of
from segdeploy.deploy.onnx_model.graph import GraphIndex, Rewritten
from segdeploy.deploy.onnx_model.interface import Interface, interface_of
from segdeploy.deploy.system.errors import InputError

HEIGHT = "height"
WIDTH = "width"

# fmt: off
FOLLOWING = frozenset((
    "ArgMax", "Cast", "Clip", "Concat", "Conv", "DepthToSpace", "DequantizeLinear", "Gather",
    "GreaterOrEqual", "Identity", "MaxPool", "QuantizeLinear", "Relu", "Sigmoid", "Softmax",
    "Squeeze", "Transpose",
))
# fmt: on
"""Operators whose output's size follows from their input's; so does that of Resize by constant
factors, and of arithmetic with constants of one value a channel."""


def any_size(model: onnx.ModelProto) -> Rewritten:
    """Make height and width of a model's input and output dynamic.

    Args:
        model: of any precision and either interface.

    Returns:
        The model; one site, or none where they are dynamic already.

    Raises:
        InputError: an operator that may fix the size, or a size written into the graph.
    """
    _require_following(model.graph)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    pixels = _is_pixels(changed.graph)
    sites = _freed(changed.graph.input[0], 1 if pixels else 2)
    _freed(changed.graph.output[0], 1 if pixels else 2)
    del changed.graph.value_info[:]  # they hold the old size
    onnx.checker.check_model(changed)
    return Rewritten(model=changed, sites=sites)


def _is_pixels(graph: onnx.GraphProto) -> bool:
    """Whether the model takes 8-bit pixels, channels last."""
    return interface_of(specs_of(graph.input), specs_of(graph.output)) is Interface.IMAGE


def _freed(value: onnx.ValueInfoProto, first: int) -> int:
    """Make two axes dynamic; 1 if they were not."""
    axes = value.type.tensor_type.shape.dim[first : first + 2]
    fixed = any(axis.HasField("dim_value") for axis in axes)
    for axis, name in zip(axes, (HEIGHT, WIDTH), strict=True):
        axis.dim_param = name
    return int(fixed)


def _require_following(graph: onnx.GraphProto) -> None:
    constants = GraphIndex(graph).constants
    for node in graph.node:
        if node.op_type == "Resize":
            follows = len(node.input) == 3 and node.input[2] in constants
        elif node.op_type in ("Add", "Div", "Mul", "Sub"):
            operands = [constants[name] for name in node.input if name in constants]
            follows = all(length == 1 for tensor in operands for length in tensor.dims[2:])
        else:
            follows = node.op_type in FOLLOWING
        if not follows or node.domain not in ("", "ai.onnx"):
            raise InputError(
                f"node {node.name or node.op_type!r} ({node.op_type}) may fix the size of what "
                "passes it; expected a network of convolutions, poolings and resizing by factors"
            )
