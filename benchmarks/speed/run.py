"""Time every model file and the PyTorch reference, interleaved in one run: the speed table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.speed.cold_start import cold_start
from segdeploy.benchmarks.speed.contention import OtherLoad
from segdeploy.benchmarks.speed.latency import BenchmarkResult, measure
from segdeploy.benchmarks.speed.memory_need import beyond_memory, image_bytes
from segdeploy.benchmarks.speed.records import BenchmarkRow, BenchmarkSection, Condition
from segdeploy.benchmarks.speed.rows import baseline_of, left_out_row, speedup_of, timed_row
from segdeploy.benchmarks.speed.subjects import Subject
from segdeploy.benchmarks.speed.sweep import Point, Sweep
from segdeploy.benchmarks.speed.throughput import ThroughputResult, measure_throughput
from segdeploy.benchmarks.speed.timing_noise import resolution_percent
from segdeploy.benchmarks.speed.turns import Candidate, by_place
from segdeploy.deploy.onnx_model.interface import Interface, interface_of
from segdeploy.deploy.runtimes.base import Runtime
from segdeploy.deploy.runtimes.execution import Hint
from segdeploy.deploy.runtimes.isolated import TIME_LIMIT_S
from segdeploy.deploy.system.errors import InputError, RunError, UsageError
from segdeploy.deploy.system.progress import ShareProgress

Timer = Callable[..., Sequence[BenchmarkResult | ThroughputResult]]

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
    progress: ShareProgress,
    time_limit_s: float = TIME_LIMIT_S,
    most_bytes: int | None = None,
) -> BenchmarkSection:
    """Time all candidates with every setting.

    Those of one setting take turns, or follow each other where their activations together take
    more than ``most_bytes``. Load time, first inference and memory come from a fresh
    process for each candidate and setting.

    Args:
        reference: what the others are so many times as fast as; ``None`` leaves speedups out.
        subjects: what to time.
        images: real images, float32 (N, 3, H, W), repeated to fill a batch.
        pixels: the same images as models of ``Interface.IMAGE`` take them, uint8 (N, H, W, 3);
            needed where there is such a model.
        sweep: settings to go through; models of a fixed batch are timed at theirs.
        warmup: untimed calls of each candidate.
        duration_s: seconds for each candidate and setting.
        progress: told the share done, 0 to 1.
        time_limit_s: longest time for loading a model, and for each call.
        most_bytes: of activations at a time; a batch beyond it is rows that say so, one image is
            always timed. ``None`` sets no limit.

    Returns:
        The section of the report. A subject whose runtime crashes, hangs or
        fails is a row without figures, with the reason.

    Raises:
        InputError: a runtime does not accept a file.
    """
    everything = [*([reference] if reference else []), *subjects]
    points = list(sweep.fitting([subject.batch for subject in subjects]).points())
    one_image = 0 if most_bytes is None else image_bytes(subjects)
    points = [_within(point, one_image, most_bytes) for point in points]
    rows: list[BenchmarkRow] = []
    conditions: list[Condition] = []
    for index, point in enumerate(points):

        def report(share: float, done: int = index) -> None:
            progress((done + share) / len(points))

        chosen = np.arange(point.batch) % len(images)
        feeds: dict[Interface, NDArray[Any]] = {Interface.TENSOR: images[chosen]}
        if pixels is not None:
            feeds[Interface.IMAGE] = pixels[chosen]
        alone = most_bytes is not None and len(everything) * point.batch * one_image > most_bytes
        groups = [[each] for each in everything] if alone else [everything]
        count = len(groups)
        found: list[BenchmarkRow] = []
        loads: list[float] = []
        for number, group in enumerate(groups):
            load = OtherLoad()

            def told(
                share: float,
                before: int = number,
                of: int = count,
                tell: ShareProgress = report,
            ) -> None:
                tell((before + share) / of)

            found += _rows(
                group,
                point,
                feeds,
                load=load,
                warmup=warmup,
                duration_s=duration_s,
                progress=told,
                time_limit_s=time_limit_s,
            )
            loads += [] if load.percent is None else [load.percent]
        found.sort(key=lambda row: row.skipped is not None)
        baseline = baseline_of(found, reference)
        rows += [replace(row, speedup=speedup_of(row, baseline)) for row in found]
        conditions.append(
            Condition(
                **vars(point.setting),
                other_cpu_percent=max(loads, default=None),
                resolution_percent=resolution_percent(found),
            )
        )
        report(1.0)
    return BenchmarkSection(
        duration_s=duration_s, warmup=warmup, conditions=tuple(conditions), rows=tuple(rows)
    )


def _within(point: Point, one_image: int, most_bytes: int | None) -> Point:
    """A setting as it is, or left out for the memory it takes."""
    if point.execution is None or most_bytes is None:
        return point
    reason = beyond_memory(point.batch, one_image, most_bytes)
    return point if reason is None else replace(point, execution=None, skipped=reason)


def _rows(
    subjects: Sequence[Subject],
    point: Point,
    feeds: Mapping[Interface, NDArray[Any]],
    *,
    load: OtherLoad,
    warmup: int,
    duration_s: float,
    progress: ShareProgress,
    time_limit_s: float,
) -> list[BenchmarkRow]:
    """One row for each subject with one setting, those that were not measured last."""
    if point.execution is None:
        return [left_out_row(subject, point, point.skipped) for subject in subjects]
    opened: list[tuple[Subject, Runtime]] = []
    left_out: list[BenchmarkRow] = []
    failed: dict[int, RunError] = {}
    with ExitStack() as stack:
        for subject in subjects:
            try:
                if subject.skipped:
                    raise UsageError(subject.skipped)
                if subject.batch not in (None, point.batch):
                    raise UsageError(f"takes {subject.batch} in a call, and this is {point.batch}")
                runtime = subject.open_apart(point.execution, time_limit_s=time_limit_s)
                opened.append((subject, stack.enter_context(runtime)))
            except (UsageError, RunError) as error:
                left_out.append(left_out_row(subject, point, error))
        candidates = [_candidate(subject, runtime, feeds) for subject, runtime in opened]
        with load:
            timed = _timed(
                candidates,
                point.execution.hint,
                warmup=warmup,
                duration_s=duration_s,
                progress=lambda share: progress(TIMED_SHARE * share),
                failed=failed,
            )
        executed = {place: candidates[place].runtime.executed for place in timed}
    rows = []
    for number, (subject, _) in enumerate(opened):
        try:
            if number in failed:
                raise failed[number]
            start = cold_start(subject, point.execution, time_limit_s=time_limit_s)
            rows.append(
                timed_row(
                    subject,
                    point,
                    result=timed[number],
                    executed=executed[number],
                    start=start,
                )
            )
        except RunError as error:
            left_out.append(left_out_row(subject, point, error))
        progress(TIMED_SHARE + (1 - TIMED_SHARE) * (number + 1) / len(opened))
    return rows + left_out


def _timed(
    candidates: Sequence[Candidate],
    hint: Hint,
    *,
    warmup: int,
    duration_s: float,
    progress: ShareProgress,
    failed: dict[int, RunError],
) -> dict[int, BenchmarkResult | ThroughputResult]:
    """The times of each candidate that does not fail, by its place."""
    if not candidates:
        return {}
    timer: Timer = measure_throughput if hint is Hint.THROUGHPUT else measure
    results = timer(
        candidates,
        warmup=warmup,
        duration_s=duration_s,
        progress=progress,
        on_failure=failed.__setitem__,
    )
    return by_place(results, failed)


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
