"""The exported file computes what PyTorch computes, shares what it shares, and says what it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from tiny import TINY
from torch import nn

import segdeploy
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.models import R2UNet, UNetPlusPlus
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from segdeploy.deploy.models.networks import build_network
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision, TensorSpec
from segdeploy.deploy.onnx_model.file import metadata, output_of
from segdeploy.deploy.stages.export import OPSET, export, fold_batch_norm
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.errors import RunError

NETWORKS = ("r2u_net", "head 1", "head 2", "head 3", "head 4")
Exported = tuple[Checkpoint, Artifact]


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, _tiny_unet: UNetPlusPlus, _tiny_r2u: R2UNet
) -> dict[str, Exported]:
    """R2U-Net and every head of UNet++, loaded from a file and exported."""
    folder = tmp_path_factory.mktemp("exported")
    save_checkpoint(_tiny_unet, folder / "unet.safetensors", preprocess=TINY)
    save_checkpoint(_tiny_r2u, folder / "r2u.safetensors", preprocess=TINY)
    loaded = {
        f"head {head}": load_checkpoint(folder / "unet.safetensors", head=head)
        for head in (1, 2, 3, 4)
    }
    loaded["r2u_net"] = load_checkpoint(folder / "r2u.safetensors")
    return {
        name: (checkpoint, export(checkpoint, folder / "made" / f"{name}.onnx"))
        for name, checkpoint in loaded.items()
    }


@pytest.fixture
def images(image_set: Path) -> NDArray[np.float32]:
    return open_set(image_set, None).inputs(TINY)


def graph_of(artifact: Artifact) -> onnx.GraphProto:
    return onnx.load(artifact.path).graph


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_computes_what_pytorch_computes_at_any_batch(
    exported: dict[str, Exported], images: NDArray[np.float32], name: str
) -> None:
    checkpoint, artifact = exported[name]
    with torch.inference_mode():
        expected = checkpoint.probability()(torch.from_numpy(images)).numpy()
    assert expected.std() > 0.05, "a network that says the same everywhere would prove nothing"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        artifact.path, options, providers=["CPUExecutionProvider"]
    )
    for batch in (1, 3, len(images)):
        (found,) = session.run(["probability"], {"image": images[:batch]})
        assert found.shape == (batch, 1, 32, 32)
        np.testing.assert_allclose(found, expected[:batch], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_batch_norm_is_folded_and_nothing_but_the_network_is_left(
    exported: dict[str, Exported], name: str
) -> None:
    operators = {node.op_type for node in graph_of(exported[name][1]).node}
    assert operators <= {"Add", "Concat", "Conv", "MaxPool", "Relu", "Resize", "Sigmoid"}


@pytest.mark.parametrize("head", [1, 2, 3, 4])
def test_a_shallower_head_leaves_no_dead_branch(exported: dict[str, Exported], head: int) -> None:
    graph = graph_of(exported[f"head {head}"][1])
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    blocks = (head + 1) * (head + 2) // 2
    assert len(convolutions) == 2 * blocks + 1
    assert [name for name in convolutions if name.startswith("final")] == [f"final{head}"]
    used = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= used


def test_recurrent_weights_stay_shared(exported: dict[str, Exported]) -> None:
    checkpoint, artifact = exported["r2u_net"]
    modules = [m for m in checkpoint.network.modules() if isinstance(m, nn.Conv2d)]
    uses = Counter(n.input[1] for n in graph_of(artifact).node if n.op_type == "Conv")
    assert len(uses) == len(modules)
    assert {w for w, count in uses.items() if count == 3} == {w for w in uses if ".RCNN." in w}
    assert set(uses.values()) == {1, 3}
    weights_bytes = 4 * sum(p.numel() for module in modules for p in module.parameters())
    assert weights_bytes < artifact.path.stat().st_size < weights_bytes + 60_000


def test_layers_are_named_after_their_weights(exported: dict[str, Exported]) -> None:
    graph = graph_of(exported["r2u_net"][1])
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert names[:6] == [
        "RRCNN1.Conv_1x1",
        "RRCNN1.RCNN.0.conv.0",
        "RRCNN1.RCNN.0.conv.0/Relu",
        "Add@1",
        "RRCNN1.RCNN.0.conv.0@2",
        "RRCNN1.RCNN.0.conv.0@2/Relu",
    ]
    for node in graph.node:
        assert list(node.output) in ([node.name], ["probability"])


def test_weights_keep_their_names_in_the_checkpoint(exported: dict[str, Exported]) -> None:
    for name in ("r2u_net", "head 4"):
        checkpoint, artifact = exported[name]
        graph = graph_of(artifact)
        read = {n.input[i] for n in graph.node if n.op_type == "Conv" for i in (1, 2)}
        assert read <= set(checkpoint.network.state_dict())


def test_metadata_says_where_the_file_comes_from(exported: dict[str, Exported]) -> None:
    checkpoint, artifact = exported["head 2"]
    common = {
        "author": "segdeploy",
        "version": segdeploy.__version__,
        "task": "semantic segmentation",
        "classes": "nucleus",
        "preprocess": TINY.to_json(),
        "precision": "fp32",
        "source_network_returned": "probability",
    }
    assert metadata(onnx.load(artifact.path)) == common | {
        "arch": "unet_plus_plus",
        "family": "UNET-ZOO",
        "checkpoint_sha256": sha256_of(checkpoint.path),
        "head": "2",
    }
    checkpoint, artifact = exported["r2u_net"]
    assert metadata(onnx.load(artifact.path)) == common | {
        "arch": "r2u_net",
        "family": "UNET-ZOO or LeeJunHyun Image_Segmentation",
        "checkpoint_sha256": sha256_of(checkpoint.path),
        "recurrence": "2",
    }


def test_the_artifact_describes_the_file(exported: dict[str, Exported]) -> None:
    artifact = exported["head 1"][1]
    model = onnx.load(artifact.path)
    assert artifact.precision is Precision.FP32
    assert artifact.opset == OPSET == model.opset_import[0].version
    assert artifact.inputs == (
        TensorSpec(name="image", shape=("batch", 3, 32, 32), dtype="float32"),
    )
    assert artifact.outputs == (
        TensorSpec(name="probability", shape=("batch", 1, 32, 32), dtype="float32"),
    )
    assert (artifact.sha256, artifact.parent) == (sha256_of(artifact.path), None)


@pytest.mark.uncached
def test_exporting_again_gives_the_same_bytes_changes_nothing_and_prints_nothing(
    exported: dict[str, Exported], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint = load_checkpoint(exported["head 1"][0].path, head=1)
    before = {key: value.clone() for key, value in checkpoint.network.state_dict().items()}
    again = export(checkpoint, tmp_path / "again.onnx")
    assert again.path.read_bytes() == exported["head 1"][1].path.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.onnx"]
    after = checkpoint.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert capfd.readouterr() == ("", "")


def test_the_file_tells_nothing_of_the_machine(exported: dict[str, Exported]) -> None:
    for checkpoint, artifact in exported.values():
        content = artifact.path.read_bytes()
        for where in (
            Path(segdeploy.__file__).parent,
            Path(torch.__file__).parent,
            checkpoint.path,
        ):
            assert str(where).encode() not in content


def test_folding_keeps_the_function(
    exported: dict[str, Exported], images: NDArray[np.float32]
) -> None:
    network = exported["head 1"][0].probability()
    folded = fold_batch_norm(network)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.inference_mode():
        batch = torch.from_numpy(images)
        torch.testing.assert_close(folded(batch), network(batch), rtol=0, atol=1e-5)


def test_a_network_pytorch_cannot_export_is_a_run_error_that_leaves_no_file(
    exported: dict[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.onnx.OnnxExporterError("no rule for this operator")

    monkeypatch.setattr("torch.onnx.export", refuse)
    checkpoint = exported["head 1"][0]
    with pytest.raises(RunError, match=r"unet\.safetensors: no rule for this operator"):
        export(checkpoint, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("activation", list(Activation))
def test_every_class_is_a_channel_of_probabilities(activation: Activation, tmp_path: Path) -> None:
    output = OutputContract(activation=activation, classes=("sky", "sea", "sand"))
    network = build_network(Architecture.U_NET_BILINEAR, num_classes=3, width=2).eval()
    path = tmp_path / "net.safetensors"
    save_checkpoint(network, path, preprocess=TINY, output=output)
    checkpoint = load_checkpoint(path)
    artifact = export(checkpoint, tmp_path / "net.onnx")
    assert artifact.outputs[0].shape == ("batch", 3, 32, 32)
    assert output_of(artifact) == output
    image = np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        expected = checkpoint.probability()(torch.from_numpy(image)).numpy()
    session = onnxruntime.InferenceSession(artifact.path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["probability"], {"image": image})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    if output.exclusive:
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=0, atol=1e-5)
