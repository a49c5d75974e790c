"""From a trained network to a verdict: the stages in order."""

from __future__ import annotations

import logging
from pathlib import Path

from segdeploy.benchmarks.parity.report import FEWEST_IMAGES
from segdeploy.benchmarks.report.files import PAGES, write_report
from segdeploy.benchmarks.report.records import Report
from segdeploy.benchmarks.speed.entries import entries_for, require_ready
from segdeploy.deploy.data.image_set import require_disjoint
from segdeploy.deploy.data.output_contract import FOREGROUND_PROBABILITY, OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.stages.rewrite import changed_sites, summary
from segdeploy.deploy.stages.simplify import simplify
from segdeploy.deploy.stages.to_fp16 import to_fp16
from segdeploy.deploy.system.errors import InputError, one_line
from segdeploy.deploy.system.interruption import begun
from segdeploy.deploy.system.only_writer import writing_folder
from segdeploy.deploy.targets.profiles import TargetProfile
from segdeploy.pipeline.run_config import RunConfig
from segdeploy.pipeline.run_report import assemble
from segdeploy.pipeline.source import Source
from segdeploy.pipeline.stage_runner import StageRunner

log = logging.getLogger(__name__)


def run(config: RunConfig, source: Source) -> Report:
    """Make every artefact, prove it, and write the report.

    A stage whose inputs did not change is taken from the output folder, so an interrupted run
    goes on where it stopped.

    Returns:
        The report, as written to ``report.json``.

    Raises:
        InputError: an input cannot be read, calibration and evaluation share an image, there
            are too few images for parity, or a runtime that was asked for is not installed.
        UsageError: the output folder holds something else, or another process writes to it.
        RunError: a stage failed, or changed the output beyond what its arithmetic can explain.
    """
    require_ready(config.runtimes or ())
    require_disjoint(config.calibration, config.evaluation)
    if len(config.evaluation) < FEWEST_IMAGES:  # said now, not after an hour of work
        raise InputError(
            f"{config.evaluation.root}: split {config.evaluation.split!r} holds "
            f"{len(config.evaluation)} image; parity needs at least {FEWEST_IMAGES}, and tells "
            "something from about 30"
        )
    config.evaluation.require_fits(source.output)
    log.info("%s", plan(config, source))
    if said := config.evaluation.masks_in_words(source.output):
        log.info("%s", said)
    with writing_folder(config.output), StageRunner(config, source) as stages, begun():
        return _run(config, source, stages)


def _run(config: RunConfig, source: Source, stages: StageRunner) -> Report:
    """The stages in order, and the report."""
    fp32 = stages.run(
        source.stage, "fp32.onnx", source.write, parent=None, note=lambda _: source.note
    )
    simplified = stages.run("simplify", "sim.onnx", lambda out: simplify(fp32, out), parent=fp32)
    fp16 = stages.run("fp16", "fp16.onnx", lambda out: to_fp16(simplified, out), parent=simplified)
    rewritten = stages.run(
        "rewrite",
        "opt.onnx",
        lambda out: stages.rewrite(simplified, out),
        parent=simplified,
        note=summary,
    )
    table, table_path = stages.calibrate(rewritten)
    artifacts = {source.label: fp32, "fp32": simplified, "fp16": fp16}
    if changed_sites(rewritten):
        artifacts["fp32 rewritten"] = rewritten
    for profile in config.targets:

        def quantize(out: Path, profile: TargetProfile = profile) -> Artifact:
            return stages.quantize(rewritten, out, table=table, path=table_path, profile=profile)

        artifacts[f"int8 {profile.name}"] = stages.run(
            "int8",
            f"int8.{profile.name}.onnx",
            quantize,
            parent=rewritten,
            note=stages.tuning_note if config.tune_s else None,
        )
    debug = None
    if config.targets:
        debug = stages.debug(rewritten, artifacts[f"int8 {config.targets[0].name}"])
    entries = entries_for(artifacts, config.runtimes)
    parity = stages.parity(entries)
    timed = [entry for entry in entries if entry.label != source.label]
    benchmark = stages.benchmark(timed)
    report = assemble(
        config=config,
        source=source,
        model=fp32,
        table=table,
        stages=stages.rows,
        debug=debug,
        parity=parity,
        benchmark=benchmark,
        layer_times=stages.layer_times(timed),
        worst=stages.worst_images(parity, entries),
    )
    stages.measured.report_follows()
    write_report(report, config.output)
    stages.measured.report_is_written()
    stages.workspace.finish((*PAGES,))
    return report


def contract_words(contract: Preprocess) -> str:
    """An input contract in a few words.

    Example:
        >>> contract_words(Preprocess())
        '96x96 BGR, bilinear, x / 255, mean 0.5 0.5 0.5, std 0.5 0.5 0.5'
    """
    return contract.words


def output_words(contract: OutputContract) -> str:
    """An output contract in a few words.

    Example:
        >>> output_words(OutputContract())
        'nucleus, where its probability is at least 0.5 (sigmoid)'
    """
    names = one_line(", ".join(contract.classes), limit=100)
    if contract.exclusive:
        count = contract.channels
        ignored = contract.ignored_index
        left = "" if ignored is None else f", pixels of {ignored} count nowhere"
        return f"one of {count} classes at each pixel, {names} (softmax{left})"
    whose = "its" if contract.binary else "their"
    overlap = "" if contract.binary else ", and may overlap"
    least = f"at least {FOREGROUND_PROBABILITY:g}{overlap} (sigmoid)"
    return f"{names}, where {whose} probability is {least}"


def plan(config: RunConfig, source: Source) -> str:
    """What a run is going to do, in a few lines."""
    targets = ", ".join(f"int8 {profile.name}" for profile in config.targets)
    calibration, evaluation = config.calibration, config.evaluation
    targets += f" (tuned for {config.tune_s:g} s each)" if config.tune_s else ""
    score = "IoU" if source.output.binary else "mIoU"
    return (
        f"{source.what}\n"
        f"input: {contract_words(source.preprocess)} {source.origin}\n"
        f"output: {output_words(source.output)}; --classes and --output-kind state another\n"
        f"calibrate ({config.method.value}) on {len(calibration)} images of "
        f"{calibration.root.resolve().name} ({calibration.split}), report on {len(evaluation)} of "
        f"{evaluation.root.resolve().name} ({evaluation.split})\n"
        f"{source.stage}, simplify, fp16, rewrite, calibrate, {targets}, debug, parity (budget "
        f"{config.max_drop:g} points of {score}), benchmark, report -> {config.output}"
    )
