"""``segdeploy simplify``: a graph with less in it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.cli.flags import (
    output_flag,
    overwrite_flag,
)
from segdeploy.cli.grammar import Parser
from segdeploy.cli.inputs import Options, Result, wrote

if TYPE_CHECKING:
    from segdeploy.pipeline.finished import FinishedRun

log = logging.getLogger(__name__)


def add_flags(verb: Parser) -> None:
    """A model."""
    verb.add_models("the ONNX file", many=False)
    output_flag(verb, "ONNX file to write", required=True)
    overwrite_flag(verb)


def from_run(options: Options, run: FinishedRun) -> list[Path]:
    """A run's export."""
    return [run.model("exported")]


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Simplify a graph."""
    from segdeploy.api.simplify import simplify

    return wrote(simplify(options.model, options.output, overwrite=options.overwrite))
