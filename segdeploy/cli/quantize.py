"""``segdeploy quantize``: the int8 model of a target, or mixed precision within a budget."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segdeploy.cli.flags import (
    TARGETS,
    checkpoint_details,
    duration,
    exclude_flag,
    not_negative,
    output_flag,
    overwrite_flag,
    seed_flag,
    threads_flag,
    tune_flags,
)
from segdeploy.cli.grammar import Parser
from segdeploy.cli.inputs import GATE_FAILED, Options, Result, model_of, wrote
from segdeploy.deploy.system.errors import InputError, UsageError

if TYPE_CHECKING:
    from segdeploy.pipeline.finished import FinishedRun

log = logging.getLogger(__name__)


DEFAULT_TIME_BUDGET = "10m"
RECOVERY = ("equalise", "biases", "rounding", "ranges")
NO_RECOVERY = "none"


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
    verb.add_argument(
        "--recover",
        nargs="+",
        choices=(*RECOVERY, NO_RECOVERY),
        metavar="METHOD",
        help=f"win back what int8 lost, all layers in int8: {', '.join(RECOVERY)}; learnt from\n"
        "the train split of --data. With --max-drop: what may be tried (default: all),\n"
        f"or {NO_RECOVERY}",
    )
    group = verb.add_argument_group(
        "mixed precision",
        "with --max-drop: recovery is tried first, each method kept if it comes closer to the\n"
        "reference; then the fewest layers stay in float with which the lower end of the 95 %\n"
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
    group.add_argument(
        "--data",
        type=Path,
        help="prepared folder with a val split; with --tune alone, any whose images outputs are "
        "compared on",
    )
    group.add_argument(
        "--reference", type=Path, help="checkpoint or ONNX file that accuracy is compared with"
    )
    checkpoint_details(group)
    tune_flags(
        verb, judged="the output, or as\nfor --max-drop where that is given, after its own search"
    )
    seed_flag(group)
    threads_flag(group)


def from_run(options: Options, run: FinishedRun) -> list[Path]:
    """The model that a run calibrated, with its table and the layers it kept in float."""
    options.calibration = options.calibration or run.table
    options.exclude = options.exclude or list(run.exclude)
    if options.max_drop is not None:
        options.reference = options.reference or run.reference
    return [run.calibrated]


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Write the int8 model of a target; with a budget, the fewest layers in float that keep it."""
    searched = _wants_search(options)
    if options.tune is not None:
        _require_tunable(options)
    if searched:
        status, found = _mixed(options)
        if options.tune is None or status:
            return status, found
        options.exclude = found["exclude"]
    if options.tune is not None:
        return _tuned(options, overwrite=options.overwrite or searched)
    from segdeploy.api.quantize import quantize

    return wrote(
        quantize(
            options.model,
            options.calibration,
            target=options.target,
            exclude=options.exclude,
            recover=_methods(options),
            out=options.output,
            data=options.data,
            seed=options.seed,
            threads=options.threads,
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
    if options.device_file and options.tune is None:
        raise UsageError("--device-file: only a search with --tune takes it")
    if len(options.recover or ()) > 1 and NO_RECOVERY in options.recover:
        raise UsageError(f"--recover {NO_RECOVERY} stands alone; name methods, or {NO_RECOVERY}")
    if options.tune is not None and _methods(options):
        raise UsageError("--recover and --tune do not go together; choose one")
    given = [f"--{n.replace('_', '-')}" for n in ONLY_WITH_BUDGET if getattr(options, n)]
    if options.max_drop is None:
        recovers = bool(_methods(options))
        if recovers and not options.data:
            raise UsageError("--recover needs --data, whose train split it learns from")
        if given and not ((options.tune or recovers) and given == ["--data"]):
            raise UsageError(f"{', '.join(given)}: only a search with --max-drop takes it")
        return False
    missing = [f"--{name}" for name in NEEDED if not getattr(options, name)]
    if missing:
        raise UsageError(f"--max-drop needs {' and '.join(missing)} to measure the loss with")
    return True


def _require_tunable(options: Options) -> None:
    """Refuse, before any search, what could not be tuned after it.

    Raises:
        InputError: this machine cannot time the target, or ``--device-file`` is no device file.
    """
    from segdeploy.api.targets import profile_of
    from segdeploy.benchmarks.tune.device import DeviceMemory
    from segdeploy.benchmarks.tune.run import require_timed_here

    require_timed_here(profile_of(options.target))
    if options.device_file:
        DeviceMemory.read(options.device_file)


def _tuned(options: Options, *, overwrite: bool) -> Result:
    """Search for the fastest placement of Q and DQ on this machine."""
    from segdeploy.api.tune import tune

    found = tune(
        options.model,
        options.calibration,
        target=options.target,
        exclude=options.exclude,
        out=options.output,
        time_budget_s=options.tune,
        max_drop=options.max_drop,
        reference=None if options.max_drop is None else model_of(options, options.reference),
        data=options.data,
        device_file=options.device_file,
        seed=options.seed,
        threads=options.threads,
        overwrite=overwrite,
    )
    log.info("%s", found.words())
    if not found.finished:
        log.info("the time ended before all was tried; run the same command to go on")
    path, size = found.artifact.path, found.artifact.path.stat().st_size
    log.info("%s: int8, %.1f MB", path, size / 1e6)
    return 0, asdict(found.artifact) | {
        "bytes": size,
        "tuned": bool(found.placement),
        "placement": json.loads(found.placement.to_json()),
        "time_ratio": asdict(found.confirmed) if found.confirmed else None,
        "judged_by": found.judged_by,
        "device": asdict(found.device),
        "device_file": str(found.device_file),
        "finished": found.finished,
        "trials": [asdict(trial) | {"change": json.loads(trial.change)} for trial in found.trials],
    }


def _methods(options: Options) -> list[str] | None:
    """What ``--recover`` names; nothing where it says so or ``--tune`` follows, else ``None``."""
    if options.recover is None:
        return [] if options.tune is not None else None
    return [method for method in options.recover if method != NO_RECOVERY]


def _mixed(options: Options) -> tuple[int, dict[str, Any]]:
    """Search for the fewest float layers within the budget, and report on the test split."""
    from segdeploy.api.mixed_precision import mixed_precision, outcome

    if not options.reference.is_file():
        raise InputError(f"--reference {options.reference} is no file; give a checkpoint or ONNX")
    beside = options.output.with_name(f"{options.output.name}.tune.json")
    begun = options.tune is not None and beside.is_file()
    found = mixed_precision(
        options.model,
        options.calibration,
        max_drop=options.max_drop,
        reference=model_of(options, options.reference),
        data=options.data,
        target=options.target,
        exclude=options.exclude,
        recover=_methods(options),
        out=options.output,
        time_budget_s=options.time_budget or duration(DEFAULT_TIME_BUDGET),
        seed=options.seed,
        threads=options.threads,
        overwrite=options.overwrite or begun,
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
        "recovery": [asdict(tried) for tried in found.recovery],
    }
