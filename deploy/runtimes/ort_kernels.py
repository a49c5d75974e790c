"""Convolutions and matrix products in the graph that ONNX Runtime makes of a model file."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx

from segdeploy.deploy.runtimes.executed import Kernel

# fmt: off
INT8_OPERATORS = {
    "QLinearConv": "Conv", "ConvInteger": "Conv", "QLinearConvTranspose": "ConvTranspose",
    "QLinearMatMul": "MatMul", "MatMulInteger": "MatMul", "MatMulIntegerToFloat": "MatMul",
    "DynamicQuantizeMatMul": "MatMul", "QGemm": "Gemm",
}
FLOAT_OPERATORS = {
    "Conv": "Conv", "FusedConv": "Conv", "NhwcConv": "Conv", "NhwcFusedConv": "Conv",
    "ConvTranspose": "ConvTranspose", "Gemm": "Gemm", "FusedGemm": "Gemm", "MatMul": "MatMul",
    "FusedMatMul": "MatMul", "TransposeMatMul": "MatMul",
}
# fmt: on
"""What ONNX Runtime runs a layer as, in its own domains or ONNX's: the operator it came from."""

FLOAT_TYPES = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
    onnx.TensorProto.DOUBLE: "fp64",
}


def kernels_of(graph: onnx.GraphProto, layers: Collection[str]) -> Iterator[Kernel]:
    """List the convolutions and matrix products of an optimised graph, in the order they run.

    Args:
        graph: what ONNX Runtime executes.
        layers: names of the layers of the model file. ONNX Runtime puts words before or behind a
            node's name when it rewrites it (``fused conv1``, ``conv1_nchwc``,
            ``conv1/Relu_token_7``): a kernel belongs to the longest name it begins with.
    """
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    for node in graph.node:
        if node.op_type in INT8_OPERATORS:
            operator, precision = INT8_OPERATORS[node.op_type], "int8"
        elif node.op_type in FLOAT_OPERATORS and len(node.input) > 1:
            element = types.get(node.input[1], types.get(node.input[0], onnx.TensorProto.FLOAT))
            operator, precision = FLOAT_OPERATORS[node.op_type], FLOAT_TYPES.get(element, "fp32")
        else:
            continue
        owner = owner_of(node.name, layers)
        names = (node.name,) if owner is None else (owner,)
        yield Kernel(names=names, operator=operator, precision=precision)


def owner_of(node: str, layers: Collection[str]) -> str | None:
    """The layer that a node of the optimised graph came from, by its name.

    Example:
        >>> owner_of("fused conv10_nchwc", ["conv1", "conv10"])
        'conv10'
    """
    plain = node.removeprefix("fused ")
    return max((name for name in layers if plain.startswith(name)), key=len, default=None)
