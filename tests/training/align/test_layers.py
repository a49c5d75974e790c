"""Layer by layer: what agrees, and which layer is named where one does not."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from tiny import TINY

from segdeploy.deploy.models import R2UNet, UNetPlusPlus
from segdeploy.deploy.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from segdeploy.deploy.models.networks import Network
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import describe, load_model
from segdeploy.deploy.runtimes.base import Execution
from segdeploy.deploy.runtimes.registry import RuntimeName, availability
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.training.align.layers import DEFAULT_TOLERANCE, LayerAlignment, align_layers
from segdeploy.training.align.onnx import OnnxValues, activations, perturb
from segdeploy.training.align.pytorch import PyTorchValues

ONE = Execution(threads=1)
ORT = RuntimeName.ONNXRUNTIME
HERE = [name for name in (ORT, RuntimeName.OPENVINO) if availability(name).ready]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A tiny checkpoint and its export."""

    checkpoint: Checkpoint
    artifact: Artifact


def exported(network: Network, folder: Path, name: str, **stated: int) -> Pair:
    path = folder / f"{name}.safetensors"
    save_checkpoint(network, path, preprocess=TINY)
    checkpoint = load_checkpoint(path, **stated)  # type: ignore[arg-type]  # whole numbers all
    return Pair(checkpoint, export(checkpoint, folder / f"{name}.onnx"))


@pytest.fixture(scope="module")
def unet(_tiny_unet: UNetPlusPlus, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return exported(_tiny_unet, tmp_path_factory.mktemp("unet"), "tiny_unet")


@pytest.fixture(scope="module")
def r2u(_tiny_r2u: R2UNet, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return exported(_tiny_r2u, tmp_path_factory.mktemp("r2u"), "tiny_r2u")


@pytest.fixture(params=["unet", "r2u"])
def pair(request: pytest.FixtureRequest) -> Pair:
    found: Pair = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.float32]]:
    generator = np.random.default_rng(1)
    return list(generator.uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32))


def aligned(
    checkpoint: Checkpoint, artifact: Artifact, images: list[NDArray[np.float32]]
) -> LayerAlignment:
    (found,) = align_layers(PyTorchValues(checkpoint), artifact, [ORT], images, execution=ONE)
    return found


def test_every_activation_of_the_file_is_found_in_pytorch_by_its_name_and_in_its_order(
    pair: Pair, images: list[NDArray[np.float32]]
) -> None:
    reference = PyTorchValues(pair.checkpoint)
    in_file = [found.name for found in activations(load_model(pair.artifact.path))]
    assert list(reference.names) == in_file
    values = reference.values(images[0])
    with torch.inference_mode():
        expected = pair.checkpoint.probability()(torch.from_numpy(images[0][None])).numpy()
    assert np.array_equal(values["probability"], expected)
    relus = [name for name in values if name.endswith("/Relu")]
    assert relus
    for name in relus:  # the convolution's output, kept before the ReLU overwrote it
        assert np.array_equal(values[name], np.maximum(values[name.removesuffix("/Relu")], 0))


def test_the_heads_of_unet_plus_plus_have_the_files_names(
    tiny_unet: UNetPlusPlus, tmp_path: Path, images: list[NDArray[np.float32]]
) -> None:
    shallow = exported(tiny_unet, tmp_path, "l1", head=1)
    found = aligned(shallow.checkpoint, shallow.artifact, images)
    assert not found.left_out
    assert found.passed
    assert "final1" in [layer.name for layer in found.layers]


@pytest.mark.parametrize("runtime", HERE)
def test_pytorch_and_the_runtimes_agree_layer_by_layer(
    pair: Pair, images: list[NDArray[np.float32]], runtime: RuntimeName
) -> None:
    reference = PyTorchValues(pair.checkpoint)
    (found,) = align_layers(reference, pair.artifact, [runtime], images, execution=ONE)
    assert found.passed, found.first_departure
    assert not found.left_out
    assert found.images == 2
    assert [layer.name for layer in found.layers] == list(reference.names)
    assert max(layer.difference.max_abs for layer in found.layers) > 0, "compared with itself?"
    assert found.as_json()["first_departure"] is None


@pytest.mark.parametrize("runtime", HERE)
@pytest.mark.parametrize(
    ("which", "layer"),
    [
        ("unet", "conv0_0.conv.0"),
        ("unet", "conv2_1.conv.3"),
        ("unet", "final4"),
        ("r2u", "RRCNN3.RCNN.1.conv.0"),
        ("r2u", "Conv_1x1"),
    ],
)
def test_a_weight_off_by_a_thousandth_is_named_as_the_first_departure(
    which: str,
    layer: str,
    runtime: RuntimeName,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    images: list[NDArray[np.float32]],
) -> None:
    pair: Pair = request.getfixturevalue(which)
    before = pair.artifact.path.read_bytes()
    faulty = perturb(pair.artifact, tmp_path / "faulty.onnx", layer=layer, by=1e-3)
    reference = PyTorchValues(pair.checkpoint)
    (found,) = align_layers(reference, faulty, [runtime], images, execution=ONE)
    assert found.first_departure is not None
    assert found.first_departure.name == layer
    assert found.output.departs
    assert not found.passed
    earlier = list(reference.names)[: reference.names.index(layer)]
    assert not any(found_layer.departs for found_layer in found.layers[: len(earlier)])
    assert pair.artifact.path.read_bytes() == before


def test_a_fault_in_an_operator_without_weights_is_named(
    unet: Pair, tmp_path: Path, images: list[NDArray[np.float32]]
) -> None:
    model = load_model(unet.artifact.path)
    (third,) = [node for node in model.graph.node if node.name == "Resize@3"]
    for attribute in third.attribute:
        if attribute.name == "coordinate_transformation_mode":
            attribute.s = b"half_pixel"  # PyTorch's align_corners=False
    onnx.save(model, tmp_path / "faulty.onnx")
    found = aligned(unet.checkpoint, describe(tmp_path / "faulty.onnx"), images)
    assert found.first_departure is not None
    assert (found.first_departure.name, found.first_departure.operator) == ("Resize@3", "Resize")


def test_a_layer_that_is_nan_departs(
    unet: Pair, tmp_path: Path, images: list[NDArray[np.float32]]
) -> None:
    faulty = perturb(unet.artifact, tmp_path / "nan.onnx", layer="conv1_1.conv.0", by=math.nan)
    found = aligned(unet.checkpoint, faulty, images)
    assert found.first_departure is not None
    assert found.first_departure.name == "conv1_1.conv.0"
    json.dumps(found.as_json(), allow_nan=False)


def test_two_files_are_compared_by_the_names_they_share(
    unet: Pair, tmp_path: Path, images: list[NDArray[np.float32]]
) -> None:
    faulty = perturb(unet.artifact, tmp_path / "faulty.onnx", layer="conv3_0.conv.0")
    with OnnxValues(unet.artifact, ORT, execution=ONE) as reference:
        good, bad = (
            align_layers(reference, file, [ORT], images, execution=ONE)[0]
            for file in (unet.artifact, faulty)
        )
    assert good.passed
    assert len(good.layers) == 86
    assert bad.first_departure is not None
    assert bad.first_departure.name == "conv3_0.conv.0"


def test_a_file_of_another_network_is_refused(
    unet: Pair, tmp_path: Path, images: list[NDArray[np.float32]]
) -> None:
    model = load_model(unet.artifact.path)
    model.graph.node[-1].output[0] = model.graph.output[0].name = "mask"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="returns 'mask', which PyTorch fp32 does not compute"):
        aligned(unet.checkpoint, describe(tmp_path / "other.onnx"), images)


def test_nothing_compared_is_no_agreement(unet: Pair, images: list[NDArray[np.float32]]) -> None:
    reference = PyTorchValues(unet.checkpoint)
    for runtimes, some in (([], images), ([ORT], [])):
        with pytest.raises(UsageError, match="expected one of each or more"):
            align_layers(reference, unet.artifact, runtimes, some, execution=ONE)


def test_a_layer_that_is_not_there_cannot_be_perturbed(unet: Pair, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no layer 'conv2_1.conv.2'.*did you mean 'conv2_1"):
        perturb(unet.artifact, tmp_path / "x.onnx", layer="conv2_1.conv.2")


def test_the_default_tolerance_is_far_below_a_fault_of_a_thousandth() -> None:
    assert DEFAULT_TOLERANCE <= 1e-3 / 20
