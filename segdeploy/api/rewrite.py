"""Rewrite a graph: the same with less work, from image to mask, or for images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segdeploy.api.choices import choices
from segdeploy.api.data import Data
from segdeploy.api.models import AnyOnnx, artifact_of
from segdeploy.api.outputs import AnyPath, beside, output_file
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.onnx_model.file import contract_of, require_fp32
from segdeploy.deploy.rewrites.channel_activity import channel_activity
from segdeploy.deploy.runtimes.registry import usable_cores
from segdeploy.deploy.stages.rewrite import LESS_WORK, RewriteName
from segdeploy.deploy.stages.rewrite import rewrite as rewrite_stage
from segdeploy.deploy.system.only_writer import writing_file
from segdeploy.deploy.system.progress import bar


def rewrite(
    model: AnyOnnx,
    data: Data | AnyPath | None = None,
    *,
    rewrites: Sequence[RewriteName | str] = LESS_WORK,
    out: AnyPath | None = None,
    threads: int | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Rewrite a graph into one that computes the same.

    Args:
        model: an ONNX file; float32 for the rewrites that save work, any precision for
            image-interface (8-bit image in, mask out) and any-size (height and width free).
        data: images that show which channels are always silent, for dead-channels alone.
        rewrites: which, whatever their order.
        out: file to write; by default ``NAME.opt.onnx`` beside the model, and where only the ends
            are rewritten, named after them: ``NAME.int8.ort-x86.image-interface.onnx``.
        threads: images run at once; ``None`` takes every processor of this process.
        overwrite: replace the file that is there.

    Raises:
        InputError: the model cannot be read, or a rewrite does not fit it.
        UsageError: the file exists, another process writes it, or an unknown rewrite.
        OSError: the file cannot be written.
    """
    source = artifact_of(model)
    names = choices(RewriteName, rewrites, what="rewrite")
    output = output_file(
        Path(out) if out is not None else _usual(source, names), source.path, overwrite=overwrite
    )
    activity = None
    if RewriteName.DEAD_CHANNELS in names:
        require_fp32(source, "graphs are rewritten")
        activity = channel_activity(
            source.path,
            Data.of(data).calibration_images.samples,
            preprocess=contract_of(source),
            threads=threads or usable_cores(),
            progress=lambda samples: bar(samples, "rewrite", unit="image"),
        )
    with writing_file(output):
        return rewrite_stage(source, output, names=names, activity=activity)


def _usual(source: Artifact, names: Sequence[RewriteName]) -> Path:
    if set(names) & set(LESS_WORK) and source.precision is Precision.FP32:
        return beside(source.path, "opt.onnx")
    added = ".".join(name.value for name in RewriteName if name in names)
    return source.path.with_name(f"{source.path.stem}.{added}.onnx")
