"""Time every model file and the PyTorch reference, interleaved in one run: the speed table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cold_start import cold_start
from benchmarks.latency import Candidate, measure
from benchmarks.subjects import Subject
from benchmarks.sweep import Point, Sweep
from benchmarks.throughput import measure_throughput
from deploy.errors import InputError, UsageError
from deploy.interface import Interface, interface_of
from deploy.runtimes.base import Executed, Runtime
from deploy.runtimes.execution import Hint
from deploy.shown_command import shown_text

Progress = Callable[[float], None]

FIGURES = (
    *("precision_executed", "int8_mac_share", "float_layers"),
    *("p50_ms", "p90_ms", "p99_ms", "images_per_s", "speedup", "noise_percent"),
    *("load_s", "first_inference_s", "peak_bytes", "imports_bytes"),
    *("latencies_s", "completions_s", "skipped"),
)
"""What a row says of a measurement; null where there is none."""

TIMED_SHARE = 0.7
"""Of the progress of one setting; starting processes is the rest."""


def speed_section(
    reference: Subject | None,
    subjects: Sequence[Subject],
    *,
    images: NDArray[np.float32],
    pixels: NDArray[np.uint8] | None = None,
    sweep: Sweep,
    warmup: int,
    duration_s: float,
    progress: Progress,
) -> dict[str, Any]:
    """Time all candidates with every setting.

    Those of one setting take turns. Load time, first inference and memory come from a fresh
    process for each candidate and setting.

    Args:
        reference: what the others are so many times as fast as; ``None`` leaves speedups out.
        subjects: what to time.
        images: real images, float32 (N, 3, H, W), repeated to fill a batch.
        pixels: the same images as models of ``Interface.IMAGE`` take them, uint8 (N, H, W, 3);
            needed where there is such a model.
        sweep: settings to go through.
        warmup: untimed calls of each candidate.
        duration_s: seconds for each candidate and setting.
        progress: told the share done, 0 to 1.

    Returns:
        The ``benchmark`` section of ``report.json``.

    Raises:
        InputError: a runtime does not accept a file.
        RunError: a runtime failed.
    """
    everything = [*([reference] if reference else []), *subjects]
    points = list(sweep.points())
    rows: list[dict[str, Any]] = []
    for index, point in enumerate(points):

        def report(share: float, done: int = index) -> None:
            progress((done + share) / len(points))

        chosen = np.arange(point.batch) % len(images)
        feeds: dict[Interface, NDArray[Any]] = {Interface.TENSOR: images[chosen]}
        if pixels is not None:
            feeds[Interface.IMAGE] = pixels[chosen]
        found = _rows(
            everything, point, feeds, warmup=warmup, duration_s=duration_s, progress=report
        )
        baseline = found[0] if reference and found[0]["images_per_s"] else None
        rows += [row | {"speedup": _speedup(row, baseline)} for row in found]
        report(1.0)
    return {"duration_s": duration_s, "warmup": warmup, "rows": rows}


def _rows(
    subjects: Sequence[Subject],
    point: Point,
    feeds: Mapping[Interface, NDArray[Any]],
    *,
    warmup: int,
    duration_s: float,
    progress: Progress,
) -> list[dict[str, Any]]:
    """One row for each subject with one setting, those that were skipped last."""
    if point.execution is None:
        return [_skipped(subject, point, point.skipped) for subject in subjects]
    opened: list[tuple[Subject, Runtime]] = []
    left_out: list[dict[str, Any]] = []
    with ExitStack() as stack:
        for subject in subjects:
            try:
                if subject.skipped:
                    raise UsageError(subject.skipped)
                opened.append((subject, stack.enter_context(subject.open(point.execution))))
            except UsageError as error:
                left_out.append(_skipped(subject, point, shown_text(str(error))))
        candidates = [_candidate(subject, runtime, feeds) for subject, runtime in opened]
        timed = _timed(
            candidates,
            point.execution.hint,
            warmup=warmup,
            duration_s=duration_s,
            progress=lambda share: progress(TIMED_SHARE * share),
        )
        executed = [_executed(runtime.executed) for _, runtime in opened]
    rows = []
    for number, (subject, _) in enumerate(opened):
        start = cold_start(subject, point.execution)
        figures = timed[number] | executed[number] | asdict(start) | {"skipped": None}
        rows.append(_row(subject, point) | figures)
        progress(TIMED_SHARE + (1 - TIMED_SHARE) * (number + 1) / len(opened))
    return rows + left_out


def _timed(
    candidates: Sequence[Candidate],
    hint: Hint,
    *,
    warmup: int,
    duration_s: float,
    progress: Progress,
) -> list[dict[str, Any]]:
    """The columns of time for each candidate."""
    if not candidates:
        return []
    if hint is Hint.THROUGHPUT:
        return [
            result.columns()
            for result in measure_throughput(
                candidates, warmup=warmup, duration_s=duration_s, progress=progress
            )
        ]
    return [
        result.columns()
        for result in measure(candidates, warmup=warmup, duration_s=duration_s, progress=progress)
    ]


def _candidate(
    subject: Subject, runtime: Runtime, feeds: Mapping[Interface, NDArray[Any]]
) -> Candidate:
    form = interface_of(runtime.inputs, runtime.outputs)
    if form not in feeds:
        raise InputError(f"{subject.name} takes 8-bit images; none were given")
    return Candidate(
        name=subject.name,
        runtime=runtime,
        feeds={runtime.inputs[0].name: np.ascontiguousarray(feeds[form])},
        precision_requested=subject.precision,
    )


def _executed(executed: Executed) -> dict[str, Any]:
    return {
        "precision_executed": executed.words,
        "int8_mac_share": executed.int8_mac_share,
        "float_layers": list(executed.float_layers),
    }


def _row(subject: Subject, point: Point) -> dict[str, Any]:
    """A row in which nothing is measured yet."""
    return subject.identity() | point.columns() | dict.fromkeys(FIGURES)


def _skipped(subject: Subject, point: Point, reason: str | None) -> dict[str, Any]:
    return _row(subject, point) | {"skipped": reason}


def _speedup(row: dict[str, Any], reference: dict[str, Any] | None) -> float | None:
    """How many times as fast as the reference: in time of a call, or in images a second."""
    if reference is None or row["images_per_s"] is None:
        return None
    if row["p50_ms"] is not None:
        return float(reference["p50_ms"] / row["p50_ms"])
    return float(row["images_per_s"] / reference["images_per_s"])
