"""One row of the speed table, from what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from segdeploy.benchmarks.speed.cold_start import ColdStart
from segdeploy.benchmarks.speed.latency import BenchmarkResult
from segdeploy.benchmarks.speed.records import BenchmarkRow
from segdeploy.benchmarks.speed.subjects import Subject
from segdeploy.benchmarks.speed.sweep import Point
from segdeploy.benchmarks.speed.throughput import ThroughputResult
from segdeploy.deploy.runtimes.base import Executed
from segdeploy.deploy.system.errors import RunError, SegdeployError
from segdeploy.deploy.system.shown_command import shown_text


def timed_row(
    subject: Subject,
    point: Point,
    *,
    result: BenchmarkResult | ThroughputResult,
    executed: Executed,
    start: ColdStart,
) -> BenchmarkRow:
    """The row of a subject that was timed, without its speed against the reference.

    Args:
        subject: what was timed.
        point: the setting.
        result: its times.
        executed: what ran.
        start: what a fresh process took.
    """
    latency = result if isinstance(result, BenchmarkResult) else None
    throughput = result if isinstance(result, ThroughputResult) else None
    return BenchmarkRow(
        **vars(subject.identity()),
        **vars(point.setting),
        precision_executed=executed.words,
        int8_mac_share=executed.int8_mac_share,
        float_layers=executed.float_layers,
        file_bytes=subject.file_bytes,
        p50_ms=latency.p50_ms if latency else None,
        p90_ms=latency.p90_ms if latency else None,
        p99_ms=latency.p99_ms if latency else None,
        images_per_s=result.images_per_s,
        speedup=None,
        noise_percent=result.noise_percent,
        load_s=start.load_s,
        first_inference_s=start.first_inference_s,
        peak_bytes=start.peak_bytes,
        imports_bytes=start.imports_bytes,
        latencies_s=latency.latencies_s if latency else None,
        completions_s=throughput.completions_s if throughput else None,
        skipped=None,
    )


def left_out_row(
    subject: Subject, point: Point, reason: SegdeployError | str | None
) -> BenchmarkRow:
    """The row of a subject that was skipped, or whose runtime failed."""
    return BenchmarkRow(
        **vars(subject.identity()),
        **vars(point.setting),
        precision_executed=None,
        int8_mac_share=None,
        float_layers=None,
        file_bytes=subject.file_bytes,
        p50_ms=None,
        p90_ms=None,
        p99_ms=None,
        images_per_s=None,
        speedup=None,
        noise_percent=None,
        load_s=None,
        first_inference_s=None,
        peak_bytes=None,
        imports_bytes=None,
        latencies_s=None,
        completions_s=None,
        skipped=shown_text(str(reason)),
        failed=isinstance(reason, RunError),
    )


def baseline_of(rows: Sequence[BenchmarkRow], reference: Subject | None) -> BenchmarkRow | None:
    """The row that the others are so many times as fast as; ``None`` where it has no figures."""
    first = rows[0] if reference and rows and rows[0].name == reference.name else None
    return first if first and first.images_per_s is not None else None


def speedup_of(row: BenchmarkRow, reference: BenchmarkRow | None) -> float | None:
    """How many times as fast as the reference: in time of a call, or in images a second."""
    if reference is None or row.images_per_s is None:
        return None
    if row.p50_ms is not None and reference.p50_ms is not None:
        return reference.p50_ms / row.p50_ms
    return row.images_per_s / reference.rate
