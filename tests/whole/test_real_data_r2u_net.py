"""What must hold on real nuclei with the trained R2U-Net: the whole test split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from real_data import (
    DSB2018,
    FP32_DIFFERENCE,
    INT8_LOWER_END,
    iou_in_pytorch,
    require_kept,
    require_slim,
)

from segdeploy.benchmarks.parity.records import ParitySection
from segdeploy.benchmarks.parity.run import parity_section
from segdeploy.benchmarks.speed.entries import entries_for
from segdeploy.calibration.estimate import Method
from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.models.checkpoint import load_checkpoint
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.rewrites.channel_activity import channel_activity
from segdeploy.deploy.runtimes.base import Execution, infer_each
from segdeploy.deploy.runtimes.pytorch import PyTorchRuntime
from segdeploy.deploy.runtimes.registry import RuntimeName, availability, open_runtime
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.stages.rewrite import rewrite, summary
from segdeploy.deploy.stages.simplify import simplify
from segdeploy.deploy.stages.to_fp16 import to_fp16
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.targets.profiles import PROFILES


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> ParitySection:
    """Every artefact beside PyTorch on the whole test split."""
    if DSB2018 is None:
        pytest.skip("SEGDEPLOY_DSB2018 does not point to the full set")
    tmp_path = tmp_path_factory.mktemp("r2u_net")
    checkpoint = load_checkpoint(bundled.checkpoint("r2u_net"))
    images = open_set(Path(str(DSB2018)), "test")
    calibration = open_set(Path(str(DSB2018)), "train").take(50, seed=0)

    fp32 = export(checkpoint, tmp_path / "net.fp32.onnx")
    source = simplify(fp32, tmp_path / "net.sim.onnx")
    activity = channel_activity(
        source.path,
        calibration.samples,
        preprocess=checkpoint.preprocess,
        threads=1,
    )
    rewritten = rewrite(source, tmp_path / "net.opt.onnx", activity=activity)
    print(summary(rewritten))
    artifacts = {
        "fp32 rewritten": rewritten,
        "fp16": to_fp16(source, tmp_path / "net.fp16.onnx"),
    }
    table = calibrate(
        rewritten, calibration, preprocess=checkpoint.preprocess, method=Method.ENTROPY
    )
    table.write(tmp_path / "net.calib.json")
    for profile in PROFILES.values():
        if profile.hardware is None and availability(profile.runtime).ready:
            artifacts[f"int8 {profile.name}"] = to_int8(
                rewritten,
                tmp_path / f"net.int8.{profile.name}.onnx",
                table=table,
                table_sha256=sha256_of(tmp_path / "net.calib.json"),
                profile=profile,
            )
    inputs = images.inputs(checkpoint.preprocess)
    reference = PyTorchRuntime(checkpoint, execution=Execution(threads=1))
    with open_runtime(RuntimeName.ONNXRUNTIME, source, execution=Execution(threads=1)) as runtime:
        few = inputs[:8]  # the rows are of all of them, and say the same of the masks
        difference = np.abs(infer_each(runtime, few)[:, 0] - infer_each(reference, few)[:, 0]).max()
    assert difference <= FP32_DIFFERENCE

    entries = [
        entry
        for entry in entries_for(artifacts, None)
        if entry.label.startswith("int8") or entry.runtime is RuntimeName.ONNXRUNTIME
    ]
    return parity_section(
        reference,
        "PyTorch fp32",
        entries,
        images=images,
        preprocess=checkpoint.preprocess,
        output=checkpoint.output,
        max_drop=-INT8_LOWER_END,
        seed=0,
        execution=Execution(threads=1),
        progress=lambda items, label: items,
    )


def test_every_artefact_of_r2u_net_keeps_its_accuracy_on_the_whole_test_split(
    section: ParitySection,
) -> None:
    for row in section.rows:
        print(row.name, row.iou, row.delta_iou_percentage_points)
    assert section.images == 120
    require_kept(section.rows)


def test_the_slim_r2u_net_takes_less_work_for_the_same_accuracy(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if DSB2018:
        images = open_set(Path(DSB2018), "test")
        whole_iou = request.getfixturevalue("section").rows[0].iou
    else:
        images = open_set(bundled.sample(), "test")
        whole_iou = iou_in_pytorch(load_checkpoint(bundled.checkpoint("r2u_net")), images)
    require_slim("r2u_net", images, whole_iou=whole_iou, folder=tmp_path)
