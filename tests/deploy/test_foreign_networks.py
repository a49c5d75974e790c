"""Small networks with the operators of those that people deploy, through every step.

See ``foreign_networks``; ``tests/whole/test_foreign_networks.py`` has the networks themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_networks import EXPORTERS, OPERATORS, SIDE, exported_before, trained
from tiny import inferred

from segdeploy.deploy.adoption.output_end import OutputKind
from segdeploy.deploy.data.image_set import SegmentationSet, open_set
from segdeploy.deploy.onnx_model.file import contract_of, load_model
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.runtimes.base import Execution
from segdeploy.deploy.runtimes.registry import RuntimeName, availability, open_runtime
from segdeploy.deploy.sensitivity.layer_errors import layer_errors
from segdeploy.deploy.stages.adopt import adopt
from segdeploy.deploy.stages.rewrite import RewriteName, rewrite
from segdeploy.deploy.stages.simplify import simplify
from segdeploy.deploy.stages.to_fp16 import to_fp16
from segdeploy.deploy.targets.profiles import OPENVINO_CPU, ORT_X86

CHANNELS = {"residual": 3, "inverted": 1, "gated": 3}
CLASSES = {"today": 1, "legacy 11": 4, "legacy 17": 2}


@pytest.fixture(scope="module")
def images(
    tmp_path_factory: pytest.TempPathFactory, make_image_set: Callable[[Path, list[str]], Path]
) -> SegmentationSet:
    root = tmp_path_factory.mktemp("images") / "set"
    return open_set(make_image_set(root, ["train", "train", "val", "test"]), "train")


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", OPERATORS)
def test_computes_what_the_module_does_in_every_step(
    name: str, exporter: str, images: SegmentationSet, tmp_path: Path
) -> None:
    channels, classes = CHANNELS[name], CLASSES[exporter]
    network = trained(OPERATORS[name], channels=channels, classes=classes)
    theirs = EXPORTERS[exporter](network, tmp_path / "theirs.onnx", channels=channels)
    source = adopt(
        theirs,
        tmp_path / "ours.onnx",
        preprocess="zero-one",
        images=images.samples,
        size=(SIDE, SIDE),
        output_kind=OutputKind.LOGITS,
    ).artifact
    assert source.inputs[0].shape == ("batch", channels, SIDE, SIDE)
    prepared = [sample.input(contract_of(source)) for sample in images]
    with torch.no_grad():
        logits = network(torch.from_numpy(np.stack(prepared)))
    shares = torch.sigmoid(logits) if classes == 1 else torch.softmax(logits, dim=1)
    expected = shares.numpy()[:, 1:] if classes == 2 else shares.numpy()
    found = inferred(source, RuntimeName.ONNXRUNTIME, prepared)
    np.testing.assert_allclose(found, expected, atol=1e-5)

    simple = simplify(source, tmp_path / "simple.onnx")
    assert "Shape" not in {node.op_type for node in load_model(simple.path).graph.node}
    half = inferred(to_fp16(simple, tmp_path / "half.onnx"), RuntimeName.ONNXRUNTIME, prepared)
    assert np.abs(half - expected).mean() < 1e-2
    names = {RewriteName.RECURRENT_SUM, RewriteName.UPSAMPLE_CONVOLUTION}
    rewritten = rewrite(simple, tmp_path / "rewritten.onnx", names=names)
    found = inferred(rewritten, RuntimeName.ONNXRUNTIME, prepared)
    np.testing.assert_allclose(found, expected, atol=1e-4)

    table = calibrate(rewritten, images, preprocess=contract_of(source), threads=1)
    for profile in (ORT_X86, OPENVINO_CPU):
        if availability(profile.runtime).ready:
            int8 = to_int8(
                rewritten,
                tmp_path / "int8.onnx",
                table=table,
                table_sha256="ab",
                profile=profile,
            )
            assert np.abs(inferred(int8, profile.runtime, prepared) - expected).mean() < 0.05
    layers = layer_errors(rewritten, table=table, profile=ORT_X86, images=prepared[:1], threads=1)
    convolutions = [n for n in load_model(rewritten.path).graph.node if n.op_type == "Conv"]
    assert len(layers) == len(convolutions)


def test_a_batch_gives_what_its_images_give(images: SegmentationSet, tmp_path: Path) -> None:
    network = trained(OPERATORS["gated"])
    theirs = exported_before(network, tmp_path / "theirs.onnx", opset=17)
    source = adopt(
        theirs,
        tmp_path / "ours.onnx",
        preprocess="zero-one",
        images=images.samples,
        size=(SIDE, SIDE),
        output_kind=OutputKind.LOGITS,
    ).artifact
    prepared = np.stack([sample.input(contract_of(source)) for sample in images])
    for runtime in (RuntimeName.ONNXRUNTIME, RuntimeName.OPENVINO):
        if availability(runtime).ready:
            execution = Execution(threads=1, batch=len(prepared))
            with open_runtime(runtime, source, execution=execution) as opened:
                (together,) = opened.infer({source.inputs[0].name: prepared}).values()
            alone = inferred(source, runtime, list(prepared))
            np.testing.assert_allclose(together, alone, atol=1e-5)
