"""Networks beyond the two published ones go through every stage, on both runtimes of this CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segdeploy.benchmarks.literature.torch_cost import torch_cost
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.checkpoint import load_checkpoint, save_checkpoint
from segdeploy.deploy.models.networks import Network, build_network
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.cost import onnx_cost
from segdeploy.deploy.onnx_model.file import load_model
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.rewrites.channel_activity import channel_activity
from segdeploy.deploy.runtimes.base import Execution, infer_each
from segdeploy.deploy.runtimes.registry import RuntimeName, availability, open_runtime
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.stages.rewrite import rewrite
from segdeploy.deploy.stages.simplify import simplify
from segdeploy.deploy.stages.to_fp16 import to_fp16
from segdeploy.deploy.targets.profiles import OPENVINO_CPU, ORT_X86

CONTRACT = Preprocess(size=(32, 32))
ONE_THREAD = Execution(threads=1)
NEW = [
    Architecture.U_NET,
    Architecture.ATTENTION_U_NET,
    Architecture.R2_ATTENTION_U_NET,
    Architecture.U_NET_BILINEAR,
]
RUNTIMES = [
    name for name in (RuntimeName.ONNXRUNTIME, RuntimeName.OPENVINO) if availability(name).ready
]
FLOAT_DIFFERENCE = 1e-3
"""Of probabilities: random gates follow each other, and each amplifies what rounding leaves."""

INT8_DIFFERENCE = 0.25
"""Mean over pixels of networks of random weights, whose int8 form is far off and no noise."""


def probabilities(
    artifact: Artifact, runtime: RuntimeName, inputs: NDArray[np.float32]
) -> NDArray[np.float32]:
    with open_runtime(runtime, artifact, execution=ONE_THREAD) as opened:
        return np.stack(list(infer_each(opened, inputs)[:, 0]))


@pytest.mark.parametrize("arch", NEW)
def test_every_stage_takes_the_network(
    arch: Architecture,
    randomise: Callable[[Network], Network],
    image_set: Path,
    tmp_path: Path,
) -> None:
    network = randomise(build_network(arch, width=4))
    save_checkpoint(network, tmp_path / "net.safetensors", preprocess=CONTRACT)
    checkpoint = load_checkpoint(tmp_path / "net.safetensors")
    images = open_set(image_set, "train")
    inputs = images.inputs(CONTRACT)
    with torch.inference_mode():
        expected = checkpoint.probability()(torch.from_numpy(inputs))[:, 0].numpy()
    exported = export(checkpoint, tmp_path / "net.fp32.onnx")
    simplified = simplify(exported, tmp_path / "net.sim.onnx")
    half = to_fp16(simplified, tmp_path / "net.fp16.onnx")
    activity = channel_activity(simplified.path, images.samples[:1], preprocess=CONTRACT, threads=1)
    rewritten = rewrite(simplified, tmp_path / "net.opt.onnx", activity=activity)
    for runtime in RUNTIMES:
        for artifact in (exported, simplified, rewritten):
            found = probabilities(artifact, runtime, inputs)
            np.testing.assert_allclose(found, expected, atol=FLOAT_DIFFERENCE)
        assert np.abs(probabilities(half, runtime, inputs) - expected).mean() < 0.05
    table = calibrate(rewritten, images, preprocess=CONTRACT, threads=1)
    for profile in (ORT_X86, OPENVINO_CPU):
        path = tmp_path / f"net.int8.{profile.name}.onnx"
        int8 = to_int8(rewritten, path, table=table, table_sha256="ab" * 32, profile=profile)
        for runtime in RUNTIMES:
            found = probabilities(int8, runtime, inputs)
            assert np.abs(found - expected).mean() < INT8_DIFFERENCE


@pytest.mark.parametrize("arch", NEW)
def test_the_cost_of_the_exported_network_is_that_of_its_layers(
    arch: Architecture, randomise: Callable[[Network], Network], tmp_path: Path
) -> None:
    """Multiply-adds of the graph, counted from its nodes, beside those of PyTorch's layers."""
    network = randomise(build_network(arch, width=4))
    save_checkpoint(network, tmp_path / "net.safetensors", preprocess=CONTRACT)
    exported = export(load_checkpoint(tmp_path / "net.safetensors"), tmp_path / "net.onnx")
    cost = onnx_cost(exported.path)
    assert cost.macs == torch_cost(network, (1, 3, 32, 32)).macs
    assert cost.not_counted == ()
    gates = sum(node.op_type == "Mul" for node in load_model(exported.path).graph.node)
    assert gates == (4 if arch.gated else 0)
    assert ("Mul" in dict(cost.elementwise)) == arch.gated
