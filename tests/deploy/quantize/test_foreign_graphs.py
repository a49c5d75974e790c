"""int8 of graphs as others write them: types, constants and shapes tell what is quantized."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import random_onnx
from onnx import TensorProto, helper, numpy_helper
from random_onnx import SIDE, Layer, random_model

from segdeploy.deploy.data.image_set import SegmentationSet, open_set
from segdeploy.deploy.data.presets import preset
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import describe, load_model, metadata, set_metadata
from segdeploy.deploy.onnx_model.shapes import float_tensors
from segdeploy.deploy.quantize.activations import followed_ranges, plan_observation
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.system.errors import InputError
from segdeploy.deploy.targets.profiles import ORT_X86

CONTRACT = preset("zero-one", (SIDE, SIDE))


@pytest.fixture(scope="module")
def images(
    tmp_path_factory: pytest.TempPathFactory, make_image_set: Callable[[Path, list[str]], Path]
) -> SegmentationSet:
    root = tmp_path_factory.mktemp("images") / "set"
    return open_set(make_image_set(root, ["train", "train", "val", "test"]), "train")


def written(layer: Layer, path: Path, *, seed: int = 0) -> Artifact:
    """A drawn graph with a contract, as it is: nothing adopts it."""
    model = random_model([layer], seed=seed)
    set_metadata(model, {"preprocess": CONTRACT.to_json(), "precision": "fp32"})
    path.write_bytes(model.SerializeToString())
    return describe(path)


def quantized(source: Artifact, images: SegmentationSet) -> onnx.ModelProto:
    table = calibrate(source, images, preprocess=CONTRACT, threads=1)
    path = source.path.with_name("int8.onnx")
    return load_model(
        to_int8(source, path, table=table, table_sha256="ab" * 32, profile=ORT_X86).path
    )


def constants_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:  # type: ignore[type-arg]  # of any type
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def test_a_convolution_with_a_computed_weight_stays_in_float_and_is_named(
    images: SegmentationSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = written(random_onnx.computed_weight, tmp_path / "x.onnx")
    convolutions = [n for n in load_model(source.path).graph.node if n.op_type == "Conv"]
    with caplog.at_level(logging.WARNING):
        model = quantized(source, images)
    name = convolutions[0].name
    assert f"{name} (Conv) stays in float" in caplog.text
    assert metadata(model)["float_layers"] == name
    kept, last = (n for n in model.graph.node if n.op_type == "Conv")
    assert kept.input[1] == convolutions[0].input[1]
    assert last.input[1].endswith("/weight/dq")


@pytest.mark.parametrize("seed", range(0, 8, 2))
def test_a_constant_beside_an_activation_is_rounded_to_half_a_step(
    seed: int, images: SegmentationSet, tmp_path: Path
) -> None:
    source = written(joined_with_a_constant, tmp_path / "x.onnx", seed=seed)
    model = quantized(source, images)
    before, after = constants_of(load_model(source.path)), constants_of(model)
    stored = [name.removesuffix("/joined/q") for name in after if name.endswith("/joined/q")]
    assert len(stored) == 2
    for name in stored:
        scale, zero = after[f"{name}/joined/scale"], after[f"{name}/joined/zero_point"]
        real = (after[f"{name}/joined/q"].astype(int) - zero.astype(int)) * scale
        assert np.abs(real - before[name]).max() <= scale * 0.5001 + 1e-7


def joined_with_a_constant(s: random_onnx.Sketch) -> None:
    """A Concat and an Add of a constant each."""
    x = s.add("Concat", s.last, s.constant(s.normal(1, 2, SIDE, SIDE)), axis=1)
    s.keep(s.add("Add", x, s.constant(s.normal(5, 1, 1))), (5, SIDE, SIDE))


def test_a_concat_of_a_constant_is_observed_itself(tmp_path: Path) -> None:
    model = load_model(written(joined_with_a_constant, tmp_path / "x.onnx").path)
    plan = plan_observation(model)
    (concat,) = (node for node in model.graph.node if node.op_type == "Concat")
    assert concat.output[0] in plan.observed
    assert plan.summed == {}


@pytest.mark.parametrize(("mode", "follows"), [("nearest", 1), ("linear", 1), ("cubic", 0)])
def test_a_resize_that_overshoots_has_a_range_of_its_own(mode: str, follows: int) -> None:
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], mode=mode)
    assert len(followed_ranges(helper.make_graph([node], "g", [], []))) == follows


@pytest.mark.parametrize("layer", [random_onnx.windows, random_onnx.resized, random_onnx.masked])
def test_only_finite_floats_are_quantized(
    layer: Layer, images: SegmentationSet, tmp_path: Path
) -> None:
    for seed in range(0, 6, 2):  # odd ones give nodes one name, which ONNX Runtime refuses
        model = quantized(written(layer, tmp_path / "x.onnx", seed=seed), images)
        floats = float_tensors(model)
        rounded = [n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"]
        assert rounded
        assert set(rounded) <= floats
        assert all(np.isfinite(v).all() for n, v in constants_of(model).items() if "/scale" in n)


def test_a_graph_with_nothing_to_quantize_says_so(images: SegmentationSet, tmp_path: Path) -> None:
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, SIDE, SIDE])
        for name in ("image", "y")
    ]
    graph = helper.make_graph(
        [helper.make_node("Sigmoid", ["image"], ["y"])], "g", ends[:1], ends[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    set_metadata(model, {"preprocess": CONTRACT.to_json(), "precision": "fp32"})
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="no layer that int8 is for; expected one of Conv"):
        calibrate(describe(tmp_path / "x.onnx"), images, preprocess=CONTRACT, threads=1)
