"""Where a verb writes: beside the model where nothing is said, and never over what is there."""

from __future__ import annotations

import os
import re
from os.path import realpath
from pathlib import Path

from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.only_writer import require_new

AnyPath = str | os.PathLike[str]

_STAGE = re.compile(r"\.(adopted|fp32|sim|opt|fp16|int8(\.[a-z0-9-]+)?)$")
"""What a stage adds to the name of a network."""


def beside(source: Path, suffix: str) -> Path:
    """The usual name of what is made from a file, in the same folder.

    Example:
        >>> beside(Path("out/net.opt.onnx"), "int8.ort-x86.onnx").as_posix()
        'out/net.int8.ort-x86.onnx'
        >>> beside(Path("best.safetensors"), "fp32.onnx").as_posix()
        'best.fp32.onnx'
    """
    return source.with_name(f"{network_name(source)}.{suffix}")


def network_name(source: Path) -> str:
    """The name of a network, of a file of it.

    Example:
        >>> network_name(Path("out/net.int8.ort-x86.onnx")), network_name(Path("theirs.onnx"))
        ('net', 'theirs')
    """
    return _STAGE.sub("", source.stem)


def output_file(output: Path, *inputs: Path, overwrite: bool) -> Path:
    """A file that may be written, refused before the work and not after it.

    Args:
        output: the file.
        inputs: what it is made from.
        overwrite: replace the file that is there.

    Raises:
        UsageError: it is a folder or one of the inputs, or it exists.
    """
    if output.is_dir():
        raise UsageError(f"-o {output} is a folder; give the name of the file to write")
    if any(realpath(output) == realpath(path) for path in inputs):  # stands links in a loop
        raise UsageError(f"-o {output} would replace its own input; choose another name")
    require_new(output, overwrite=overwrite)
    return output
