"""Bias and products share one int32: every sum fits, whichever kernel adds it up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tiny import quantized

from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.exchange import imported_range
from segdeploy.calibration.qparams import quantize
from segdeploy.calibration.table import imported_table
from segdeploy.calibration.weights import (
    INT32_LIMIT,
    bias_params,
    largest_products,
    per_channel_weight,
    quantize_weight,
    smallest_weight_scale,
)
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import describe, load_model, save_model, set_metadata
from segdeploy.deploy.sensitivity.layer_errors import compare_layers
from segdeploy.deploy.sensitivity.section import worth_excluding
from segdeploy.deploy.targets.profiles import PROFILES, TargetProfile

SIDE = 8


@pytest.fixture(scope="module")
def nearly_dead(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A channel with weights of 1e-6 and a bias of half: a folded BatchNorm that hardly scales."""
    draw = np.random.default_rng(4)
    weight = (draw.standard_normal((8, 8, 3, 3)) * 0.15).astype(np.float32)
    bias = (draw.standard_normal(8) * 0.1).astype(np.float32)
    weight[0], bias[0] = 1.7e-6 * (0.5 + 0.5 * draw.random((8, 3, 3))), 0.5
    weight[1], bias[1] = -weight[0], -0.5
    first = (draw.standard_normal((8, 3, 3, 3)) * 0.27).astype(np.float32)
    last = (draw.standard_normal((1, 8, 1, 1)) * 0.3).astype(np.float32)
    last[0, 0] = 4
    held = {"w1": first, "w2": weight, "b2": bias, "w3": last, "b3": np.array([-1.9], np.float32)}
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], name="c1", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], name="r1"),
        helper.make_node("Conv", ["b", "w2", "b2"], ["c"], name="c2", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["d"], name="r2"),
        helper.make_node("Conv", ["d", "w3", "b3"], ["e"], name="c3"),
        helper.make_node("Sigmoid", ["e"], ["probability"], name="s"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, SIDE, SIDE])
        for name, channels in (("image", 3), ("probability", 1))
    ]
    graph = helper.make_graph(
        nodes, "net", ends[:1], ends[1:], [numpy_helper.from_array(v, n) for n, v in held.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    set_metadata(model, {"precision": "fp32"})
    path = tmp_path_factory.mktemp("nearly_dead") / "net.onnx"
    save_model(model, path)
    return describe(path)


def int8_of(source: Artifact, path: Path, profile: TargetProfile) -> Artifact:
    ranges = {"image": (-1.0, 1.0), "b": (0.0, 2.0), "d": (0.0, 3.0)}
    table = imported_table({n: imported_range(*r, "a test") for n, r in ranges.items()})
    return quantized(source, path, table, profile=profile)


def images(count: int = 4) -> list[NDArray[np.float32]]:
    draw = np.random.default_rng(0)
    return [draw.uniform(-1, 1, (3, SIDE, SIDE)).astype(np.float32) for _ in range(count)]


def run(path: Path, *, optimised: bool) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": image[None]})[0] for image in images()])


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_kernels_that_add_in_int32_give_what_the_file_says(
    nearly_dead: Artifact, tmp_path: Path, profile: TargetProfile
) -> None:
    made = int8_of(nearly_dead, tmp_path / "int8.onnx", profile)
    plain, fused = run(made.path, optimised=False), run(made.path, optimised=True)
    assert np.abs(plain - fused).max() < 0.02
    expected = run(nearly_dead.path, optimised=True)
    assert np.abs(fused - expected).max() < 0.1


def test_every_sum_of_a_file_fits(nearly_dead: Artifact, tmp_path: Path) -> None:
    made = int8_of(nearly_dead, tmp_path / "int8.onnx", PROFILES["ort-x86"])
    held = {t.name: numpy_helper.to_array(t) for t in load_model(made.path).graph.initializer}
    bias, weight = held["c2.bias/q"].astype(np.int64), held["w2/q"]
    sums = np.abs(bias) + largest_products(weight)
    assert sums.max() <= INT32_LIMIT
    assert sums[0] > 0.99 * INT32_LIMIT  # as fine as it can be


@pytest.mark.parametrize("values", [1, 72, 4608])
def test_the_smallest_scale_leaves_room_for_the_products(values: int) -> None:
    draw = np.random.default_rng(values)
    weight = draw.standard_normal((3, values)).astype(np.float32) * np.float32(1e-7)
    bias, scale = np.array([1.0, -1.0, 0.0], np.float32), np.float32(0.01)
    least = smallest_weight_scale(bias, input_scale=scale, weight=weight)
    params = per_channel_weight(weight, axis=0, min_scale=least)
    integers = quantize_weight(weight, params)
    steps = quantize(
        bias,
        bias_params(bias, input_scale=scale, weight_scale=params.scale, integers=integers),
    )
    assert (np.abs(steps.astype(np.int64)) + largest_products(integers) <= INT32_LIMIT).all()


def test_a_bias_without_room_is_refused() -> None:
    scale = np.float32(2.0**-31)
    bias, integers = np.array([0.9], np.float32), np.full((1, 9000), 127, np.int8)
    one = np.ones(1, np.float32)
    assert bias_params(bias, input_scale=scale, weight_scale=one).axis == 0
    with pytest.raises(CalibrationError, match=r"more than int32 holds .* beside its products"):
        bias_params(bias, input_scale=scale, weight_scale=one, integers=integers)


def test_usual_weights_keep_the_scale_of_their_peak() -> None:
    draw = np.random.default_rng(1)
    weight = draw.standard_normal((4, 512, 3, 3)).astype(np.float32)
    bias, scale = draw.standard_normal(4).astype(np.float32), np.float32(0.02)
    least = smallest_weight_scale(bias, input_scale=scale, weight=weight)
    found = per_channel_weight(weight, axis=0, min_scale=least).scale
    np.testing.assert_array_equal(found, per_channel_weight(weight, axis=0).scale)


class TestDebug:
    def test_a_file_whose_sums_wrap_is_named(self, nearly_dead: Artifact, tmp_path: Path) -> None:
        made = int8_of(nearly_dead, tmp_path / "int8.onnx", PROFILES["ort-x86"])
        model = load_model(made.path)
        for tensor in model.graph.initializer:
            if tensor.name == "c2.bias/q":
                steps = numpy_helper.to_array(tensor).copy()
                steps[0] = INT32_LIMIT
                tensor.CopyFrom(numpy_helper.from_array(steps, tensor.name))
        onnx.save(model, tmp_path / "wraps.onnx")
        found = compare_layers(nearly_dead, describe(tmp_path / "wraps.onnx"), images(), threads=1)
        assert found[0].name == "c2"
        assert found[0].fault == "bias"
        assert 100 < (found[0].int32_percent or 0) < 110
        assert worth_excluding(found)[0].name == "c2"

    def test_a_file_of_ours_has_no_such_layer(self, nearly_dead: Artifact, tmp_path: Path) -> None:
        made = int8_of(nearly_dead, tmp_path / "int8.onnx", PROFILES["ort-x86"])
        found = compare_layers(nearly_dead, made, images(), threads=1)
        assert [layer.int32_percent for layer in found] == [None] * 3
