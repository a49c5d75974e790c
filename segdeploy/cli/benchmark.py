"""The verb that times models: call by call, with every stream busy, or from files to files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from segdeploy.cli.flags import (
    adoption_flags,
    checkpoint_details,
    end_to_end_flags,
    evaluation_data,
    module_flag,
    runtime_flag,
    sweep_flags,
    time_limit_flag,
    timing_flags,
)
from segdeploy.cli.grammar import Parser
from segdeploy.cli.inputs import Options, Result, model_of
from segdeploy.deploy.system.errors import RunError, UsageError

if TYPE_CHECKING:
    from segdeploy.benchmarks.speed.records import BenchmarkRow, EndToEndRow
    from segdeploy.pipeline.finished import FinishedRun

log = logging.getLogger(__name__)

R = TypeVar("R", "BenchmarkRow", "EndToEndRow")


def add_flags(verb: Parser) -> None:
    """Models, and how they are timed."""
    verb.add_models("ONNX files", many=True)
    verb.add_argument("--reference", type=Path, help="checkpoint to time in PyTorch eager as 1x")
    checkpoint_details(verb)
    module_flag(verb)
    adoption_flags(verb)
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
    if options.end_to_end:
        return _end_to_end(options)
    if options.output:
        raise UsageError(f"-o {options.output} is for masks; it needs --end-to-end FOLDER")
    from segdeploy.api.benchmark import benchmark

    found = benchmark(options.model, data=options.data, **_settings(options))
    _say(found.rows, _speed_line)
    for line in found.noise:
        log.warning("%s", line)
    return RunError.exit_code if found.failed else 0, found.section


def _end_to_end(options: Options) -> Result:
    """Every image of a folder through each model, masks out."""
    if options.data:
        raise UsageError("--data is not read with --end-to-end; the folder holds the images")
    from segdeploy.api.benchmark import end_to_end

    found = end_to_end(
        options.model,
        options.end_to_end,
        options.output,
        overwrite=options.overwrite,
        **_settings(options),
    )
    _say(found.rows, _end_to_end_line)
    if found.masks:
        log.info("masks: %s", ", ".join(map(str, found.masks)))
    return RunError.exit_code if found.failed else 0, found.section


def _settings(options: Options) -> dict[str, Any]:
    """What the flags state; what they do not is the function's own to say."""
    given = {"batches": options.batch, "hint": options.hint, "streams": options.streams}
    return {
        "reference": model_of(options, options.reference) if options.reference else None,
        "runtimes": options.runtime,
        "threads": options.threads,
        "precision": options.precision,
        "warmup": options.warmup,
        "duration_s": options.duration,
        "time_limit_s": options.time_limit,
        **{name: value for name, value in given.items() if value},
    }


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
