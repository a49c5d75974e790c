"""``segdeploy simplify``: a graph with less in it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from segdeploy.cli.flags import (
    Group,
    model_flag,
    output_flag,
)
from segdeploy.cli.inputs import Options, Result, may_replace, wrote

log = logging.getLogger(__name__)


def add_flags(verb: Group) -> None:
    """A model."""
    model_flag(verb)
    output_flag(verb, "ONNX file to write", required=True)


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Simplify a graph."""
    from segdeploy.api.simplify import simplify

    return wrote(simplify(options.model, options.output, overwrite=may_replace(options)))
