"""``segdeploy export``: a checkpoint as fp32 ONNX."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from segdeploy.cli.flags import (
    Group,
    checkpoint_flags,
    output_flag,
)
from segdeploy.cli.inputs import Options, Result, checkpoint_of, output_file, wrote
from segdeploy.deploy.system.only_writer import writing_file

log = logging.getLogger(__name__)


def add_flags(verb: Group) -> None:
    """A checkpoint, and what its keys cannot tell."""
    checkpoint_flags(verb)
    output_flag(verb, "ONNX file to write", required=True)


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Export a checkpoint."""
    from segdeploy.deploy.stages.export import export

    output = output_file(options, options.checkpoint)
    with writing_file(output):
        return wrote(export(checkpoint_of(options, options.checkpoint), output))
