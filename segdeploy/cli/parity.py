"""The verb that compares accuracy: parity, of model files and of outputs a device returned."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.cli.flags import (
    Group,
    adoption_flags,
    checkpoint_details,
    engine_flags,
    evaluation_data,
    max_drop_class_flag,
    max_drop_flag,
    module_flag,
    runtime_flag,
    seed_flag,
    source_flags,
    threads_flag,
    time_limit_flag,
)
from segdeploy.cli.gate import gate_flags, require_gate_files, write_gate
from segdeploy.cli.grammar import Parser
from segdeploy.cli.inputs import GATE_FAILED, Options, Result, model_of, say_masks
from segdeploy.deploy.system.errors import UsageError

if TYPE_CHECKING:
    from segdeploy.benchmarks.parity.records import ParitySection
    from segdeploy.benchmarks.report.rows import ComparedRow
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
    module_flag(verb)
    adoption_flags(verb)
    evaluation_data(verb)
    source_flags(verb)
    runtime_flag(verb, default="every runtime that is here and takes the file")
    max_drop_flag(verb)
    max_drop_class_flag(verb)
    seed_flag(verb)
    threads_flag(verb)
    time_limit_flag(verb)
    gate_flags(verb)
    engine_flags(
        verb,
        engine="ray: the cluster in RAY_ADDRESS, else a new one here; --threads is that of one "
        "process (default 1); needs pip install 'segdeploy[ray]'. Under torchrun the processes "
        "share the images (default: local)",
        workers="with --engine ray, processes that each hold a model (default: 2)",
    )
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
    from segdeploy.api.data import Data
    from segdeploy.api.parity import DeviceOutputs, parity
    from segdeploy.benchmarks.report.gate import accuracy_checks
    from segdeploy.deploy.distributed.shard import is_first_process

    require_gate_files(options)
    folders, names = options.predictions, options.predictions_name
    if (names or options.predictions_order) and not folders:
        raise UsageError("--predictions-name and --predictions-order need --predictions DIR")
    if names and len(names) != len(folders):
        raise UsageError(
            f"--predictions-name has {len(names)} names for {len(folders)} folders; give one each"
        )
    reference = model_of(options, options.reference)
    data = Data(
        options.data,
        levels=None if options.levels is None else tuple(options.levels),
        page=options.page,
    )
    found = parity(
        options.model,
        reference=reference,
        data=data,
        outputs=[
            DeviceOutputs(
                folder=folder,
                name=names[index] if names else None,
                values=options.predictions_are,
                order=options.predictions_order,
            )
            for index, folder in enumerate(folders)
        ],
        max_drop=options.max_drop,
        max_drop_class=options.max_drop_class,
        runtimes=options.runtime,
        seed=options.seed,
        threads=options.threads,
        time_limit_s=options.time_limit,
        engine=options.engine,
        workers=options.workers,
    )
    if not is_first_process():  # torchrun would end the first one before it has said so
        return 0, {}
    _say(found.section)
    verdict = (
        f"{'PASS' if found.kept else 'FAIL'} (budget {options.max_drop:g} points of "
        f"{found.section.score.shown})"
    )
    log.info("%s", verdict)
    checks = accuracy_checks(found.section)
    write_gate(options, checks, judged=f"parity with {found.section.reference}", verdict=verdict)
    say_masks(data.test, reference)
    return 0 if found.kept else GATE_FAILED, found.section


def _say(section: ParitySection) -> None:
    """What was found, a line for each row; below it what did not pass, and the worst images."""
    from segdeploy.benchmarks.report.classes import class_lines
    from segdeploy.benchmarks.report.rows import compared_rows

    for shown in compared_rows(section):
        log.info("%s", _line(shown))
        for line in class_lines(shown.row):
            log.info("  %s", line)
        for sentence in (*shown.row.failures, *shown.row.cautions):
            log.info("  %s", sentence)
        lost = [image for image in shown.row.worst_images if image.change < 0][:WORST]
        if lost:
            named = ", ".join(f"{image.name} {image.change:+.2f}" for image in lost)
            log.info("  worst images: %s", named)
    for row in section.rows:
        if row.skipped:
            log.info("%s: %s, %s", row.name, "FAILED" if row.failed else "skipped", row.skipped)


def _line(shown: ComparedRow) -> str:
    """One candidate beside the reference, or the reference itself."""
    from segdeploy.benchmarks.report.scores import scores_in_words
    from segdeploy.benchmarks.report.tables import figure

    row, judgement = shown.row, shown.row.ci95_percentage_points
    scores = f"{row.name}: {scores_in_words(row)}"
    if judgement is None:
        return f"{scores} ({shown.verdict})"
    low, high = judgement
    kept = figure(row.reference_iou_kept_percent, "share")
    return (
        f"{scores}; delta {figure(row.delta_iou_percentage_points, 'points')} "
        f"[{low:+.3f}, {high:+.3f}], {kept} % of the reference (MLPerf line: {shown.line}), "
        f"{figure(row.disagreement_percent, 'share')} % of pixels differ, {shown.verdict}"
    )
