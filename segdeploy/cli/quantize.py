"""``segdeploy quantize``: the int8 model of a target, or mixed precision within a budget."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segdeploy.cli.compare import require_same_inputs
from segdeploy.cli.flags import (
    TARGETS,
    Group,
    checkpoint_details,
    exclude_flag,
    model_flag,
    not_negative,
    output_flag,
    seed_flag,
    threads_flag,
)
from segdeploy.cli.inputs import GATE_FAILED, Options, Result, checkpoint_of, output_file, wrote
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.system.only_writer import writing_file
from segdeploy.deploy.system.progress import bar

if TYPE_CHECKING:
    from segdeploy.benchmarks.mixed.judge import Judge
    from segdeploy.benchmarks.mixed.search import MixedResult
    from segdeploy.benchmarks.mixed.state import Trial
    from segdeploy.deploy.data.image_set import SegmentationSet
    from segdeploy.deploy.data.preprocess import Preprocess
    from segdeploy.deploy.onnx_model.artifact import Artifact
    from segdeploy.deploy.runtimes.base import Execution, Runtime

log = logging.getLogger(__name__)


UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
DEFAULT_TIME_BUDGET = "10m"


def add_flags(verb: Group) -> None:
    """Everything ``segdeploy quantize`` takes."""
    model_flag(verb)
    output_flag(verb, "ONNX file to write", required=True)
    verb.add_argument("--calibration", type=Path, required=True, help="table from `calibrate`")
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


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Write the int8 model of a target; with a budget, the fewest layers in float that keep it."""
    from segdeploy.calibration.table import CalibrationTable
    from segdeploy.deploy.onnx_model.file import describe
    from segdeploy.deploy.quantize.to_int8 import to_int8
    from segdeploy.deploy.system.checksums import sha256_of
    from segdeploy.deploy.targets.profiles import profile_named

    output = output_file(options, options.model, options.calibration)
    if wants_search(options):
        with writing_file(output, beside=kept_beside(output)):
            return quantize_mixed(options, output)
    with writing_file(output):
        artifact = to_int8(
            describe(options.model),
            output,
            table=CalibrationTable.read(options.calibration),
            table_sha256=sha256_of(options.calibration),
            profile=profile_named(options.target),
            exclude=options.exclude,
        )
    return wrote(artifact)


NEEDED = ("data", "reference")
ONLY_WITH_BUDGET = ("time_budget", *NEEDED)


def wants_search(options: Options) -> bool:
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


def quantize_mixed(options: Options, output: Path) -> Result:
    """Search for the fewest float layers within the budget, and report on the test split."""
    from segdeploy.benchmarks.mixed.judge import Judge
    from segdeploy.benchmarks.mixed.search import MixedSearch
    from segdeploy.benchmarks.mixed.state import SearchState
    from segdeploy.calibration.table import CalibrationTable
    from segdeploy.deploy.onnx_model.file import contract_of, describe, require_fp32
    from segdeploy.deploy.runtimes.base import Execution
    from segdeploy.deploy.runtimes.registry import availability, usable_cores
    from segdeploy.deploy.system.checksums import sha256_of
    from segdeploy.deploy.targets.profiles import profile_named

    started = time.monotonic()
    source, profile = describe(options.model), profile_named(options.target)
    require_fp32(source, "int8 is made")
    preprocess = contract_of(source)
    validation = _split(options.data, "val")
    if not options.reference.is_file():
        raise InputError(f"--reference {options.reference} is no file; give a checkpoint or ONNX")
    if not availability(profile.runtime).ready:
        raise InputError(f"{availability(profile.runtime).reason}; it has to run the trials")
    execution = Execution(threads=options.threads or usable_cores())
    state = SearchState.open(
        output.with_name(kept_beside(output)[0]),
        fingerprint=_fingerprint(options, source, validation, preprocess),
    )
    log.info(
        "choosing on %d val images, on %s%s",
        len(validation),
        profile.runtime.value,
        f"; going on after {len(state.trials)} trials" if state.trials else "",
    )
    with _reference(options, execution, preprocess) as reference:

        def judge(images: SegmentationSet) -> Judge:
            return Judge(
                reference,
                images,
                preprocess=preprocess,
                runtime=profile.runtime,
                execution=execution,
                seed=options.seed,
                progress=_bar,
            )

        judged = judge(validation)
        result = MixedSearch(
            source=source,
            output=output,
            table=CalibrationTable.read(options.calibration),
            table_sha256=sha256_of(options.calibration),
            profile=profile,
            exclude=tuple(options.exclude),
            images=_for_ranking(validation, preprocess, options.seed),
            judge=lambda artifact: judged.report(artifact, max_drop=options.max_drop),
            max_drop=options.max_drop,
            time_budget_s=options.time_budget or duration(DEFAULT_TIME_BUDGET),
            threads=execution.threads,
            progress=_bar,
        ).run(state, started=started)
        _say(result, options.max_drop)
        test = _tested(result, options, judge)
    if result.finished:
        state.path.unlink(missing_ok=True)
    return 0 if result.within else GATE_FAILED, _as_json(result, options.max_drop, test)


def kept_beside(output: Path) -> tuple[str, str]:
    """What a search keeps in the folder of its output until it is done: its state, a trial."""
    from segdeploy.benchmarks.mixed.search import trial_file

    return f"{output.name}.search.json", trial_file(output).name


def _tested(result: MixedResult, options: Options, judge: Any) -> Trial | None:
    """The file in place on the test split; ``None`` where there is none."""
    from segdeploy.benchmarks.mixed.state import Trial
    from segdeploy.deploy.data.image_set import open_set, read_splits

    if "test" not in set(read_splits(options.data / "splits.csv").values()):
        return None
    before = time.monotonic()
    report = judge(open_set(options.data, "test")).report(
        result.artifact, max_drop=options.max_drop
    )
    seconds = time.monotonic() - before
    found = Trial.of(report, layers=result.chosen.layers, seconds=seconds)
    log.info("test split, %d images: %s", len(report.images), found.words())
    return found


def _say(result: MixedResult, max_drop: float) -> None:
    """The outcome, in words."""
    path, layers = result.artifact.path, result.layers
    size = path.stat().st_size / 1e6
    if result.within and not layers:
        log.info("all layers in int8 keep the budget of %g points: no search needed", max_drop)
    elif result.within:
        found = "the fewest" if result.finished else "the fewest that time allowed to try"
        log.info(
            "%d layers in float, %s: --exclude %s", len(layers), found, " ".join(result.exclude)
        )
    elif result.finished:
        log.info("even with every layer in float the budget of %g points is not kept", max_drop)
    else:
        log.info(
            "the time ended before the budget of %g points was kept; the best so far is in place, "
            "run the same command to go on",
            max_drop,
        )
    log.info("%s: int8 with %d layers in float, %.1f MB", path, len(layers), size)


def _as_json(result: MixedResult, max_drop: float, test: Trial | None) -> dict[str, Any]:
    return asdict(result.artifact) | {
        "bytes": result.artifact.path.stat().st_size,
        "max_drop_percentage_points": max_drop,
        "within": result.within,
        "finished": result.finished,
        "float_layers": list(result.layers),
        "exclude": list(result.exclude),
        "val": asdict(result.chosen),
        "test": asdict(test) if test else None,
        "trials": [asdict(trial) for trial in result.trials],
    }


def _split(root: Path, name: str) -> SegmentationSet:
    """One split, whose absence is explained."""
    from segdeploy.deploy.data.image_set import open_set, read_splits

    splits = read_splits(root / "splits.csv")
    if name not in set(splits.values()):
        raise InputError(
            f"--data {root} has no {name} split to choose on, only "
            f"{', '.join(sorted(set(splits.values())))}; `segdeploy data prepare` makes one"
        )
    return open_set(root, name)


def _for_ranking(images: SegmentationSet, preprocess: Preprocess, seed: int) -> list[Any]:
    """A few images, drawn by seed, normalised."""
    from segdeploy.benchmarks.mixed.search import RANKING_IMAGES, RANKING_PARTS

    few = min(len(images), RANKING_PARTS * RANKING_IMAGES)
    return list(images.take(few, seed=seed).inputs(preprocess))


def _fingerprint(
    options: Options, source: Artifact, images: SegmentationSet, preprocess: Preprocess
) -> str:
    """Digest of all that decides what trials measure; the budgets do not."""
    from segdeploy.deploy import __version__
    from segdeploy.deploy.system.checksums import sha256_of
    from segdeploy.deploy.targets.profiles import profile_named

    decides = [
        __version__,
        source.sha256,
        sha256_of(options.calibration),
        sha256_of(options.reference),
        profile_named(options.target).name,
        sorted(options.exclude),
        images.sha256(),
        preprocess.to_json(),
        options.seed,
    ]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()


def _reference(options: Options, execution: Execution, models: Preprocess) -> Runtime:
    """What accuracy is compared with; it must expect the same inputs as the model."""
    from segdeploy.deploy.onnx_model.file import contract_of, describe
    from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime

    path: Path = options.reference
    if path.suffix == ".onnx":
        artifact = describe(path)
        require_same_inputs(path, contract_of(artifact), models)
        return open_runtime(RuntimeName.ONNXRUNTIME, artifact, execution=execution)
    from segdeploy.deploy.runtimes.pytorch import PyTorchRuntime

    checkpoint = checkpoint_of(options, path)
    require_same_inputs(path, checkpoint.preprocess, models)
    return PyTorchRuntime(checkpoint, execution=execution)


def _bar(items: Iterable[Any], label: str) -> Iterable[Any]:
    return bar(items, label, unit="image")
