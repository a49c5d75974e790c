"""``segdeploy export``: a checkpoint as fp32 ONNX."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from segdeploy.cli.flags import (
    Group,
    adoption_flags,
    checkpoint_flags,
    module_flag,
    output_flag,
    overwrite_flag,
)
from segdeploy.cli.inputs import Options, Result, checkpoint_of, wrote

log = logging.getLogger(__name__)


def add_flags(verb: Group) -> None:
    """A checkpoint, and what its keys cannot tell."""
    checkpoint_flags(verb)
    module_flag(verb)
    adoption_flags(verb)
    output_flag(verb, "ONNX file to write", required=True)
    overwrite_flag(verb)


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Export a checkpoint."""
    from segdeploy.api.export import export

    checkpoint = checkpoint_of(options, options.checkpoint)
    return wrote(export(checkpoint, options.output, overwrite=options.overwrite))
