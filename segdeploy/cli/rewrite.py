"""``segdeploy rewrite``: a graph that does the same with less work, or from image to mask."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.cli.flags import (
    INTERFACES,
    REWRITES,
    calibration_alone,
    output_flag,
    overwrite_flag,
    threads_flag,
)
from segdeploy.cli.grammar import Parser
from segdeploy.cli.inputs import Options, Result, calibration_in, wrote

if TYPE_CHECKING:
    from segdeploy.pipeline.finished import FinishedRun

log = logging.getLogger(__name__)


def add_flags(verb: Parser) -> None:
    """A model, the rewrites, and the images that show silent channels."""
    verb.add_models("the ONNX file", many=False)
    output_flag(verb, "ONNX file to write", required=True)
    overwrite_flag(verb)
    verb.add_argument(
        "--rewrites",
        choices=REWRITES,
        nargs="+",
        default=(),
        metavar="NAME",
        help=f"which of {', '.join(REWRITES)} (default: the first three; dead-channels looks at "
        "the images; image-interface: 8-bit image in, mask out; any-size: height and width free, "
        "for predict --fit pad; both of any precision)",
    )
    calibration_alone(verb)
    threads_flag(verb)


def from_run(options: Options, run: FinishedRun) -> list[Path]:
    """A run's simplified model; for another interface, the file that it recommends."""
    interfaces_alone = options.rewrites and set(options.rewrites) <= set(INTERFACES)
    return [run.recommended if interfaces_alone else run.model("simplified")]


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Rewrite a graph into one that does the same with less work."""
    from segdeploy.api.rewrite import rewrite
    from segdeploy.deploy.stages.rewrite import LESS_WORK, summary

    artifact = rewrite(
        options.model,
        calibration_in(options),
        rewrites=options.rewrites or LESS_WORK,
        out=options.output,
        threads=options.threads,
        overwrite=options.overwrite,
    )
    log.info("%s", summary(artifact))
    return wrote(artifact)
