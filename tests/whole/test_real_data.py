"""What must hold on real nuclei with trained weights: bundled sample and whole test split."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper
from real_data import DSB2018, FP32_DIFFERENCE, iou_in_pytorch, require_kept, require_slim

from segdeploy.benchmarks.report.files import read_report
from segdeploy.benchmarks.scores.accuracy import score
from segdeploy.cli.main import main
from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.models.checkpoint import load_checkpoint
from segdeploy.deploy.onnx_model.file import load_model, save_model
from segdeploy.deploy.runtimes.base import Execution, infer_each
from segdeploy.deploy.runtimes.pytorch import PyTorchRuntime
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.stages.export import export

CHECKPOINTS = os.environ.get("SEGDEPLOY_CHECKPOINTS")


def test_the_main_job_keeps_the_accuracy_of_the_bundled_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the whole test split where it is there, else on the bundled sample.

    The same gate does not pass the int8 model with one layer's weights eight times as large.
    """
    same = ["--runtime", "onnxruntime", "--threads", "1", *(["--data", DSB2018] if DSB2018 else [])]
    arguments = ["run", "-o", str(tmp_path / "out"), "--format", "json", "--num-samples", "50"]
    arguments += ["--target", "ort-x86", *same]
    assert main([*arguments, "--batch", "1", "--duration", "0.1", "--warmup", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    assert report["data"]["calibration"]["images"] == 50
    assert report["data"]["evaluation"]["images"] == (120 if DSB2018 else 64)
    checks = {row["name"]: row["check"] for row in report["stages"]}
    assert checks["export"]["max_abs_difference"] <= FP32_DIFFERENCE
    assert checks["simplify"]["max_abs_difference"] <= FP32_DIFFERENCE
    parity = read_report(tmp_path / "out").parity
    assert parity is not None
    require_kept(parity.rows)
    speedups = {row["target"]: row["speedup"] for row in report["benchmark"]["rows"]}
    assert speedups["ort-x86"] > 1.5

    name = str(tmp_path / "out" / "unet_plus_plus")
    broken = with_weights_times(8, Path(f"{name}.int8.ort-x86.onnx"), layer="conv1_0.conv.3")
    judged = ["parity", "-m", str(broken), "--reference", f"{name}.sim.onnx", "--format", "json"]
    assert main([*judged, *same]) == 1
    assert json.loads(capsys.readouterr().out)["rows"][1]["verdict"] == "lost"


@pytest.mark.skipif(CHECKPOINTS is None, reason="SEGDEPLOY_CHECKPOINTS is not set")
@pytest.mark.parametrize("name", ["unetzoo_unetpp_dsb2018", "unetzoo_r2unet_dsb2018"])
def test_a_public_checkpoint_becomes_the_same_network_in_onnx(name: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(Path(str(CHECKPOINTS)) / f"{name}.pth")
    artifact = export(checkpoint, tmp_path / "net.onnx")
    images = open_set(bundled.sample(), "test").take(12, seed=0)
    inputs, truths = images.inputs(checkpoint.preprocess), images.truths(checkpoint.preprocess)
    execution = Execution(threads=1)
    reference = infer_each(PyTorchRuntime(checkpoint, execution=execution), inputs)[:, 0]
    with open_runtime(RuntimeName.ONNXRUNTIME, artifact, execution=execution) as runtime:
        found = infer_each(runtime, inputs)[:, 0]
    assert np.abs(found - reference).max() <= FP32_DIFFERENCE
    assert score(found, truths).iou > 60


def test_the_slim_unet_plus_plus_takes_less_work_for_the_same_accuracy(tmp_path: Path) -> None:
    whole = load_checkpoint(bundled.checkpoint("unet_plus_plus"))
    images = open_set(Path(DSB2018) if DSB2018 else bundled.sample(), "test")
    require_slim("unet_plus_plus", images, whole_iou=iou_in_pytorch(whole, images), folder=tmp_path)


def with_weights_times(factor: int, source: Path, *, layer: str) -> Path:
    """A copy of an int8 model in which the scale of one layer's weights is another."""
    model = load_model(source)
    (scale,) = [t for t in model.graph.initializer if t.name == f"{layer}.weight/scale"]
    larger = numpy_helper.to_array(scale) * np.float32(factor)
    scale.CopyFrom(numpy_helper.from_array(larger, scale.name))
    output = source.with_name("broken.onnx")
    save_model(model, output)
    return output
