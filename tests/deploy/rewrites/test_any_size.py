"""any_size: the same function at the old size, the network's own at any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tiny import TINY, made_up_table, quantized

from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models import R2UNet, UNetPlusPlus
from segdeploy.deploy.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.cost import onnx_cost
from segdeploy.deploy.onnx_model.file import (
    describe,
    load_model,
    output_entries,
    save_model,
    set_metadata,
)
from segdeploy.deploy.onnx_model.graph import constant
from segdeploy.deploy.rewrites.any_size import any_size
from segdeploy.deploy.runtimes.base import Execution
from segdeploy.deploy.runtimes.executed import file_layers
from segdeploy.deploy.runtimes.registry import RuntimeName, availability, open_runtime
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.stages.rewrite import RewriteName, rewrite, summary
from segdeploy.deploy.stages.to_fp16 import to_fp16
from segdeploy.deploy.system.errors import InputError

OTHER_SIZES = ((16, 16), (48, 80))
TOLERANCE = 1e-4
ROUNDING = 1e-5
"""Where ONNX Runtime, not knowing the size, takes another kernel."""
ORT = RuntimeName.ONNXRUNTIME
Build = Callable[[str], tuple[Artifact, Checkpoint]]


@pytest.fixture(scope="module")
def build(
    tmp_path_factory: pytest.TempPathFactory, _tiny_unet: UNetPlusPlus, _tiny_r2u: R2UNet
) -> Build:
    """Function from what a model is to its file of one size, and the checkpoint it is from."""
    root = tmp_path_factory.mktemp("any_size")
    loaded = {}
    for name, network in (("unet", _tiny_unet), ("r2u", _tiny_r2u)):
        save_checkpoint(network, root / f"{name}.safetensors", preprocess=TINY)
        loaded[name] = load_checkpoint(root / f"{name}.safetensors")
    plain = {name: export(kept, root / f"{name}.onnx") for name, kept in loaded.items()}

    def int8() -> Artifact:
        return quantized(plain["unet"], root / "int8.onnx", made_up_table(plain["unet"]))

    def build(kind: str) -> tuple[Artifact, Checkpoint]:
        if kind in plain:
            return plain[kind], loaded[kind]
        if kind == "r2u rewritten":
            names = [RewriteName.RECURRENT_SUM, RewriteName.UPSAMPLE_CONVOLUTION]
            return rewrite(plain["r2u"], root / "r2u.opt.onnx", names=names), loaded["r2u"]
        base = int8() if "int8" in kind else to_fp16(plain["unet"], root / "fp16.onnx")
        if kind.startswith("mask"):
            base = plain["unet"] if kind == "mask" else base
            base = rewrite(base, root / "mask.onnx", names=[RewriteName.IMAGE_INTERFACE])
        return base, loaded["unet"]

    return build


def infer(
    artifact: Artifact, feed: NDArray[np.generic], *, on: RuntimeName = ORT
) -> NDArray[np.generic]:
    with open_runtime(on, artifact, execution=Execution(threads=1)) as runtime:
        (found,) = runtime.infer({artifact.inputs[0].name: feed}).values()
    return found


def freed(artifact: Artifact) -> Artifact:
    return rewrite(artifact, artifact.path.with_suffix(".any.onnx"), names=[RewriteName.ANY_SIZE])


def feed_for(artifact: Artifact, size: tuple[int, int]) -> NDArray[np.generic]:
    generator = np.random.default_rng(size[1])
    if artifact.inputs[0].dtype == "uint8":
        return generator.integers(0, 256, (1, *size, 3), np.uint8)
    return generator.uniform(-1, 1, (1, 3, *size)).astype(np.float32)


KINDS = ["unet", "r2u", "r2u rewritten", "fp16", "int8", "mask", "mask int8"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_old_size_gives_the_same_and_others_their_own_size(build: Build, kind: str) -> None:
    source, _ = build(kind)
    free = freed(source)
    feed = feed_for(source, TINY.size)
    one, other = (infer(artifact, feed).astype(np.float32) for artifact in (free, source))
    assert np.abs(one - other).max() <= (ROUNDING if kind == "r2u rewritten" else 0)
    for size in OTHER_SIZES:
        shape = infer(free, feed_for(free, size)).shape
        assert shape == ((1, *size) if "mask" in kind else (1, 1, *size))
    assert onnx_cost(free.path).macs == onnx_cost(source.path).macs > 0, "at the contract's size"
    assert len(file_layers(free.path)) == len(file_layers(source.path)) > 0


@pytest.mark.parametrize("kind", ["unet", "r2u", "r2u rewritten"])
@pytest.mark.parametrize("size", OTHER_SIZES)
def test_at_any_size_it_is_the_checkpoint_s_network(
    build: Build, kind: str, size: tuple[int, int]
) -> None:
    source, checkpoint = build(kind)
    free = freed(source)
    feed = feed_for(free, size)
    with torch.inference_mode():
        expected = checkpoint.probability()(torch.from_numpy(feed)).numpy()
    runtimes = [name for name in (ORT, RuntimeName.OPENVINO) if availability(name).ready]
    for name in runtimes:
        assert np.abs(infer(free, feed, on=name) - expected).max() < TOLERANCE


def test_what_is_free_already_stays_as_it_is(build: Build, tmp_path: Path) -> None:
    free = freed(build("unet")[0])
    again = rewrite(free, tmp_path / "again.onnx", names=[RewriteName.ANY_SIZE])
    assert summary(free).startswith("1 any-size")
    assert summary(again) == "nothing to rewrite"
    assert again.inputs == free.inputs


def test_a_free_model_becomes_fp16_and_an_image_model(build: Build, tmp_path: Path) -> None:
    free = freed(build("unet")[0])
    half = to_fp16(free, tmp_path / "half.onnx")
    mask = rewrite(half, tmp_path / "mask.onnx", names=[RewriteName.IMAGE_INTERFACE])
    assert infer(mask, feed_for(mask, (48, 80))).shape == (1, 48, 80)


def test_classes_that_exclude_each_other_have_no_size_of_their_own(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["image"], ["probability"], name="softmax", axis=1)],
        "classes",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", 3, 32, 32])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    three = OutputContract(activation=Activation.SOFTMAX, classes=("background", "cell", "wall"))
    preprocess = Preprocess(size=(32, 32), channel_order="RGB")
    set_metadata(model, {"preprocess": preprocess.to_json()} | output_entries(three))
    save_model(model, tmp_path / "classes.onnx")
    masks = rewrite(
        describe(tmp_path / "classes.onnx"),
        tmp_path / "mask.onnx",
        names=[RewriteName.IMAGE_INTERFACE, RewriteName.ANY_SIZE],
    )
    pixels = feed_for(masks, (48, 80))
    assert np.array_equal(infer(masks, pixels), pixels.argmax(axis=3))


@pytest.mark.parametrize(
    ("operator", "inputs", "value"),
    [
        ("Reshape", ["image", "value"], np.array([1, 1, 32, 32])),
        ("Add", ["image", "value"], np.ones((1, 1, 32, 32), np.float32)),
        ("Resize", ["image", "", "", "value"], np.array([1, 1, 32, 32])),
    ],
)
def test_a_graph_that_may_fix_the_size_is_refused(
    tmp_path: Path, operator: str, inputs: list[str], value: NDArray[np.generic]
) -> None:
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["probability"], name="culprit")],
        "fixed",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 32, 32])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", 1, 32, 32])],
        [constant("value", value)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    save_model(model, tmp_path / "fixed.onnx")
    with pytest.raises(InputError, match=rf"node 'culprit' \({operator}\) may fix the size"):
        any_size(onnx.load(tmp_path / "fixed.onnx"))


def test_without_a_contract_the_size_is_not_guessed(build: Build, tmp_path: Path) -> None:
    model = load_model(freed(build("unet")[0]).path)
    del model.metadata_props[:]
    save_model(model, tmp_path / "bare.onnx")
    with pytest.raises(InputError, match="has a dynamic height; state the image size"):
        onnx_cost(tmp_path / "bare.onnx")
    assert onnx_cost(tmp_path / "bare.onnx", size=(64, 32)).macs > 0
    assert describe(tmp_path / "bare.onnx").inputs[0].shape[2:] == ("height", "width")
