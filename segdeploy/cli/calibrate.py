"""``segdeploy calibrate``: the range of every activation on real images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.cli.flags import (
    calibration_alone,
    method_flag,
    output_flag,
    overwrite_flag,
    threads_flag,
)
from segdeploy.cli.grammar import Parser
from segdeploy.cli.inputs import Options, Result, calibration_in

if TYPE_CHECKING:
    from segdeploy.pipeline.finished import FinishedRun

log = logging.getLogger(__name__)


def add_flags(verb: Parser) -> None:
    """A model, and where its ranges come from."""
    verb.add_models("the fp32 ONNX file", many=False)
    output_flag(verb, "calibration table to write (JSON)", required=True)
    overwrite_flag(verb)
    calibration_alone(verb)
    method_flag(verb)
    verb.add_argument(
        "--export",
        choices=("onnxruntime", "tensorrt"),
        nargs="+",
        metavar="FORMAT",
        help="also write the calibration cache of onnxruntime or tensorrt, beside the table",
    )
    verb.add_argument(
        "--import",
        dest="import_file",
        type=Path,
        metavar="FILE",
        help="take the ranges from a table or cache of onnxruntime or tensorrt, not from images",
    )
    threads_flag(verb)


def from_run(options: Options, run: FinishedRun) -> list[Path]:
    """The model that a run calibrated."""
    return [run.calibrated]


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Find every range, or take them from another tool's file; under torchrun, in shards."""
    from segdeploy.api.calibrate import calibrate, written_files
    from segdeploy.deploy.distributed.shard import is_first_process

    table = calibrate(
        options.model,
        calibration_in(options),
        method=options.method,
        imported=options.import_file,
        out=options.output,
        export=options.export or (),
        threads=options.threads,
        overwrite=options.overwrite,
    )
    if not is_first_process():
        return 0, {}
    files = written_files(options.output, options.export or ())
    for path in files:
        log.info("%s: %d tensors, %d images", path, len(table.ranges), table.num_samples)
    return 0, {"written": [str(path) for path in files], "tensors": len(table.ranges)}
