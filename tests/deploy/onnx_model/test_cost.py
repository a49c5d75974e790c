"""Multiply-adds of an ONNX graph: formulas against torch and NumPy, then whole graphs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from segdeploy.deploy.onnx_model.cost import onnx_cost
from segdeploy.deploy.onnx_model.cost_formulas import (
    conv_macs,
    conv_transpose_macs,
    gemm_macs,
    matmul_macs,
)
from segdeploy.deploy.system.errors import InputError

SIDES = st.integers(1, 5)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    *,
    image: Sequence[int | str] = ("batch", 3, 8, 8),
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A graph from ``x`` to the last node's output."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", dtype, list(image))],
        [helper.make_tensor_value_info(nodes[-1].output[0], dtype, None)],
        initializer=[numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("custom", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def conv(inputs: Sequence[str], output: str, padding: int = 1) -> onnx.NodeProto:
    return helper.make_node("Conv", list(inputs), [output], name=output, pads=[padding] * 4)


def float_conv(dtype: type[np.floating] = np.float32) -> dict[str, np.ndarray]:
    return {"w": np.ones((4, 3, 3, 3), dtype), "b": np.ones(4, dtype)}


CONV_MACS = 4 * 8 * 8 * 27
CONV_PARAMETERS = 4 * 27 + 4


@given(
    groups=st.integers(1, 3),
    inner=SIDES,
    outer=SIDES,
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
)
@settings(max_examples=40, deadline=None)
def test_convolution_formulas_match_torch(
    groups: int, inner: int, outer: int, kernel: int, stride: int
) -> None:
    x = torch.empty(2, groups * inner, 7, 6, device="meta")
    weight = torch.empty(groups * outer, inner, kernel, kernel, device="meta")
    with FlopCounterMode(display=False) as counter:
        y = functional.conv2d(x, weight, stride=stride, groups=groups)
    assert 2 * conv_macs(tuple(weight.shape), tuple(y.shape)) == counter.get_total_flops()
    weight = torch.empty(groups * inner, outer, kernel, kernel, device="meta")
    with FlopCounterMode(display=False) as counter:
        functional.conv_transpose2d(x, weight, stride=stride)
    assert 2 * conv_transpose_macs(tuple(weight.shape), tuple(x.shape)) == counter.get_total_flops()


@settings(deadline=None)
@given(
    batch=st.sampled_from([((), ()), ((2,), (2,)), ((3,), ()), ((2, 1), (1, 4))]),
    rows=SIDES,
    inner=SIDES,
    columns=SIDES,
)
def test_matmul_counts_inner_products_of_the_result_numpy_makes(
    batch: tuple[tuple[int, ...], tuple[int, ...]], rows: int, inner: int, columns: int
) -> None:
    a, b = (*batch[0], rows, inner), (*batch[1], inner, columns)
    assert matmul_macs(a, b) == np.matmul(np.ones(a), np.ones(b)).size * inner
    assert matmul_macs((inner,), b) == np.matmul(np.ones(inner), np.ones(b)).size * inner
    assert matmul_macs(a, (inner,)) == np.matmul(np.ones(a), np.ones(inner)).size * inner
    assert matmul_macs((inner,), (inner,)) == inner


@settings(deadline=None)
@given(SIDES, SIDES, SIDES)
def test_gemm_does_not_depend_on_how_operands_are_stored(m: int, k: int, n: int) -> None:
    assert gemm_macs((m, k), (k, n)) == m * k * n
    assert gemm_macs((k, m), (n, k), transpose_a=True, transpose_b=True) == m * k * n


def test_shapes_that_do_not_multiply_are_refused() -> None:
    with pytest.raises(ValueError, match="2x3 by 4x5"):
        gemm_macs((2, 3), (4, 5))
    with pytest.raises(ValueError, match="do not broadcast"):
        matmul_macs((2, 1, 3), (3, 3, 1))


@pytest.mark.parametrize("precision", [np.float32, np.float16])
def test_a_float_convolution(precision: type[np.floating]) -> None:
    dtype = TensorProto.FLOAT if precision is np.float32 else TensorProto.FLOAT16
    nodes = [conv(["x", "w", "b"], "c"), helper.make_node("Relu", ["c"], ["y"])]
    cost = onnx_cost(model_of(nodes, float_conv(precision), dtype=dtype))
    assert (cost.macs, cost.flops) == (CONV_MACS, 2 * CONV_MACS)
    assert cost.parameters == CONV_PARAMETERS
    assert cost.elementwise == {"Relu": 4 * 8 * 8}
    assert cost.not_counted == ()
    assert cost.input_shape == (1, 3, 8, 8)
    (layer,) = cost.layers
    assert (layer.name, layer.op, layer.output_shape, layer.biased) == (
        "c",
        "Conv",
        (1, 4, 8, 8),
        True,
    )


def test_qdq_int8_costs_what_the_float_network_costs() -> None:
    quantize, dequantize = "QuantizeLinear", "DequantizeLinear"
    nodes = [
        helper.make_node(quantize, ["x", "sx", "zx"], ["xq"]),
        helper.make_node(dequantize, ["xq", "sx", "zx"], ["xd"]),
        helper.make_node(dequantize, ["wq", "sw", "zw"], ["w"], axis=0),
        helper.make_node(dequantize, ["bq", "sb"], ["b"], axis=0),
        conv(["xd", "w", "b"], "y"),
    ]
    weights = {
        "sx": np.float32(0.1),
        "zx": np.uint8(3),
        "wq": np.ones((4, 3, 3, 3), np.int8),
        "sw": np.ones(4, np.float32),
        "zw": np.zeros(4, np.int8),
        "bq": np.ones(4, np.int32),
        "sb": np.ones(4, np.float32),
    }
    cost = onnx_cost(model_of(nodes, {k: np.asarray(v) for k, v in weights.items()}))
    assert (cost.macs, cost.parameters) == (CONV_MACS, CONV_PARAMETERS)
    assert cost.elementwise == {quantize: 3 * 8 * 8, dequantize: 3 * 8 * 8}
    assert cost.layers[0].biased


@pytest.mark.parametrize("fused", [True, False])
def test_integer_operators_cost_what_the_float_ones_cost(fused: bool) -> None:
    weights: dict[str, np.ndarray] = {
        "s": np.asarray(0.5, np.float32),
        "z": np.asarray(0, np.uint8),
        "w": np.ones((4, 3, 3, 3), np.int8),
        "sw": np.ones(4, np.float32),
        "zw": np.zeros(4, np.int8),
        "b": np.ones(4, np.int32),
        "m": np.ones((8, 5), np.int8),
        "sm": np.asarray(1, np.float32),
        "zm": np.asarray(0, np.int8),
    }
    pads = [1, 1, 1, 1]
    if fused:
        node, matmul = helper.make_node, ["c", "s", "z", "m", "sm", "zm", "s", "z"]
        nodes = [
            node("QLinearConv", ["x", *"sz", "w", "sw", "zw", *"sz", "b"], ["c"], pads=pads),
            node("QLinearMatMul", matmul, ["y"]),
        ]
    else:
        nodes = [
            helper.make_node("ConvInteger", ["x", "w"], ["i"], pads=pads),
            helper.make_node("Cast", ["i"], ["c"], to=TensorProto.UINT8),
            helper.make_node("MatMulInteger", ["c", "m"], ["j"]),
            helper.make_node("Cast", ["j"], ["y"], to=TensorProto.UINT8),
        ]
    cost = onnx_cost(model_of(nodes, weights, dtype=TensorProto.UINT8))
    assert [layer.macs for layer in cost.layers] == [CONV_MACS, 4 * 8 * 8 * 5]
    assert cost.parameters == 4 * 27 + (4 if fused else 0) + 8 * 5
    assert cost.not_counted == ()


def test_weights_stored_in_fp16_behind_a_cast_count_once() -> None:
    nodes = [
        helper.make_node("Cast", ["w16"], ["w"], to=TensorProto.FLOAT),
        conv(["x", "w"], "y"),
    ]
    cost = onnx_cost(model_of(nodes, {"w16": np.ones((4, 3, 3, 3), np.float16)}))
    assert (cost.macs, cost.parameters) == (CONV_MACS, 4 * 27)
    assert not cost.layers[0].biased


@pytest.mark.parametrize("quantized", [False, True])
def test_shared_weights_count_once_and_their_work_every_time(quantized: bool) -> None:
    """One 3x3 convolution applied three times; quantized, each has its own DequantizeLinear."""
    nodes, weights = [], {"w": np.ones((3, 3, 3, 3), np.float32), "s": np.asarray(np.float32(1))}
    for i, source in enumerate(("x", "y0", "y1")):
        if quantized:
            weights["w"] = np.ones((3, 3, 3, 3), np.int8)
            nodes.append(helper.make_node("DequantizeLinear", ["w", "s"], [f"w{i}"]))
        nodes.append(conv([source, f"w{i}" if quantized else "w"], f"y{i}"))
    cost = onnx_cost(model_of(nodes, weights))
    assert cost.macs == 3 * (3 * 8 * 8 * 27)
    assert [layer.parameters for layer in cost.layers] == [81, 0, 0]


def test_products_transposed_convolution_and_batch_norm() -> None:
    nodes = [
        helper.make_node("BatchNormalization", ["x", "g", "h", "mean", "var"], ["n"]),
        helper.make_node("ConvTranspose", ["n", "t"], ["up"], strides=[2, 2]),
        helper.make_node("Flatten", ["up"], ["flat"]),
        helper.make_node("Gemm", ["flat", "a", "c"], ["dense"], transB=1),
        helper.make_node("MatMul", ["dense", "m"], ["y"]),
    ]
    channel = np.ones(3, np.float32)
    weights = {
        **dict.fromkeys(("g", "h", "mean", "var"), channel),
        "t": np.ones((3, 2, 2, 2), np.float32),
        "a": np.ones((7, 2 * 16 * 16), np.float32),
        "c": np.ones(7, np.float32),
        "m": np.ones((7, 5), np.float32),
    }
    cost = onnx_cost(model_of(nodes, weights))
    found = {layer.op: (layer.macs, layer.parameters, layer.biased) for layer in cost.layers}
    assert found == {
        "BatchNormalization": (0, 6, False),  # running statistics are no parameters
        "ConvTranspose": (3 * 8 * 8 * 2 * 4, 24, False),
        "Gemm": (512 * 7, 512 * 7 + 7, True),
        "MatMul": (35, 35, False),
    }
    assert cost.elementwise == {"BatchNormalization": 3 * 8 * 8}


def test_dynamic_axes_take_the_size_asked_for_through_computed_shapes() -> None:
    """Upsampling to a size the graph computes from its own input, as exporters write it."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Mul", ["shape", "twice"], ["sizes"]),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["up"], mode="nearest"),
        conv(["up", "w", "b"], "y"),
    ]
    weights = float_conv() | {"twice": np.asarray([1, 1, 2, 2], np.int64)}
    model = model_of(nodes, weights, image=("n", 3, "h", "w"))
    before = model.SerializeToString()
    cost = onnx_cost(model, size=(16, 32))
    assert cost.macs == 4 * 32 * 64 * 27
    assert cost.input_shape == (1, 3, 16, 32)
    assert cost.elementwise["Resize"] == 3 * 32 * 64
    assert model.SerializeToString() == before


def test_operators_without_a_rule_are_named() -> None:
    nodes = [
        conv(["x", "w", "b"], "c"),
        helper.make_node("Gadget", ["c"], ["g"], domain="custom"),
        helper.make_node("ReduceMean", ["c"], ["y"]),
    ]
    cost = onnx_cost(model_of(nodes, float_conv()))
    assert cost.not_counted == ("ReduceMean", "custom::Gadget")
    assert cost.macs == CONV_MACS


@pytest.mark.parametrize(
    ("image", "size", "message"),
    [
        (("n", 3, "h", 8), None, "'x' has a dynamic height; state the image size"),
        (("n", 3, 8, 8), (8, 16), "'x' has a fixed width of 8, not 16"),
        (("n", "c", 8, 8), None, "shape of tensor 'y' cannot be inferred"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    image: tuple[int | str, ...], size: tuple[int, int] | None, message: str
) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    with pytest.raises(InputError, match=message):
        onnx_cost(model_of(nodes, {}, image=image), size=size)


def test_a_custom_operator_that_hides_the_shapes_is_named_by_its_result() -> None:
    nodes = [helper.make_node("Gadget", ["x"], ["g"], domain="custom"), conv(["g", "w"], "y")]
    with pytest.raises(InputError, match="tensor 'y' cannot be inferred"):
        onnx_cost(model_of(nodes, {"w": np.ones((4, 3, 3, 3), np.float32)}))


def test_files_are_read_and_bad_ones_named(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(InputError, match=r"net\.onnx does not exist"):
        onnx_cost(path)
    path.write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"net\.onnx is not a valid ONNX file"):
        onnx_cost(path)
    model = model_of([conv(["x", "w", "b"], "y")], float_conv())
    model.graph.output[0].type.tensor_type.shape.SetInParent()  # a file says how many axes
    onnx.save(model, path)
    assert onnx_cost(path) == onnx_cost(model)


def test_a_cost_fits_json() -> None:
    cost = onnx_cost(model_of([conv(["x", "w", "b"], "y")], float_conv()))
    fields = json.loads(json.dumps(asdict(cost)))
    assert prod(fields["layers"][0]["output_shape"]) == 4 * 8 * 8
