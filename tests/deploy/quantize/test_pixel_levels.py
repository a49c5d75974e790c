"""The input of an int8 model: every pixel level has its own integer, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from segdeploy.calibration.estimate import CalibrationRange, Method
from segdeploy.calibration.table import CalibrationTable, imported_table
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import describe, load_model, save_model, set_metadata
from segdeploy.deploy.quantize.pixel_levels import pixel_levels, takes_pixels
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.runtimes.base import Execution
from segdeploy.deploy.runtimes.registry import RuntimeName, availability, open_runtime
from segdeploy.deploy.sensitivity.pairs import constants_of, pair_layers
from segdeploy.deploy.sensitivity.parts import GraphView
from segdeploy.deploy.targets.profiles import (
    OPENVINO_CPU,
    ORT_ARM,
    ORT_X86,
    PROFILES,
    TENSORRT,
    TargetProfile,
)

SIDE = 16
HALF = Preprocess(size=(SIDE, SIDE))
FROM_ZERO = Preprocess(size=(SIDE, SIDE), mean=(0, 0, 0), std=(1, 1, 1))
IMAGENET = Preprocess(
    size=(SIDE, SIDE), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), channel_order="RGB"
)
EVERY_LEVEL = np.repeat(np.arange(256, dtype=np.uint8).reshape(SIDE, SIDE, 1), 3, axis=2)
GRADIENT = np.stack([EVERY_LEVEL[..., 0], EVERY_LEVEL[::-1, :, 0], EVERY_LEVEL[:, ::-1, 0]], -1)
Values = NDArray[np.float32]


def first_layer(
    path: Path, *, contract: Preprocess | None, kernel: int = 1, bias: bool = True
) -> Artifact:
    """One convolution that reads the image, and a head behind it."""
    generator = np.random.default_rng(0)
    weights = {
        "w": generator.normal(size=(4, 3, kernel, kernel)),
        "b": generator.normal(size=4),
        "v": generator.normal(size=(1, 4, 1, 1)),
        "c": generator.normal(size=1),
    }
    pads = [kernel // 2] * 4
    inputs = ["image", "w", "b"] if bias else ["image", "w"]
    nodes = [
        helper.make_node("Conv", inputs, ["hidden"], name="first", pads=pads),
        helper.make_node("Relu", ["hidden"], ["active"], name="relu"),
        helper.make_node("Conv", ["active", "v", "c"], ["logit"], name="head"),
        helper.make_node("Sigmoid", ["logit"], ["probability"], name="sigmoid"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    own = {"precision": "fp32"}
    set_metadata(model, own if contract is None else own | {"preprocess": contract.to_json()})
    save_model(model, path)
    return describe(path)


def table(low: float = -1.0) -> CalibrationTable:
    def seen(low: float, high: float) -> CalibrationRange:
        return CalibrationRange(
            min=low,
            max=high,
            observed_min=low,
            observed_max=high,
            method=Method.MINMAX,
            divergence=None,
            candidates=0,
            share_clipped=0.0,
            fallback=None,
        )

    return imported_table({"image": seen(low, 1.0), "active": seen(0.0, 8.0)})


def quantized(
    source: Artifact, profile: TargetProfile = ORT_X86, exclude: tuple[str, ...] = ()
) -> Artifact:
    return to_int8(
        source,
        source.path.with_suffix(f".{profile.name}.onnx"),
        table=table(),
        table_sha256="ab" * 32,
        profile=profile,
        exclude=exclude,
    )


def tensor(artifact: Artifact, name: str, image: Values) -> NDArray[np.generic]:
    """A tensor of a model run literally, with one image."""
    model = load_model(artifact.path)
    model.graph.output.append(helper.make_empty_tensor_value_info(name))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    found: NDArray[np.generic] = session.run([name], {"image": image[None]})[0][0]
    return found


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda p: p.name)
@pytest.mark.parametrize("contract", [HALF, FROM_ZERO], ids=["half", "from zero"])
def test_every_level_of_every_pixel_has_an_integer_of_its_own_in_order(
    contract: Preprocess, profile: TargetProfile, tmp_path: Path
) -> None:
    if pixel_levels(contract, profile) is None:
        assert profile.activation_symmetric
        assert contract == FROM_ZERO  # s8 with zero point 0 has no room for 256 levels above zero
        return
    int8 = quantized(first_layer(tmp_path / "net.onnx", contract=contract), profile)
    integers = tensor(int8, "image/q", contract.apply(EVERY_LEVEL)).astype(int)
    assert (np.diff(integers.reshape(3, 256), axis=1) == 1).all()


@pytest.mark.parametrize("profile", [ORT_X86, ORT_ARM, TENSORRT], ids=lambda p: p.name)
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_without_padding_reads_the_image_as_it_is(
    profile: TargetProfile, bias: bool, tmp_path: Path
) -> None:
    source = first_layer(tmp_path / "net.onnx", contract=HALF, bias=bias)
    int8 = quantized(source, profile)
    image = HALF.apply(GRADIENT)
    views = GraphView(load_model(source.path)), GraphView(load_model(int8.path))
    first = pair_layers(*views)[0]
    _, weight = constants_of(*views, first, 1)  # as its integers state it
    offset = views[0].constant("b") if bias else 0.0
    wanted = np.einsum("oc,chw->ohw", weight[..., 0, 0].astype(np.float64), image)
    wanted += np.reshape(offset, (-1, 1, 1))
    np.testing.assert_allclose(tensor(int8, "hidden", image), wanted, atol=1e-3)


def test_at_the_border_half_a_level_is_all_that_padding_adds(tmp_path: Path) -> None:
    source = first_layer(tmp_path / "net.onnx", contract=HALF, kernel=3)
    int8 = quantized(source)
    image = HALF.apply(GRADIENT)
    error = np.abs(tensor(int8, "hidden", image) - tensor(source, "hidden", image))
    weight = numpy_helper.to_array(
        next(t for t in load_model(source.path).graph.initializer if t.name == "w")
    )
    half_a_level = np.abs(weight).sum(axis=(1, 2, 3)) * 0.5 / 127.5
    rounding = np.abs(weight).max(axis=(1, 2, 3)) / 127 / 2 * 27  # of 27 weights, pixels up to 1
    assert (error.max(axis=(1, 2)) <= half_a_level + rounding).all()
    assert (error[:, 1:-1, 1:-1].max(axis=(1, 2)) <= rounding + 1e-5).all()


@pytest.mark.skipif(not availability(RuntimeName.OPENVINO).ready, reason="OpenVINO is missing")
def test_runtimes_agree_on_the_integers(tmp_path: Path) -> None:
    source = first_layer(tmp_path / "net.onnx", contract=HALF, kernel=3)
    found = []
    for runtime, profile in (
        (RuntimeName.ONNXRUNTIME, ORT_X86),
        (RuntimeName.OPENVINO, OPENVINO_CPU),
    ):
        with open_runtime(
            runtime, quantized(source, profile), execution=Execution(threads=1)
        ) as opened:
            found.append(opened.infer({"image": HALF.apply(GRADIENT)[None]})["probability"])
    step_of_the_head = 8 / 255 * 4
    assert np.abs(found[0] - found[1]).mean() < step_of_the_head / 20


@pytest.mark.parametrize("contract", [IMAGENET, None], ids=["each channel its own", "none"])
def test_where_no_one_scale_fits_the_table_decides(
    contract: Preprocess | None, tmp_path: Path
) -> None:
    int8 = quantized(first_layer(tmp_path / "net.onnx", contract=contract))
    model = load_model(int8.path)
    assert not [node for node in model.graph.node if node.op_type == "Add"]
    scale = next(t for t in model.graph.initializer if t.name == "image/scale")
    assert numpy_helper.to_array(scale) == np.float32(2 / 255)


def test_a_first_layer_in_float_gets_the_image_untouched(tmp_path: Path) -> None:
    source = first_layer(tmp_path / "net.onnx", contract=HALF)
    nodes = load_model(quantized(source, exclude=("first",)).path).graph.node
    assert next(node for node in nodes if node.name == "first").input[0] == "image"
    assert not [node for node in nodes if node.op_type == "Add"]


def test_an_input_that_something_else_reads_keeps_its_values() -> None:
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], name="conv"),
        helper.make_node("Concat", ["image", "a"], ["b"], name="concat", axis=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, None)
    graph = onnx.GraphProto(node=nodes, input=[image])
    assert takes_pixels(graph, {"conv", "concat"}) is None
    graph = onnx.GraphProto(node=nodes[:1], input=[image])
    assert takes_pixels(graph, {"conv"}) == "image"
    assert takes_pixels(graph, set()) is None


@pytest.mark.parametrize("contract", [HALF, FROM_ZERO])
def test_zero_lies_within_half_a_level_of_its_integer(contract: Preprocess) -> None:
    levels = pixel_levels(contract, ORT_X86)
    assert levels is not None
    assert abs(levels.shift) <= levels.params.scale / 2
    black = contract.normalise(np.zeros((1, 1, 3), np.uint8)).ravel()[0]
    steps = (black + levels.shift) / levels.params.scale + levels.params.zero_point
    assert steps == pytest.approx(0, abs=1e-4)
