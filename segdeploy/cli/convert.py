"""``segdeploy convert``: an fp32 model as fp16."""

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
    """A model, and the precision to convert it to."""
    model_flag(verb)
    output_flag(verb, "ONNX file to write", required=True)
    verb.add_argument("--precision", choices=("fp16",), default="fp16", help="default: fp16")


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Convert to fp16."""
    from segdeploy.api.convert import convert

    return wrote(convert(options.model, options.output, overwrite=may_replace(options)))
