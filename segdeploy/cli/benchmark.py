"""The verb that times models: call by call, with every stream busy, or from files to files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from segdeploy.cli.compare import artifacts_of, common_contract, require_same_inputs
from segdeploy.cli.flags import (
    checkpoint_details,
    end_to_end_flags,
    evaluation_data,
    runtime_flag,
    sweep_flags,
    time_limit_flag,
    timing_flags,
)
from segdeploy.cli.grammar import Parser
from segdeploy.cli.inputs import Options, Result, checkpoint_of, runtimes_of
from segdeploy.deploy.data import bundled
from segdeploy.deploy.system.errors import RunError, UsageError
from segdeploy.deploy.system.only_writer import require_new_in
from segdeploy.deploy.system.progress import share_bar

if TYPE_CHECKING:
    from segdeploy.benchmarks.speed.end_to_end import Route
    from segdeploy.benchmarks.speed.records import BenchmarkRow, EndToEndRow
    from segdeploy.benchmarks.speed.subjects import Subject
    from segdeploy.benchmarks.speed.sweep import Sweep
    from segdeploy.deploy.data.preprocess import Preprocess
    from segdeploy.deploy.runtimes.execution import Hint
    from segdeploy.pipeline.finished import FinishedRun

log = logging.getLogger(__name__)

R = TypeVar("R", "BenchmarkRow", "EndToEndRow")


def add_flags(verb: Parser) -> None:
    """Models, and how they are timed."""
    verb.add_models("ONNX files", many=True)
    verb.add_argument("--reference", type=Path, help="checkpoint to time in PyTorch eager as 1x")
    checkpoint_details(verb)
    evaluation_data(verb)
    runtime_flag(verb)
    timing_flags(verb)
    sweep_flags(verb)
    time_limit_flag(verb)
    end_to_end_flags(verb)


IMAGES = 8
"""Images of the data that calls are timed on."""


def from_run(options: Options, run: FinishedRun) -> list[Path]:
    """What a run compared."""
    return list(run.candidates)


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Time models side by side, or one after the other from image files to mask files.

    Exit code 4 where a runtime failed; the others are measured all the same.
    """
    from segdeploy.benchmarks.speed.entries import entries_for
    from segdeploy.benchmarks.speed.run import speed_section
    from segdeploy.benchmarks.speed.subjects import FileSubject
    from segdeploy.benchmarks.speed.timing_noise import noise_lines
    from segdeploy.deploy.data.image_set import open_set
    from segdeploy.deploy.runtimes.execution import Hint

    if options.end_to_end:
        return _end_to_end(options)
    if options.output:
        raise UsageError(f"-o {options.output} is for masks; it needs --end-to-end FOLDER")
    sweep = _sweep(options, hint=Hint.LATENCY, batches=(1, 8))
    artifacts = artifacts_of(options.model)
    preprocess = common_contract(artifacts)
    entries = entries_for(artifacts, runtimes_of(options))
    images = open_set(options.data or bundled.sample(), "test")
    images = images.take(min(IMAGES, len(images)), seed=0)
    reference = _reference(options, preprocess) if options.reference else None
    with share_bar("benchmark") as progress:
        section = speed_section(
            reference,
            [FileSubject(entry=entry) for entry in entries],
            images=images.inputs(preprocess),
            pixels=images.pixels(preprocess),
            sweep=sweep,
            warmup=options.warmup,
            duration_s=options.duration,
            progress=progress,
            time_limit_s=options.time_limit,
        )
    _say(section.rows, _speed_line)
    for line in noise_lines(section):
        log.warning("%s", line)
    return _code(section.rows), section


def _end_to_end(options: Options) -> Result:
    """Every image of a folder through each model, masks out."""
    from segdeploy.benchmarks.speed.end_to_end import end_to_end_section, image_files, require_apart
    from segdeploy.deploy.runtimes.execution import Hint

    if options.data:
        raise UsageError("--data is not read with --end-to-end; the folder holds the images")
    sweep = _sweep(options, hint=Hint.THROUGHPUT, batches=(1,))
    paths = image_files(options.end_to_end)
    if options.output:
        require_apart(options.end_to_end, options.output)
        require_new_in(options.output, overwrite=options.overwrite)
    with ExitStack() as stack:
        output = options.output or Path(stack.enter_context(TemporaryDirectory()))
        routes = _routes(options, output)
        progress = stack.enter_context(share_bar("end to end"))
        section = end_to_end_section(
            routes,
            paths,
            sweep=sweep,
            warmup=options.warmup,
            duration_s=options.duration,
            progress=progress,
            time_limit_s=options.time_limit,
        )
    _say(section.rows, _end_to_end_line)
    if options.output:
        log.info("masks: %s", ", ".join(sorted({str(route.output) for route in routes})))
    return _code(section.rows), section


def _routes(options: Options, output: Path) -> list[Route]:
    """Each model with its contract; where there are several, with a folder of its own."""
    from segdeploy.benchmarks.speed.end_to_end import Route
    from segdeploy.benchmarks.speed.entries import entries_for
    from segdeploy.benchmarks.speed.subjects import FileSubject
    from segdeploy.deploy.onnx_model.file import contract_of

    artifacts = artifacts_of(options.model)
    contracts = {label: contract_of(artifact) for label, artifact in artifacts.items()}
    found: list[tuple[str, Subject, Preprocess]] = [
        (f"{entry.label}.{entry.runtime.value}", FileSubject(entry=entry), contracts[entry.label])
        for entry in entries_for(artifacts, runtimes_of(options))
    ]
    if options.reference:
        contract = common_contract(artifacts)
        found.insert(0, ("reference", _reference(options, contract), contract))
    return [
        Route(subject=subject, preprocess=contract, output=output / name if found[1:] else output)
        for name, subject, contract in found
    ]


def _sweep(options: Options, *, hint: Hint, batches: tuple[int, ...]) -> Sweep:
    """What the flags ask to go through; ``hint`` and ``batches`` where they do not say."""
    from segdeploy.benchmarks.speed.sweep import Sweep
    from segdeploy.deploy.onnx_model.artifact import Precision
    from segdeploy.deploy.runtimes.execution import Hint
    from segdeploy.deploy.runtimes.registry import usable_cores

    return Sweep(
        threads=tuple(options.threads or (usable_cores(),)),
        batches=tuple(options.batch or batches),
        streams=tuple(options.streams) if options.streams else None,
        hint=Hint(options.hint) if options.hint else hint,
        precision=Precision(options.precision),
    )


def _reference(options: Options, models: Preprocess) -> Subject:
    """The reference, which must expect the same inputs as the models."""
    from segdeploy.benchmarks.speed.entries import Entry
    from segdeploy.benchmarks.speed.subjects import CheckpointSubject, FileSubject
    from segdeploy.deploy.onnx_model.file import contract_of, describe
    from segdeploy.deploy.runtimes.registry import RuntimeName

    path: Path = options.reference
    if path.suffix == ".onnx":
        artifact = describe(path)
        require_same_inputs(path, contract_of(artifact), models)
        runtime = RuntimeName.ONNXRUNTIME
        entry = Entry(label=path.name, artifact=artifact, runtime=runtime, skipped=None)
        return FileSubject(entry=entry)
    checkpoint = checkpoint_of(options, path)
    require_same_inputs(path, checkpoint.preprocess, models)
    return CheckpointSubject(name="PyTorch fp32", checkpoint=checkpoint)


def _code(rows: Iterable[BenchmarkRow | EndToEndRow]) -> int:
    """What was measured is worth having, and a runtime that failed is a failure all the same."""
    return RunError.exit_code if any(row.failed for row in rows) else 0


def _say(rows: Iterable[R], line: Callable[[R], str]) -> None:
    """One line for each row: the setting, the model, and what was found or why nothing was."""
    for row in rows:
        setting = f"batch {row.batch}, threads {row.threads}, streams {row.streams}"
        said = "FAILED" if row.failed else "skipped"
        found = f"{said}, {row.skipped}" if row.skipped else line(row)
        log.info("%s: %s: %s", setting, row.name, found)


def _speed_line(row: BenchmarkRow) -> str:
    from segdeploy.benchmarks.report.tables import figure

    said = []
    if row.p50_ms is not None:
        said.append(f"p50 {row.p50_ms:.2f} ms, p99 {figure(row.p99_ms, 'fixed')} ms")
    said.append(f"{row.rate:.1f} images/s")
    said += [f"{row.speedup:.2f}x the reference"] if row.speedup else []
    first_call = 1e3 * (row.first_inference_s or 0.0)
    said.append(f"load {figure(row.load_s, 'fixed')} s, first call {first_call:.0f} ms")
    said.append(f"peak {figure(row.peak_bytes, 'mega')} MB")
    said.append(f"runs in {row.precision_executed}{_share(row)}")
    return ", ".join(said)


def _end_to_end_line(row: EndToEndRow) -> str:
    from segdeploy.benchmarks.report.tables import figure

    alone, share = row.alone_images_per_s or {}, row.processor_share or {}
    stages = ", ".join(
        f"{stage} {alone[stage]:.1f} ({100 * share[stage]:.0f} % of processor time)"
        for stage in ("decode", "inference", "encode")
    )
    return (
        f"{row.images_per_s:.1f} images/s over {(row.masks or 0) - (row.warmup_masks or 0)} "
        f"images; without overlap {alone['in_turn']:.1f}; stages alone: {stages}; at most "
        f"{row.most_at_once} images at once, peak {figure(row.peak_bytes, 'mega')} MB; "
        f"runs in {row.precision_executed}{_share(row)}"
    )


def _share(row: BenchmarkRow | EndToEndRow) -> str:
    """How much of an int8 model's work is int8."""
    share = row.int8_mac_share
    return f", {100 * share:.2f} % of MACs in int8" if share else ""
