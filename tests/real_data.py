"""What every artefact must keep on real nuclei."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from segdeploy.benchmarks.parity.records import ParityRow
from segdeploy.benchmarks.scores.accuracy import score
from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_set import SegmentationSet, open_set
from segdeploy.deploy.models.checkpoint import Checkpoint, load_checkpoint
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.onnx_model.cost import onnx_cost
from segdeploy.deploy.rewrites.channel_activity import channel_activity
from segdeploy.deploy.runtimes.base import Execution, infer_each
from segdeploy.deploy.runtimes.pytorch import PyTorchRuntime
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.stages.rewrite import RewriteName, rewrite

FP32_DIFFERENCE = 1e-5
"""Largest difference of a probability between PyTorch and the fp32 ONNX file."""

MOST_LOST = {Precision.FP32: 0.001, Precision.FP16: 0.01, Precision.INT8: 0.05}
"""Of the estimate of each precision on the whole test split, percentage points of IoU."""

INT8_LOWER_END = -0.15
"""Of the interval of int8 on the whole test split, likewise."""

SLIM_LOSS = {120: 0.10, 64: 0.30}
"""Of a slim network against the whole one, by number of images: the bundled sample is smaller, and
chance larger. Percentage points."""

FOR_ACTIVITY = 20
"""Images on which a slim network's silent channels are looked for: with fewer more would go, and
its accuracy on all the others still has to hold."""

DSB2018 = os.environ.get("SEGDEPLOY_DSB2018")


def require_kept(rows: Iterable[ParityRow]) -> None:
    """Every row that ran passed the gate; on the whole split it also keeps what is promised.

    At least one row of each precision ran.
    """
    judged = [row for row in rows if row.passed is not None]
    assert {row.precision_requested for row in judged} == MOST_LOST.keys()
    for row in judged:
        assert row.passed, row.failures
        assert not row.collapsed_images
        if len(row.iou_per_image_percent or ()) == 120:
            precision, change = row.precision_requested, row.delta_iou_percentage_points
            assert precision is not None
            assert change is not None
            assert change >= -MOST_LOST[precision], row.name
            if precision is Precision.INT8:
                assert row.ci95_percentage_points is not None
                assert row.ci95_percentage_points[0] >= INT8_LOWER_END, row.name
            else:
                assert change <= MOST_LOST[precision], row.name


def iou_in_pytorch(checkpoint: Checkpoint, images: SegmentationSet) -> float:
    """Mean IoU of a checkpoint as PyTorch computes it, percent."""
    runtime = PyTorchRuntime(checkpoint, execution=Execution(threads=1))
    found = infer_each(runtime, images.inputs(checkpoint.preprocess))[:, 0]
    return score(found, images.truths(checkpoint.preprocess)).iou


def require_slim(arch: str, images: SegmentationSet, *, whole_iou: float, folder: Path) -> None:
    """The slim checkpoint of a network takes less work for the accuracy of the whole one."""
    path = bundled.checkpoint(arch).with_name(f"{arch}_slim_dsb2018.safetensors")
    slim = load_checkpoint(path)
    exported = export(slim, folder / "slim.fp32.onnx")
    activity = channel_activity(
        exported.path,
        open_set(bundled.sample(), "train").samples[:FOR_ACTIVITY],
        preprocess=slim.preprocess,
        threads=1,
    )
    names = (RewriteName.RECURRENT_SUM, RewriteName.DEAD_CHANNELS)
    rewritten = rewrite(exported, folder / "slim.opt.onnx", names=names, activity=activity)
    assert onnx_cost(rewritten.path).macs <= 0.6 * onnx_cost(exported.path).macs
    inputs, truths = images.inputs(slim.preprocess), images.truths(slim.preprocess)
    execution = Execution(threads=1)
    with open_runtime(RuntimeName.ONNXRUNTIME, rewritten, execution=execution) as runtime:
        found = score(infer_each(runtime, inputs)[:, 0], truths).iou
    assert found >= whole_iou - SLIM_LOSS[len(images)]
