"""MACs, FLOPs and parameters of an ONNX model: float, fp16, QDQ int8 or integer operators."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path

import onnx

from segdeploy.deploy.onnx_model.cost_formulas import (
    LayerCost,
    ModelCost,
    conv_macs,
    conv_transpose_macs,
    gemm_macs,
    matmul_macs,
)
from segdeploy.deploy.onnx_model.file import contract_in, load_model, metadata
from segdeploy.deploy.onnx_model.graph import attributes, layer_name
from segdeploy.deploy.onnx_model.shapes import Shapes, fixed_input, infer_shapes

__all__ = ["LayerCost", "ModelCost", "onnx_cost"]

WEIGHT_INPUTS = {
    "Conv": (1, 2),
    "ConvInteger": (1,),
    "QLinearConv": (3, 8),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearMatMul": (0, 3),
    "BatchNormalization": (1, 2),
}
"""Operators listed as layers, and which of their inputs hold parameters when constant."""

BIAS_INPUT = {"Conv": 2, "QLinearConv": 8, "ConvTranspose": 2, "Gemm": 2}

# fmt: off
ELEMENTWISE = frozenset((
    "Abs", "Add", "AveragePool", "BatchNormalization", "Ceil", "Clip", "DequantizeLinear", "Div",
    "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid",
    "HardSwish", "LeakyRelu", "Less", "Log", "Max", "MaxPool", "Min", "Mish", "Mul", "Neg", "Not",
    "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Resize", "Round", "Selu", "Sigmoid",
    "Softmax", "Softplus", "Sqrt", "Sub", "Sum", "Tanh", "Upsample", "Where",
))
# fmt: on
"""Listed apart, as output elements."""

# fmt: off
MOVEMENT = frozenset((
    "Cast", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Dropout", "Expand", "Flatten",
    "Gather", "Identity", "Pad", "Reshape", "Shape", "Slice", "SpaceToDepth", "Split", "Squeeze",
    "Tile", "Transpose", "Unsqueeze",
))
# fmt: on
"""Copies, converts or names data; computes nothing worth listing."""


def onnx_cost(model: Path | onnx.ModelProto, *, size: tuple[int, int] | None = None) -> ModelCost:
    """Count one image through an ONNX model.

    Work whose inputs are all constant (dequantizing weights, computing a shape) is done once when
    the model is loaded, so it is not counted. Scales, zero points and shape constants are not
    parameters; weights behind DequantizeLinear, Cast and the like are.

    Args:
        model: a file or a loaded model; not modified.
        size: (height, width) of the image; ``None`` takes what the model fixes, or, where it
            fixes none, what the contract it carries says.

    Raises:
        InputError: not an ONNX model, a size it does not fit or does not fix, or a shape that
            cannot be inferred.
    """
    loaded = load_model(model) if isinstance(model, Path) else model
    graph = loaded.graph
    constants = {tensor.name: tensor.name for tensor in graph.initializer}
    sources = [value for value in graph.input if value.name not in constants]
    size = size or _contract_size(loaded, sources)
    images = [fixed_input(value, size) for value in sources]
    shapes = infer_shapes(loaded, images)
    layers: list[LayerCost] = []
    counted: set[str] = set()
    elementwise: Counter[str] = Counter()
    not_counted: set[str] = set()
    for node in graph.node:
        if _is_constant(node, constants):
            root = constants[node.input[0]] if node.input else node.output[0]
            constants.update(dict.fromkeys(node.output, root))
            continue
        op = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
        if op in WEIGHT_INPUTS:
            used = _parameters(node, constants) - counted
            counted |= used
            layers.append(_layer(node, shapes, sum(prod(shapes[name]) for name in used)))
        if op in ELEMENTWISE:
            elementwise[op] += prod(shapes[node.output[0]])
        elif op not in MOVEMENT and op not in WEIGHT_INPUTS:
            not_counted.add(op)
    return ModelCost(
        input_shape=shapes[images[0].name],
        layers=tuple(layers),
        elementwise=dict(sorted(elementwise.items())),
        not_counted=tuple(sorted(not_counted)),
    )


def _contract_size(
    model: onnx.ModelProto, images: list[onnx.ValueInfoProto]
) -> tuple[int, int] | None:
    """The input size of the contract, where no axis but the batch states one."""
    fixed = all(
        axis.HasField("dim_value") for v in images for axis in v.type.tensor_type.shape.dim[1:]
    )
    if fixed or "preprocess" not in metadata(model):
        return None
    return contract_in(model, source="the model").size


def _is_constant(node: onnx.NodeProto, constants: dict[str, str]) -> bool:
    inputs = [name for name in node.input if name]
    return node.op_type == "Constant" or (bool(inputs) and all(n in constants for n in inputs))


def _parameters(node: onnx.NodeProto, constants: dict[str, str]) -> set[str]:
    """Names of the stored tensors behind a layer's weights and bias."""
    names = [node.input[i] for i in WEIGHT_INPUTS[node.op_type] if i < len(node.input)]
    return {constants[name] for name in names if name in constants}


def _layer(node: onnx.NodeProto, shapes: Shapes, parameters: int) -> LayerCost:
    bias = BIAS_INPUT.get(node.op_type)
    return LayerCost(
        name=layer_name(node),
        op=node.op_type,
        macs=_macs(node, shapes),
        parameters=parameters,
        output_shape=shapes[node.output[0]],
        biased=bias is not None and bias < len(node.input) and node.input[bias] != "",
    )


def _macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    """MACs of one node of ``WEIGHT_INPUTS``."""
    operands = WEIGHT_INPUTS[node.op_type]
    if node.op_type in ("Conv", "ConvInteger", "QLinearConv"):
        return conv_macs(shapes[node.input[operands[0]]], shapes[node.output[0]])
    if node.op_type == "ConvTranspose":
        return conv_transpose_macs(shapes[node.input[1]], shapes[node.input[0]])
    if node.op_type in ("MatMul", "MatMulInteger", "QLinearMatMul"):
        return matmul_macs(*(shapes[node.input[index]] for index in operands))
    if node.op_type == "Gemm":
        flags = attributes(node)
        return gemm_macs(
            shapes[node.input[0]],
            shapes[node.input[1]],
            transpose_a=bool(flags.get("transA", 0)),
            transpose_b=bool(flags.get("transB", 0)),
        )
    return 0
