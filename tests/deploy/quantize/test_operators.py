"""The operator table: what is a weight, how it is stored, what carries its input's scale."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tiny import quantized

from segdeploy.calibration.exchange import imported_range
from segdeploy.calibration.table import imported_table
from segdeploy.deploy.onnx_model.file import describe, load_model, save_model, set_metadata
from segdeploy.deploy.onnx_model.graph import GraphIndex
from segdeploy.deploy.quantize.activations import every_activation, plan_observation
from segdeploy.deploy.quantize.operators import (
    OPERATORS,
    Carries,
    LayerWeight,
    carries,
    layer_weight,
)
from segdeploy.deploy.targets.kernels import ONNXRUNTIME_CPU
from segdeploy.deploy.targets.profiles import OPENVINO_CPU, ORT_X86, TENSORRT, TargetProfile

RNG = np.random.default_rng(1)
IMAGE = RNG.uniform(0, 4, (1, 4, 6, 6)).astype(np.float32)


def normal(*shape: int) -> NDArray[np.float32]:
    return RNG.normal(0, 0.3, shape).astype(np.float32)


def model_of(
    nodes: Sequence[onnx.NodeProto], stored: Mapping[str, NDArray[np.generic]], folder: Path
) -> Path:
    ends = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, IMAGE.shape),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    held = [numpy_helper.from_array(values, name) for name, values in stored.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    set_metadata(model, {"precision": "fp32"})
    save_model(model, folder / "float.onnx")
    return folder / "float.onnx"


def run(model: Path | onnx.ModelProto, *, literal: bool = False) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    if literal:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    held = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = onnxruntime.InferenceSession(held, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": IMAGE})
    return np.asarray(found)


def int8_of(path: Path, profile: TargetProfile) -> onnx.ModelProto:
    names = every_activation(load_model(path), kernels=[profile.kernels])
    ranges = {name: imported_range(0.0, 4.0, "a test") for name in ("image", *names)}
    table = imported_table(ranges)
    made = quantized(describe(path), path.with_name("int8.onnx"), table, profile=profile)
    return load_model(made.path)


LAYERS = {
    "Conv": ([normal(6, 2, 3, 3), normal(6)], {"group": 2}),
    "depthwise Conv": ([normal(8, 1, 3, 3)], {"group": 4}),
    "ConvTranspose": (
        [normal(4, 6, 3, 3), normal(6)],
        {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]},
    ),
    "grouped ConvTranspose": ([normal(4, 3, 2, 2), normal(6)], {"strides": [2, 2], "group": 2}),
    "depthwise ConvTranspose": ([normal(4, 1, 2, 2), normal(4)], {"group": 4}),
    "Gemm": ([normal(144, 5), normal(5)], {}),
    "Gemm transB": ([normal(5, 144), normal(5)], {"transB": 1}),
    "MatMul": ([normal(6, 5)], {}),
}


ROUNDED_BIAS = dataclasses.replace(OPENVINO_CPU, kernels=TENSORRT.kernels)
"""Takes what TensorRT takes, on u8 and with int32 biases."""


@pytest.mark.parametrize("profile", [TENSORRT, ROUNDED_BIAS], ids=lambda p: p.name)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_with_the_weights_that_its_integers_stand_for(
    name: str, profile: TargetProfile, tmp_path: Path
) -> None:
    """Bit for bit what the float network gives with them, on an input that is rounded before."""
    operator = name.removesuffix(" transB").split()[-1]
    constants, said = LAYERS[name]
    stored = {f"c{place}": values for place, values in enumerate(constants)}
    nodes = [helper.make_node("Flatten", ["image"], ["flat"], name="flat")]
    data = "flat" if operator == "Gemm" else "image"
    nodes = nodes if operator == "Gemm" else []
    nodes.append(helper.make_node(operator, [data, *stored], ["y"], name="layer", **said))
    path = model_of(nodes, stored, tmp_path)
    model = int8_of(path, profile)
    (layer,) = (node for node in model.graph.node if node.name == "layer")
    index = GraphIndex(model.graph)
    assert index.made_by(layer.input[1], "DequantizeLinear") is not None
    parts = {
        place: index.producer[name]
        for place, name in enumerate(layer.input)
        if place and name in index.producer
    }
    for place, part in parts.items():
        if part.op_type != "DequantizeLinear":
            continue
        integers, scale = index.value(part.input[0]), index.value(part.input[1])
        axis = next(a.i for a in part.attribute if a.name == "axis")
        along = scale.reshape([-1 if d == axis else 1 for d in range(integers.ndim)])
        real = integers.astype(np.float32) * along
        steps = np.abs(real - constants[place - 1]) / along
        assert steps.max() <= (1.0 if place == 1 else 0.5) + 1e-3
        stored[f"c{place - 1}"] = real.astype(np.float32)
    params = index.producer[index.producer[layer.input[0]].input[0]]
    scale, zero = (index.value(name) for name in params.input[1:])
    limits = np.iinfo(zero.dtype)
    clipped = np.clip(np.rint(IMAGE / scale) + zero, limits.min, limits.max)
    rounded = ((clipped - zero) * scale).astype(np.float32)
    expected_of = model_of(nodes, stored, tmp_path)
    session = onnxruntime.InferenceSession(str(expected_of), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"image": rounded})
    np.testing.assert_allclose(run(model, literal=True), expected, atol=2e-6)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kernel", [(), (2, 3)])
def test_rows_are_output_channels_and_go_back(groups: int, kernel: tuple[int, ...]) -> None:
    weight = LayerWeight(place=1, bias=None, axis=1, groups=groups)
    stored = normal(8, 3, *kernel)
    rows = weight.rows(stored)
    assert rows.shape == (3 * groups, 8 // groups, *kernel)
    np.testing.assert_array_equal(weight.stored(rows), stored)
    for group, inside, out in itertools.product(range(groups), range(8 // groups), range(3)):
        wanted = stored[group * (8 // groups) + inside, out]
        np.testing.assert_array_equal(rows[group * 3 + out, inside], wanted)
    scales = np.arange(3.0)
    np.testing.assert_array_equal(weight.along_axis(weight.of_rows(scales)), scales)


def node(operator: str, *inputs: str, **said: object) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), ["y"], **said)


@pytest.mark.parametrize(
    "layer",
    [
        node("Gemm", "x", "w", transA=1),
        node("Gemm", "x", "w", alpha=0.5),
        node("Gemm", "x", "w", "b", beta=2.0),
        node("Relu", "x"),
        helper.make_node("Conv", ["x", "w"], ["y"], domain="com.example"),
    ],
    ids=str,
)
def test_what_is_no_plain_product_has_no_weight(layer: onnx.NodeProto) -> None:
    assert layer_weight(layer) is None


CARRIERS = {
    "DepthToSpace": ([], {"blocksize": 2}),
    "Flatten": ([], {}),
    "Gather": ([np.array([1, 1])], {"axis": 1}),
    "Identity": ([], {}),
    "MaxPool": ([], {"kernel_shape": [2, 2]}),
    "Pad": ([np.array([0, 0, 1, 1, 0, 0, 1, 1])], {}),
    "Reshape": ([np.array([1, -1])], {}),
    "Resize": (["", np.array([1, 1, 2, 2], np.float32)], {"mode": "linear"}),
    "Slice": ([np.array([1]), np.array([5]), np.array([2])], {}),
    "SpaceToDepth": ([], {"blocksize": 2}),
    "Split": ([], {"num_outputs": 1}),
    "Squeeze": ([np.array([0])], {}),
    "Transpose": ([], {"perm": [0, 2, 3, 1]}),
    "Unsqueeze": ([np.array([0])], {}),
}


def test_every_carrier_is_tried() -> None:
    assert set(CARRIERS) == {n for n, o in OPERATORS.items() if o.carries is not Carries.NOTHING}


@pytest.mark.parametrize("operator", CARRIERS)
def test_a_carrier_keeps_the_range_and_as_it_says_the_shares_of_values(
    operator: str, tmp_path: Path
) -> None:
    constants, said = CARRIERS[operator]
    stored = {f"c{i}": v for i, v in enumerate(constants) if not isinstance(v, str)}
    inputs = ["" if isinstance(v, str) else f"c{i}" for i, v in enumerate(constants)]
    made = helper.make_node(operator, ["image", *inputs], ["y"], name="n", **said)
    path = model_of([made], stored, tmp_path)
    found = run(path)
    assert min(IMAGE.min(), 0) <= found.min()
    assert found.max() <= IMAGE.max() + 1e-6
    index = GraphIndex(load_model(path).graph)
    kept = carries(index.graph.node[0], index)
    assert kept is not Carries.NOTHING
    if kept is Carries.ALL and operator not in ("MaxPool", "Resize"):
        np.testing.assert_array_equal(np.sort(found.reshape(-1)), np.sort(IMAGE.reshape(-1)))


@pytest.mark.parametrize(
    ("fill", "kept"), [(np.float32(0), Carries.SOME), (np.float32(9), Carries.NOTHING)]
)
def test_a_pad_carries_unless_it_fills_with_a_value_of_its_own(
    fill: np.float32, kept: Carries, tmp_path: Path
) -> None:
    stored = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "fill": np.asarray(fill)}
    made = helper.make_node("Pad", ["image", "pads", "fill"], ["y"], name="n")
    index = GraphIndex(load_model(model_of([made], stored, tmp_path)).graph)
    assert carries(index.graph.node[0], index) is kept


def test_what_a_relu_leaves_is_not_checked_and_what_others_leave_is(tmp_path: Path) -> None:
    stored = {"w": normal(4, 4, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c1"], name="c1"),
        helper.make_node("Relu", ["c1"], ["r"], name="r"),
        helper.make_node("Conv", ["r", "w"], ["c2"], name="c2"),
        helper.make_node("LeakyRelu", ["c2"], ["l"], name="l"),
        helper.make_node("Concat", ["r", "l"], ["both"], name="both", axis=1),
        helper.make_node("Split", ["both"], ["half", "other"], name="s", axis=1, num_outputs=2),
        helper.make_node("Add", ["half", "other"], ["sum"], name="sum"),
        helper.make_node("Conv", ["sum", "w"], ["y"], name="c3"),
    ]
    plan = plan_observation(load_model(model_of(nodes, stored, tmp_path)))
    assert plan.checked == {"l", "both"}
    assert plan.summed == {"both": ("r", "l")}
    assert plan.follows["half"] == plan.follows["other"] == "both"


@pytest.mark.parametrize("product_first", [True, False])
def test_layers_that_share_a_weight_along_different_axes_compute_with_their_own_integers(
    product_first: bool, tmp_path: Path
) -> None:
    shape = (6, 6)
    stored = {"w": normal(*shape) * np.array([1, 4, 9, 0.3, 1, 2], np.float32)}
    stored |= {"rows": np.array([24, 6])}
    nodes = [helper.make_node("Reshape", ["image", "rows"], ["x0"], name="flat")]
    kinds = [("MatMul", {}), ("Gemm", {"transB": 1}), ("Gemm", {}), ("Gemm", {"transB": 1})]
    for place, (operator, said) in enumerate(kinds if product_first else kinds[::-1]):
        ends = [f"x{place}", "w"], [f"x{place + 1}" if place < 3 else "y"]
        nodes.append(helper.make_node(operator, *ends, name=f"layer{place}", **said))
    model = int8_of(model_of(nodes, stored, tmp_path), TENSORRT)
    index = GraphIndex(model.graph)
    for layer in (node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")):
        part = index.producer[layer.input[1]]
        axis = next(a.i for a in part.attribute if a.name == "axis")
        found = layer_weight(layer)
        assert found is not None
        assert axis == found.axis
        scale = index.value(part.input[1])
        np.testing.assert_allclose(scale, np.abs(stored["w"]).max(axis=1 - axis) / 127, rtol=1e-6)
        along = scale.reshape((-1, 1) if axis == 0 else (1, -1))
        steps = np.abs(index.value(part.input[0]) - stored["w"] / along)
        assert steps.max() <= 1 + 1e-3


def test_only_data_of_a_node_is_stored_as_integers(tmp_path: Path) -> None:
    """A constant that another node multiplies by says how much a Resize enlarges, too."""
    stored = {"w": normal(5, 4, 1, 1), "c": np.array([1, 1, 2, 3], np.float32)}
    stored |= {"v": normal(4, 4, 1, 3)}
    nodes = [
        helper.make_node("Conv", ["image", "v"], ["narrow"], name="v"),
        helper.make_node("Mul", ["narrow", "c"], ["m"], name="mul"),
        helper.make_node("Resize", ["m", "", "c"], ["r"], name="resize", mode="nearest"),
        helper.make_node("Conv", ["r", "w"], ["y"], name="last"),
    ]
    path = model_of(nodes, stored, tmp_path)
    model = int8_of(path, dataclasses.replace(TENSORRT, kernels=ONNXRUNTIME_CPU))
    mul, resize = (n for n in model.graph.node if n.name in ("mul", "resize"))
    assert mul.input[1] == "c/joined/dq"
    assert resize.input[2] == "c"


def test_what_a_float_node_carries_of_a_concat_has_its_range(tmp_path: Path) -> None:
    stored = {"w": normal(4, 4, 1, 1), "i": np.array([0, 5, 3, 7])}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], name="c"),
        helper.make_node("Relu", ["c"], ["r"], name="r"),
        helper.make_node("Concat", ["c", "r"], ["both"], name="both", axis=1),
        helper.make_node("Gather", ["both", "i"], ["some"], name="some", axis=1),
        helper.make_node("Conv", ["some", "w"], ["y"], name="last"),
    ]
    plan = plan_observation(load_model(model_of(nodes, stored, tmp_path)))
    assert plan.follows["some"] == "both"
    assert plan.summed == {"both": ("c", "r")}
    assert {"c", "r"} <= set(plan.observed)


@pytest.mark.parametrize("bias", [True, False])
def test_onnxruntime_leaves_the_weight_of_a_float_layer_alone(bias: bool, tmp_path: Path) -> None:
    """It rounds one between two Q-DQ pairs by itself, to one scale for all channels."""
    stored = {"w": normal(4, 4, 1, 1), "t": normal(4, 4, 3, 3)}
    stored |= {"b": normal(4)} if bias else {}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], name="first"),
        helper.make_node("ConvTranspose", ["c", "t", *["b"][:bias]], ["up"], name="up"),
        helper.make_node("Conv", ["up", "w"], ["y"], name="last"),
    ]
    model = int8_of(model_of(nodes, stored, tmp_path), ORT_X86)
    np.testing.assert_allclose(run(model), run(model, literal=True), atol=1e-5)
