"""Export a checkpoint to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.api.models import network_of
from segdeploy.api.outputs import AnyPath, beside, output_file
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.stages.export import export as export_stage
from segdeploy.deploy.system.only_writer import writing_file

if TYPE_CHECKING:
    from segdeploy.api.models import AnyCheckpoint


def export(
    checkpoint: AnyCheckpoint, out: AnyPath | None = None, *, overwrite: bool = False
) -> Artifact:
    """Export a checkpoint or a module to a float32 ONNX file that ends in probabilities.

    Args:
        checkpoint: what ``segdeploy.load`` returned, or a file.
        out: file to write; by default ``NAME.fp32.onnx`` beside the checkpoint, or in the working
            folder.
        overwrite: replace the file that is there.

    Raises:
        InputError: the checkpoint cannot be read.
        UsageError: the file exists, or another process writes it.
        RunError: the network could not be exported.
        OSError: the file cannot be written.
    """
    source = network_of(checkpoint)
    output = Path(out) if out is not None else beside(source.path, "fp32.onnx")
    output = output_file(output, source.path, overwrite=overwrite)
    with writing_file(output):
        return export_stage(source, output)
