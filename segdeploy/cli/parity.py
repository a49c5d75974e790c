"""The verb that compares accuracy: parity, of model files and of outputs a device returned."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.cli.compare import artifacts_of, common_contract, require_same_inputs
from segdeploy.cli.flags import (
    Group,
    checkpoint_details,
    evaluation_data,
    max_drop_flag,
    runtime_flag,
    seed_flag,
    threads_flag,
    time_limit_flag,
)
from segdeploy.cli.grammar import Parser
from segdeploy.cli.inputs import GATE_FAILED, Options, Result, checkpoint_of, runtimes_of
from segdeploy.deploy.data import bundled
from segdeploy.deploy.system.errors import InputError, RunError, UsageError
from segdeploy.deploy.system.progress import bar

if TYPE_CHECKING:
    from segdeploy.benchmarks.parity.predictions import Predictions
    from segdeploy.benchmarks.parity.records import ParitySection
    from segdeploy.benchmarks.report.rows import ComparedRow
    from segdeploy.benchmarks.speed.entries import Entry
    from segdeploy.deploy.data.image_set import SegmentationSet
    from segdeploy.deploy.data.preprocess import Preprocess
    from segdeploy.deploy.onnx_model.artifact import Artifact
    from segdeploy.deploy.runtimes.base import Execution, Runtime
    from segdeploy.pipeline.finished import FinishedRun

log = logging.getLogger(__name__)


VALUES = ("probability", "logits")


def add_flags(verb: Parser) -> None:
    """Models, outputs that devices returned, and what both are compared with."""
    verb.add_models("ONNX files", many=True, required=False)
    verb.add_needed(
        "--reference",
        type=Path,
        help="checkpoint or ONNX file to compare with (default for a finished run: its export)",
    )
    checkpoint_details(verb)
    evaluation_data(verb)
    runtime_flag(verb, default="every runtime that is here and takes the file")
    max_drop_flag(verb)
    seed_flag(verb)
    threads_flag(verb)
    time_limit_flag(verb)
    _prediction_flags(verb)


def _prediction_flags(verb: Group) -> None:
    group = verb.add_argument_group(
        "outputs of a device",
        "scored like a model: one file for each evaluation image, NAME.npz or NAME.npy (one float\n"
        "array, the network's output) or NAME.png (a mask of the network's size)",
    )
    group.add_argument(
        "--predictions", type=Path, nargs="+", default=(), metavar="DIR", help="folders of outputs"
    )
    group.add_argument(
        "--predictions-name",
        nargs="+",
        metavar="NAME",
        help="of the device, for the table, one for each folder (default: the folder's name)",
    )
    group.add_argument(
        "--predictions-are",
        choices=VALUES,
        default=VALUES[0],
        help="what the arrays hold (default: probability)",
    )
    group.add_argument(
        "--predictions-order",
        type=Path,
        metavar="FILE",
        help="the inputs in the order the device took them, one path a line, for a device that "
        "numbers its outputs: the n-th file by name is of the n-th line",
    )


WORST = 3
"""Images that the text names for each candidate; JSON has more."""


def from_run(options: Options, run: FinishedRun) -> list[Path]:
    """What a run compared, with its export as the reference."""
    options.reference = options.reference or run.reference
    return list(run.candidates)


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Compare candidates with a reference; exit code 1 unless every one is proven to be kept."""
    from segdeploy.benchmarks.parity.run import parity_section
    from segdeploy.deploy.data.image_set import open_set
    from segdeploy.deploy.runtimes.base import Execution
    from segdeploy.deploy.runtimes.registry import usable_cores

    _require_candidates(options)
    artifacts = artifacts_of(options.model)
    images = open_set(options.data or bundled.sample(), "test")
    execution = Execution(threads=options.threads or usable_cores())
    opened, name, preprocess = _reference(options, execution)
    with opened as reference:
        if artifacts:
            require_same_inputs(options.reference, preprocess, common_contract(artifacts))
        section = parity_section(
            reference,
            name,
            _entries(options, artifacts),
            images=images.inputs(preprocess),
            pixels=images.pixels(preprocess),
            truths=images.truths(preprocess),
            fields=images.fields(preprocess),
            names=[sample.name for sample in images],
            max_drop=options.max_drop,
            seed=options.seed,
            execution=execution,
            progress=lambda items, label: bar(items, label, unit="image"),
            predictions=_predictions(options, images, preprocess),
            time_limit_s=options.time_limit,
        )
    _require_compared(section)
    _say(section)
    passed = section.passed
    log.info("%s (budget %g points of IoU)", "PASS" if passed else "FAIL", options.max_drop)
    return 0 if passed else GATE_FAILED, section


def _require_candidates(options: Options) -> None:
    """Refuse flags that leave nothing to compare, or that nothing reads."""
    folders, names = options.predictions, options.predictions_name
    if not options.model and not folders:
        raise UsageError("nothing to compare; give -m FILE, --predictions DIR, or both")
    if options.runtime and not options.model:
        raise UsageError("--runtime is for the files of -m, and there are none")
    if (names or options.predictions_order) and not folders:
        raise UsageError("--predictions-name and --predictions-order need --predictions DIR")
    if names and len(names) != len(folders):
        raise UsageError(
            f"--predictions-name has {len(names)} names for {len(folders)} folders; give one each"
        )
    shown = names or [folder.resolve().name for folder in folders]
    if len(set(shown)) != len(shown):
        raise UsageError(
            f"two of the predictions are called {shown}; tell them apart with --predictions-name"
        )


def _require_compared(section: ParitySection) -> None:
    """Refuse a table of nothing but skipped rows."""
    candidates = section.rows[1:]
    if all(row.skipped and not row.failed for row in candidates):
        reasons = "; ".join(f"{row.name}: {row.skipped}" for row in candidates)
        raise InputError(f"nothing could be compared: {reasons}")


def _entries(options: Options, artifacts: dict[str, Artifact]) -> tuple[Entry, ...]:
    """Every file on the runtimes asked for; without such, on every one that takes it."""
    from segdeploy.benchmarks.speed.entries import entries_everywhere, entries_for

    runtimes = runtimes_of(options)
    return entries_everywhere(artifacts) if runtimes is None else entries_for(artifacts, runtimes)


def _predictions(
    options: Options, images: SegmentationSet, preprocess: Preprocess
) -> list[Predictions]:
    """What the devices returned, in the order of the images."""
    from segdeploy.benchmarks.parity.predictions import Values, read_predictions

    return [
        read_predictions(
            folder,
            [sample.name for sample in images],
            size=preprocess.size,
            values=Values(options.predictions_are),
            order=options.predictions_order,
            name=options.predictions_name[index] if options.predictions_name else None,
        )
        for index, folder in enumerate(options.predictions)
    ]


def _reference(options: Options, execution: Execution) -> tuple[Runtime, str, Preprocess]:
    """The reference, its name, and the inputs it expects."""
    from segdeploy.deploy.onnx_model.file import contract_of, describe
    from segdeploy.deploy.runtimes.isolated import open_isolated
    from segdeploy.deploy.runtimes.registry import RuntimeName

    path: Path = options.reference
    if path.suffix == ".onnx":
        artifact = describe(path)
        contract, name = contract_of(artifact), f"{path.name} on ONNX Runtime"
        try:
            runtime = open_isolated(
                RuntimeName.ONNXRUNTIME,
                artifact,
                execution=execution,
                time_limit_s=options.time_limit,
            )
        except RunError as error:
            raise RunError(f"the reference, {name}: {error}") from error
        return runtime, name, contract
    from segdeploy.deploy.runtimes.pytorch import PyTorchRuntime  # torch: for a checkpoint alone

    checkpoint = checkpoint_of(options, path)
    return PyTorchRuntime(checkpoint, execution=execution), "PyTorch fp32", checkpoint.preprocess


def _say(section: ParitySection) -> None:
    """What was found, a line for each row; below it what did not pass, and the worst images."""
    from segdeploy.benchmarks.report.rows import compared_rows

    for shown in compared_rows(section):
        log.info("%s", _line(shown))
        for failure in shown.row.failures:
            log.info("  %s", failure)
        lost = [image for image in shown.row.worst_images if image.change < 0][:WORST]
        if lost:
            named = ", ".join(f"{image.name} {image.change:+.2f}" for image in lost)
            log.info("  worst images: %s", named)
    for row in section.rows:
        if row.skipped:
            log.info("%s: %s, %s", row.name, "FAILED" if row.failed else "skipped", row.skipped)


def _line(shown: ComparedRow) -> str:
    """One candidate beside the reference, or the reference itself."""
    from segdeploy.benchmarks.report.tables import figure

    row, judgement = shown.row, shown.row.ci95_percentage_points
    scores = ", ".join(
        f"{label} {figure(getattr(row.scores, name), 'share')}"
        for label, name in (("IoU", "iou"), ("mIoU", "miou"), ("Dice", "dice"))
    )
    if judgement is None:
        return f"{row.name}: {scores} ({shown.verdict})"
    low, high = judgement
    kept = figure(row.reference_iou_kept_percent, "share")
    return (
        f"{row.name}: {scores}, delta {figure(row.delta_iou_percentage_points, 'points')} "
        f"[{low:+.3f}, {high:+.3f}], {kept} % of the reference (MLPerf line: {shown.line}), "
        f"{figure(row.disagreement_percent, 'share')} % of pixels differ, {shown.verdict}"
    )
