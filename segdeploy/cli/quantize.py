"""``segdeploy quantize``: the int8 model of a target, or mixed precision within a budget."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.cli.flags import (
    TARGETS,
    checkpoint_details,
    exclude_flag,
    not_negative,
    output_flag,
    overwrite_flag,
    seed_flag,
    threads_flag,
)
from segdeploy.cli.grammar import Parser
from segdeploy.cli.inputs import GATE_FAILED, Options, Result, model_of, wrote
from segdeploy.deploy.system.errors import InputError, UsageError

if TYPE_CHECKING:
    from segdeploy.pipeline.finished import FinishedRun

log = logging.getLogger(__name__)


UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
DEFAULT_TIME_BUDGET = "10m"


def add_flags(verb: Parser) -> None:
    """Everything ``segdeploy quantize`` takes."""
    verb.add_models("the fp32 ONNX file that was calibrated", many=False)
    output_flag(verb, "ONNX file to write", required=True)
    overwrite_flag(verb, "the file of -o; without it a search goes on")
    verb.add_needed(
        "--calibration",
        type=Path,
        metavar="TABLE",
        help="table from `calibrate` (default for a finished run: its own)",
    )
    verb.add_argument(
        "--target",
        choices=TARGETS,
        default="ort-x86",
        help="default: ort-x86 (ort-arm, ort-x86-no-vnni and tensorrt: not run on hardware)",
    )
    exclude_flag(verb)
    group = verb.add_argument_group(
        "mixed precision",
        "with --max-drop: the fewest layers stay in float with which the lower end of the 95 %\n"
        "interval of the change of IoU, against --reference on the val split of --data, keeps the\n"
        "budget; the test split only reports. The best file so far is in place at any moment, and\n"
        "an interrupted search goes on when started again. Exit code 1 where time ends before.",
    )
    group.add_argument(
        "--max-drop", type=not_negative, metavar="POINTS", help="the budget, e.g. 0.02"
    )
    group.add_argument(
        "--time-budget",
        type=duration,
        metavar="TIME",
        help=f"no trial starts that would end later: 90s, 10m, 1h (default: {DEFAULT_TIME_BUDGET})",
    )
    group.add_argument("--data", type=Path, help="prepared folder with a val split")
    group.add_argument(
        "--reference", type=Path, help="checkpoint or ONNX file that accuracy is compared with"
    )
    checkpoint_details(group)
    seed_flag(group)
    threads_flag(group)


def duration(text: str) -> float:
    """Seconds of a time such as ``90s``, ``10m`` or ``1.5h``; a plain number is seconds.

    Example:
        >>> duration("10m"), duration("90")
        (600.0, 90.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found or float(found[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time above 0; write 90s, 10m or 1h")
    return float(found[1]) * UNITS_S[found[2]]


def from_run(options: Options, run: FinishedRun) -> list[Path]:
    """The model that a run calibrated, with its table and the layers it kept in float."""
    options.calibration = options.calibration or run.table
    options.exclude = options.exclude or list(run.exclude)
    if options.max_drop is not None:
        options.reference = options.reference or run.reference
    return [run.calibrated]


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Write the int8 model of a target; with a budget, the fewest layers in float that keep it."""
    if _wants_search(options):
        return _mixed(options)
    from segdeploy.api.quantize import quantize

    return wrote(
        quantize(
            options.model,
            options.calibration,
            target=options.target,
            exclude=options.exclude,
            out=options.output,
            overwrite=options.overwrite,
        )
    )


NEEDED = ("data", "reference")
ONLY_WITH_BUDGET = ("time_budget", *NEEDED)


def _wants_search(options: Options) -> bool:
    """Whether the flags ask for a search.

    Raises:
        UsageError: a flag of the search without ``--max-drop``, or one that it needs is missing.
    """
    given = [f"--{n.replace('_', '-')}" for n in ONLY_WITH_BUDGET if getattr(options, n)]
    if options.max_drop is None:
        if given:
            raise UsageError(f"{', '.join(given)}: only a search with --max-drop takes it")
        return False
    missing = [f"--{name}" for name in NEEDED if not getattr(options, name)]
    if missing:
        raise UsageError(f"--max-drop needs {' and '.join(missing)} to measure the loss with")
    return True


def _mixed(options: Options) -> Result:
    """Search for the fewest float layers within the budget, and report on the test split."""
    from segdeploy.api.mixed_precision import mixed_precision, outcome

    if not options.reference.is_file():
        raise InputError(f"--reference {options.reference} is no file; give a checkpoint or ONNX")
    found = mixed_precision(
        options.model,
        options.calibration,
        max_drop=options.max_drop,
        reference=model_of(options, options.reference),
        data=options.data,
        target=options.target,
        exclude=options.exclude,
        out=options.output,
        time_budget_s=options.time_budget or duration(DEFAULT_TIME_BUDGET),
        seed=options.seed,
        threads=options.threads,
        overwrite=options.overwrite,
    )
    log.info("%s", outcome(found, found.max_drop))
    if found.test:
        log.info("test split, %d images: %s", found.test_images, found.test.words())
    path, size = found.artifact.path, found.artifact.path.stat().st_size
    log.info("%s: int8 with %d layers in float, %.1f MB", path, len(found.layers), size / 1e6)
    return 0 if found.within else GATE_FAILED, asdict(found.artifact) | {
        "bytes": size,
        "max_drop_percentage_points": found.max_drop,
        "within": found.within,
        "finished": found.finished,
        "float_layers": list(found.layers),
        "exclude": list(found.exclude),
        "val": asdict(found.chosen),
        "test": asdict(found.test) if found.test else None,
        "trials": [asdict(trial) for trial in found.trials],
    }
