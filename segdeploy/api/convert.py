"""Convert a model to half precision."""

from __future__ import annotations

from pathlib import Path

from segdeploy.api.models import AnyOnnx, artifact_of
from segdeploy.api.outputs import AnyPath, beside, output_file
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.stages.to_fp16 import to_fp16
from segdeploy.deploy.system.only_writer import writing_file


def convert(model: AnyOnnx, out: AnyPath | None = None, *, overwrite: bool = False) -> Artifact:
    """Store and compute in fp16; inputs and outputs stay float32.

    Args:
        model: a float32 ONNX file.
        out: file to write; by default ``NAME.fp16.onnx`` beside the model.
        overwrite: replace the file that is there.

    Raises:
        InputError: the model cannot be read, or is not float32.
        UsageError: the file exists, or another process writes it.
        OSError: the file cannot be written.
    """
    source = artifact_of(model)
    output = Path(out) if out is not None else beside(source.path, "fp16.onnx")
    output = output_file(output, source.path, overwrite=overwrite)
    with writing_file(output):
        return to_fp16(source, output)
