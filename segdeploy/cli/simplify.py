"""``segdeploy simplify``: a graph with less in it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from segdeploy.cli.flags import (
    Group,
    model_flag,
    output_flag,
)
from segdeploy.cli.inputs import Options, Result, output_file, wrote
from segdeploy.deploy.system.only_writer import writing_file

log = logging.getLogger(__name__)


def add_flags(verb: Group) -> None:
    """A model."""
    model_flag(verb)
    output_flag(verb, "ONNX file to write", required=True)


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Simplify a graph."""
    from segdeploy.deploy.onnx_model.file import describe
    from segdeploy.deploy.stages.simplify import simplify

    output = output_file(options, options.model)
    with writing_file(output):
        return wrote(simplify(describe(options.model), output))
