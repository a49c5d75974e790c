"""The differentiable form of an int8 file computes what the file computes, before and after."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tiny import (
    SPLIT_OF_TWELVE,
    TINY,
    made_up_table,
    randomised,
    write_image_set,
    write_small_onnx,
)

import segdeploy.training.loop
from segdeploy.api.data import Data
from segdeploy.api.train import train as train_on
from segdeploy.benchmarks.scores.accuracy import iou_per_image
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.checkpoint import load_checkpoint, save_checkpoint
from segdeploy.deploy.models.networks import build_network
from segdeploy.deploy.onnx_model.file import describe, load_model, output_of
from segdeploy.deploy.runtimes.base import Execution, infer_each
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.targets.profiles import OPENVINO_CPU, ORT_X86_NO_VNNI, TENSORRT
from segdeploy.training.loop import TrainingResult
from segdeploy.training.quantized import float_graph, graph_of, with_folded, with_weights
from segdeploy.training.quantized_graph import QuantizedGraph
from segdeploy.training.recipe import Amp, Recipe

PROFILES = (OPENVINO_CPU, ORT_X86_NO_VNNI, TENSORRT)


def images() -> torch.Tensor:
    pixels = np.random.default_rng(3).integers(0, 256, (2, 3, *TINY.size))
    return torch.from_numpy(((pixels / 255 - 0.5) / 0.5).astype(np.float32))


def of_file(graph: QuantizedGraph, x: torch.Tensor) -> np.ndarray:
    """What ONNX Runtime makes of the int8 file of a graph's present weights."""
    model = graph._requantize(graph.values())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (found,) = session.run(None, {"image": x.numpy()})
    return np.asarray(found)


def moved(graph: QuantizedGraph) -> QuantizedGraph:
    """Other weights, as a training leaves them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter += (
                0.05
                * parameter.std(correction=0)
                * torch.randn(parameter.shape, generator=generator)
            )
    return graph


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_evaluation_is_the_int8_file(tmp_path: Path, profile) -> None:  # type: ignore[no-untyped-def]
    source = describe(write_small_onnx(tmp_path / "net.onnx"))
    graph = graph_of(load_model(source.path), table=made_up_table(source), profile=profile).eval()
    x = images()
    for _ in range(2):
        with torch.no_grad():
            given = graph(x).sigmoid().numpy()
        np.testing.assert_allclose(given, of_file(graph, x), atol=2e-6)
        moved(graph)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_training_sees_the_same_steps(tmp_path: Path, profile) -> None:  # type: ignore[no-untyped-def]
    source = describe(write_small_onnx(tmp_path / "net.onnx"))
    graph = graph_of(load_model(source.path), table=made_up_table(source), profile=profile)
    x = images()
    with torch.no_grad():
        trained, judged = graph.train()(x), graph.eval()(x)
    # Rounded to the nearest in training, with errors that cancel in the file.
    assert float((trained - judged).std() / judged.std()) < 0.1
    graph.train()(x).square().mean().backward()
    for parameter in graph.parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.any())


@pytest.mark.parametrize("arch", [Architecture.UNET_PLUS_PLUS, Architecture.R2U_NET])
def test_weights_go_back_to_the_last_bit(tmp_path: Path, arch: Architecture) -> None:
    network = randomised(build_network(arch, width=2))
    save_checkpoint(network, tmp_path / "net.safetensors", preprocess=TINY)
    start = load_checkpoint(tmp_path / "net.safetensors")
    source = float_graph(start, tmp_path)
    model = load_model(source.path)
    graph = moved(graph_of(model, table=made_up_table(source), profile=OPENVINO_CPU))
    with torch.no_grad():
        given = graph.eval()(images()).sigmoid().numpy()
    np.testing.assert_allclose(given, of_file(graph, images()), atol=1e-4)
    with_folded(start.network, graph.values())
    save_checkpoint(start.network, tmp_path / "new.safetensors", preprocess=TINY)
    (tmp_path / "again").mkdir()
    again = float_graph(load_checkpoint(tmp_path / "new.safetensors"), tmp_path / "again")
    assert load_model(again.path).graph == with_weights(model, graph.values()).graph


def test_what_is_validated_is_what_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_image_set(tmp_path / "data", SPLIT_OF_TWELVE)
    network = randomised(build_network(Architecture.UNET_PLUS_PLUS, width=2))
    save_checkpoint(network, tmp_path / "net.safetensors", preprocess=TINY)
    data = Data(folder)
    recipe = Recipe(
        pretrained=tmp_path / "net.safetensors", epochs=2, batch=3, amp=Amp.OFF, learning_rate=1e-3
    )

    def trained(name: str) -> TrainingResult:
        return train_on(data, tmp_path / name, recipe=recipe, quantize="openvino-cpu", quiet=True)

    whole = trained("whole")
    int8 = tmp_path / "whole" / "best.int8.openvino-cpu.onnx"
    with open_runtime(RuntimeName.ONNXRUNTIME, describe(int8), execution=Execution(threads=1)) as r:
        given = infer_each(r, data.val.inputs(TINY), output_of(describe(int8)))
    found = iou_per_image(given[:, 0] >= 0.5, data.val.truths(TINY) > 0)
    assert float(np.mean(found)) == pytest.approx(whole.best_val_iou, abs=0.5)

    evaluate, calls = segdeploy.training.loop.evaluate, itertools.count(1)

    def interrupted(*arguments: object) -> object:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*arguments)  # type: ignore[arg-type]  # passed on as they came

    with monkeypatch.context() as patch:
        patch.setattr(segdeploy.training.loop, "evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained("stopped")
    trained("stopped")
    for name in ("best.safetensors", "last.safetensors", int8.name, "best.calib.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (
            tmp_path / "whole" / name
        ).read_bytes()
