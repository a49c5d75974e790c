"""What TensorRT refuses of a graph with QuantizeLinear and DequantizeLinear (QDQ), as rules.

For any ONNX file, whoever wrote it. Sources: NVIDIA's TensorRT documentation, "Working with
Quantized Types" (symmetric schemes, granularity, supported types); the assertions of the ONNX
parser, github.com/onnx/onnx-tensorrt, `QuantDequantLinearHelper` in `onnxOpImporters.cpp` and
`docs/operators.md`, release 10. Not run on hardware.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from segdeploy.deploy.onnx_model.graph import GraphIndex, attributes, layer_name

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
SUPPORTED_TYPES = frozenset(
    {TensorProto.INT8, TensorProto.INT4, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT4E2M1}
)
UNSUPPORTED_OPERATORS = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
    }
)
WEIGHTED = {"Conv": 0, "ConvTranspose": 1}
"""Operators with weights, and the axis of the weight that holds output channels."""

INT8_CHANNEL_STEP = 4


class Rule(str, Enum):
    """One thing TensorRT refuses, or, for ``CHANNELS``, may have no int8 kernel for."""

    ZERO_POINT = "zero-point"
    TYPE = "quantized-type"
    ACTIVATION_AXIS = "per-axis-activation"
    WEIGHT_AXIS = "weight-axis"
    SCALE = "scale"
    LONELY_QUANTIZE = "quantize-without-dequantize"
    LONELY_DEQUANTIZE = "dequantize-without-quantize"
    BIAS = "quantized-bias"
    WEIGHT_ONLY = "weight-only"
    OPERATOR = "operator"
    CHANNELS = "int8-channels"

    @property
    def rejects(self) -> bool:
        """Whether the parser or the builder refuses the graph; otherwise it is advice."""
        return self is not Rule.CHANNELS


WHY = {
    Rule.ZERO_POINT: "quantization is symmetric: activations and weights have zero point 0",
    Rule.TYPE: "int8, int4, fp8 and fp4 are quantized types; uint8 runs on DLA only, and "
    "QuantizeLinear without a zero point is uint8",
    Rule.ACTIVATION_AXIS: "an activation has one scale; only constant weights have one a channel",
    Rule.WEIGHT_AXIS: "a weight's scales lie along its output channels",
    Rule.SCALE: "a scale is a constant, finite and above zero",
    Rule.LONELY_QUANTIZE: "what is quantized goes into DequantizeLinear, and nothing else reads it",
    Rule.LONELY_DEQUANTIZE: "DequantizeLinear reads QuantizeLinear, an int8 constant or an input",
    Rule.BIAS: "a bias stays float: DequantizeLinear takes no int32",
    Rule.WEIGHT_ONLY: "a layer whose weight is quantized to int8 has a quantized input, too",
    Rule.OPERATOR: "integer operators are not imported; QuantizeLinear and DequantizeLinear are",
    Rule.CHANNELS: "int8 convolutions want input channels in multiples of 4; a strongly typed "
    "build may find no kernel otherwise",
}
"""Every rule in one sentence."""

_FIX = {
    Rule.ZERO_POINT: "quantize symmetrically: `segdeploy quantize --target tensorrt`",
    Rule.TYPE: "quantize to int8 with an int8 zero point: `segdeploy quantize --target tensorrt`",
    Rule.ACTIVATION_AXIS: "give the tensor one scale",
    Rule.WEIGHT_AXIS: "quantize the weight along its output channels",
    Rule.SCALE: "store a positive float scale as an initializer",
    Rule.LONELY_QUANTIZE: "put a DequantizeLinear behind it and let every consumer read that",
    Rule.LONELY_DEQUANTIZE: "move the operator in front of QuantizeLinear",
    Rule.BIAS: "store the bias as float: `segdeploy quantize --target tensorrt` does",
    Rule.WEIGHT_ONLY: "quantize the layer's input, too, or keep the weight in float",
    Rule.OPERATOR: "write the model in QDQ form: `segdeploy quantize --target tensorrt`",
    Rule.CHANNELS: "if the build finds no implementation, keep the layer in float with --exclude",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One node that breaks a rule.

    Attributes:
        rule: which.
        node: the node's name, or its first output's where it has none.
        found: what is there.
    """

    rule: Rule
    node: str
    found: str

    @property
    def fix(self) -> str:
        """What to do about it."""
        return _FIX[self.rule]

    def __str__(self) -> str:
        return f"{self.node}: {self.rule.value}: {self.found}; {WHY[self.rule]}. Fix: {self.fix}"


def check_qdq(model: onnx.ModelProto) -> tuple[Finding, ...]:
    """Every node that breaks a rule, in graph order.

    Example:
        A QuantizeLinear with zero point 128 gives one finding of ``Rule.ZERO_POINT``, and, as 128
        is a uint8, one of ``Rule.TYPE``.

    Args:
        model: any ONNX model; one without QDQ has nothing to break.
    """
    graph = _Graph(model.graph)
    return tuple(finding for node in model.graph.node for finding in _check(graph, node))


def rejected(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """The findings that stop a build."""
    return tuple(finding for finding in findings if finding.rule.rejects)


class _Graph(GraphIndex):
    """The index, and what this parser takes for a constant."""

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is stored, or made from stored ones by QuantizeLinear."""
        if name in self.stored:
            return True
        node = self.made_by(name, QUANTIZE)
        return node is not None and node.input[0] in self.stored

    def values(self, name: str) -> NDArray[np.float64] | None:
        """A stored tensor's values; ``None`` where it is computed."""
        stored = self.stored.get(name)
        return None if stored is None else numpy_helper.to_array(stored).astype(np.float64)


def _check(graph: _Graph, node: onnx.NodeProto) -> Iterator[Finding]:
    if node.op_type in (QUANTIZE, DEQUANTIZE):
        found = [*_numbers(graph, node), *_neighbours(graph, node)]
    elif node.op_type in WEIGHTED:
        found = list(_layer(graph, node))
    elif node.op_type in UNSUPPORTED_OPERATORS:
        found = [(Rule.OPERATOR, f"operator {node.op_type}")]
    else:
        found = []
    for rule, text in found:
        yield Finding(rule=rule, node=layer_name(node), found=text)


def _numbers(graph: _Graph, node: onnx.NodeProto) -> Iterator[tuple[Rule, str]]:
    """Scale, zero point, type and axis of one QuantizeLinear or DequantizeLinear."""
    data, scale = node.input[0], graph.values(node.input[1])
    kind = "weight" if graph.is_constant(data) else "activation"
    if scale is None:
        yield Rule.SCALE, f"the scale {node.input[1]!r} is computed"
    elif not (np.isfinite(scale).all() and (scale > 0).all()):
        yield Rule.SCALE, f"the {kind}'s scale reaches {float(np.min(scale)):g}"
    elif scale.size > 1 and kind == "activation":
        yield Rule.ACTIVATION_AXIS, f"{scale.size} scales for activation {data!r}"
    if len(node.input) > 2 and node.input[2]:
        zero = graph.values(node.input[2])
        if zero is None:
            yield Rule.ZERO_POINT, f"the zero point {node.input[2]!r} is computed"
        elif np.any(zero != 0):
            yield Rule.ZERO_POINT, f"zero point {int(zero.reshape(-1)[0])} of {kind} {data!r}"
    found = _type(graph, node)
    if found == TensorProto.INT32 and _is_bias(graph, node):
        return  # the layer it feeds says so
    if found is not None and found not in SUPPORTED_TYPES:
        yield Rule.TYPE, f"{kind} {data!r} is {TensorProto.DataType.Name(found).lower()}"


def _neighbours(graph: _Graph, node: onnx.NodeProto) -> Iterator[tuple[Rule, str]]:
    """QuantizeLinear and DequantizeLinear in pairs."""
    if node.op_type == QUANTIZE:
        output = node.output[0]
        others = {n.op_type for n in graph.readers_of(node)} - {DEQUANTIZE}
        if others:
            yield Rule.LONELY_QUANTIZE, f"{output!r} is read by {', '.join(sorted(others))}"
        elif output in graph.outputs or output not in graph.readers:
            yield Rule.LONELY_QUANTIZE, f"{output!r} has no DequantizeLinear"
        return
    data = node.input[0]
    paired = graph.made_by(data, QUANTIZE) is not None
    if not (paired or data in graph.stored or data in graph.inputs):
        maker = graph.producer.get(data)
        yield Rule.LONELY_DEQUANTIZE, f"{data!r} is made by {maker.op_type if maker else 'nothing'}"


def _layer(graph: _Graph, node: onnx.NodeProto) -> Iterator[tuple[Rule, str]]:
    """Input, weight and bias of one convolution."""
    weight = graph.made_by(node.input[1], DEQUANTIZE)
    if len(node.input) > 2 and graph.made_by(node.input[2], DEQUANTIZE) is not None:
        yield Rule.BIAS, f"the bias {node.input[2]!r} comes from DequantizeLinear"
    if weight is None:
        return
    if graph.made_by(node.input[0], DEQUANTIZE) is None:
        yield Rule.WEIGHT_ONLY, f"the weight is quantized, the input {node.input[0]!r} is not"
    expected, scale = WEIGHTED[node.op_type], graph.values(weight.input[1])
    axis = attributes(weight).get("axis", 1)
    if scale is not None and scale.size > 1 and axis != expected:
        yield Rule.WEIGHT_AXIS, f"the weight's scales lie along axis {axis}, expected {expected}"
    channels = _input_channels(graph, node, weight)
    if channels is not None and channels % INT8_CHANNEL_STEP:
        yield Rule.CHANNELS, f"{channels} input channels"


def _input_channels(graph: _Graph, node: onnx.NodeProto, weight: onnx.NodeProto) -> int | None:
    source = graph.made_by(weight.input[0], QUANTIZE)
    stored = graph.stored.get(source.input[0] if source is not None else weight.input[0])
    if stored is None or len(stored.dims) < 2:
        return None
    return int(stored.dims[1] if node.op_type == "Conv" else stored.dims[0])


def _type(graph: _Graph, node: onnx.NodeProto) -> int | None:
    """The quantized type of a node: of its zero point, its input or its attribute."""
    if node.op_type == DEQUANTIZE:
        source = graph.made_by(node.input[0], QUANTIZE)
        if source is not None:
            return None  # said once, by QuantizeLinear
        if node.input[0] in graph.stored:
            return int(graph.stored[node.input[0]].data_type)
    if len(node.input) > 2 and node.input[2]:
        zero = graph.stored.get(node.input[2])
        return None if zero is None else int(zero.data_type)
    if node.op_type == DEQUANTIZE:
        return None
    return int(attributes(node).get("output_dtype", 0) or TensorProto.UINT8)


def _is_bias(graph: _Graph, node: onnx.NodeProto) -> bool:
    readers = graph.readers_of(node)
    return bool(readers) and all(
        reader.op_type in WEIGHTED and node.output[0] in list(reader.input)[2:]
        for reader in readers
    )
