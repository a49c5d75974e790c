"""``segdeploy convert``: an fp32 model as fp16."""

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
    """A model, and the precision to convert it to."""
    verb.add_models("the fp32 ONNX file", many=False)
    output_flag(verb, "ONNX file to write", required=True)
    overwrite_flag(verb)
    verb.add_argument("--precision", choices=("fp16",), default="fp16", help="default: fp16")


def from_run(options: Options, run: FinishedRun) -> list[Path]:
    """A run's simplified model."""
    return [run.model("simplified")]


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Convert to fp16."""
    from segdeploy.api.convert import convert

    return wrote(convert(options.model, options.output, overwrite=options.overwrite))
