"""``segdeploy convert``: an fp32 model as fp16."""

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
    """A model, and the precision to convert it to."""
    model_flag(verb)
    output_flag(verb, "ONNX file to write", required=True)
    verb.add_argument("--precision", choices=("fp16",), default="fp16", help="default: fp16")


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Convert to fp16."""
    from segdeploy.deploy.onnx_model.file import describe
    from segdeploy.deploy.stages.to_fp16 import to_fp16

    output = output_file(options, options.model)
    with writing_file(output):
        return wrote(to_fp16(describe(options.model), output))
