"""Simplify an ONNX graph."""

from __future__ import annotations

from pathlib import Path

from segdeploy.api.models import AnyOnnx, artifact_of
from segdeploy.api.outputs import AnyPath, beside, output_file
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.stages.simplify import simplify as simplify_stage
from segdeploy.deploy.system.only_writer import writing_file


def simplify(model: AnyOnnx, out: AnyPath | None = None, *, overwrite: bool = False) -> Artifact:
    """Fold constants and BatchNorm, and drop what computes nothing.

    Args:
        model: an ONNX file.
        out: file to write; by default ``NAME.sim.onnx`` beside the model.
        overwrite: replace the file that is there.

    Raises:
        InputError: the model cannot be read.
        UsageError: the file exists, or another process writes it.
        RunError: the graph could not be simplified.
        OSError: the file cannot be written.
    """
    source = artifact_of(model)
    output = Path(out) if out is not None else beside(source.path, "sim.onnx")
    output = output_file(output, source.path, overwrite=overwrite)
    with writing_file(output):
        return simplify_stage(source, output)
