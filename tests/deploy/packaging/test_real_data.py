"""OpenVINO packages of the bundled checkpoint on the whole test split: the same masks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.models.checkpoint import load_checkpoint
from segdeploy.deploy.packaging.base import PackagedModel, Request
from segdeploy.deploy.packaging.openvino.ir import compile_model, infer
from segdeploy.deploy.packaging.openvino.models import IR_FILE
from segdeploy.deploy.packaging.openvino.target import OPENVINO
from segdeploy.deploy.packaging.package import package
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.stages.simplify import simplify
from segdeploy.deploy.targets.profiles import OPENVINO_CPU

DSB2018 = os.environ.get("SEGDEPLOY_DSB2018")
FLOAT_IMAGES = 20
"""Images for the float model, which takes four times as long as int8."""


@pytest.mark.skipif(not DSB2018, reason="SEGDEPLOY_DSB2018 is not set; the sample is tested anyway")
def test_ir_and_onnx_give_the_same_probabilities_from_tensors_and_from_raw_images(
    tmp_path: Path,
) -> None:
    """int8 on all 120 images, fp32 on some; of four sizes, each as it was decoded."""
    data = Path(str(DSB2018))
    checkpoint = load_checkpoint(bundled.checkpoint("unet_plus_plus"))
    fp32 = simplify(export(checkpoint, tmp_path / "net.onnx"), tmp_path / "net.fp32.onnx")
    contract = checkpoint.preprocess
    images = open_set(data, "train").take(10, seed=0)
    table = calibrate(fp32, images, preprocess=contract, threads=1)
    int8 = to_int8(
        fp32,
        tmp_path / "net.int8.onnx",
        table=table,
        table_sha256="0" * 64,
        profile=OPENVINO_CPU,
    )
    request = Request(sources=(PackagedModel.open(fp32.path), PackagedModel.open(int8.path)))
    folder = package(request, target=OPENVINO, output=tmp_path / "out").folder
    samples = open_set(data, "test").samples
    sizes = set()
    for artifact, label, count in ((int8, "int8", len(samples)), (fp32, "fp32", FLOAT_IMAGES)):
        reference = compile_model(artifact.path)
        plain = compile_model(folder / f"unet_plus_plus-{label}" / IR_FILE)
        inside = compile_model(folder / f"unet_plus_plus-{label}-image" / IR_FILE)
        for sample in samples[:count]:
            image = sample.image()
            sizes.add(image.shape)
            prepared = contract.apply(image)[None]
            expected = infer(reference, prepared)
            assert np.array_equal(infer(plain, prepared), expected), sample.name
            assert np.array_equal(infer(inside, image[None]), expected), sample.name
    assert len(sizes) > 3
