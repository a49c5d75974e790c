"""``segdeploy rewrite``: a graph that does the same with less work, or from image to mask."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from segdeploy.cli.flags import (
    REWRITES,
    Group,
    calibration_data,
    model_flag,
    output_flag,
    threads_flag,
)
from segdeploy.cli.inputs import Options, Result, calibration_in, may_replace, wrote

log = logging.getLogger(__name__)


def add_flags(verb: Group) -> None:
    """A model, the rewrites, and the images that show silent channels."""
    model_flag(verb)
    output_flag(verb, "ONNX file to write", required=True)
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
    calibration_data(verb)
    threads_flag(verb)


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Rewrite a graph into one that does the same with less work."""
    from segdeploy.api.rewrite import rewrite
    from segdeploy.deploy.stages.rewrite import LESS_WORK

    return wrote(
        rewrite(
            options.model,
            calibration_in(options),
            rewrites=options.rewrites or LESS_WORK,
            out=options.output,
            threads=options.threads,
            overwrite=may_replace(options),
        )
    )
