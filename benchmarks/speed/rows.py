"""One row of the speed table, as ``report.json`` holds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segdeploy.benchmarks.speed.subjects import Subject
from segdeploy.benchmarks.speed.sweep import Point
from segdeploy.deploy.runtimes.base import Executed
from segdeploy.deploy.system.errors import RunError, SegdeployError
from segdeploy.deploy.system.shown_command import shown_text

FIGURES = (
    *("precision_executed", "int8_mac_share", "float_layers"),
    *("p50_ms", "p90_ms", "p99_ms", "images_per_s", "speedup", "noise_percent"),
    *("load_s", "first_inference_s", "peak_bytes", "imports_bytes"),
    *("latencies_s", "completions_s", "skipped", "failed"),
)
"""What a row says of a measurement; null where there is none."""


def executed_columns(executed: Executed) -> dict[str, Any]:
    """What a row says of what ran."""
    return {
        "precision_executed": executed.words,
        "int8_mac_share": executed.int8_mac_share,
        "float_layers": list(executed.float_layers),
    }


def open_row(subject: Subject, point: Point) -> dict[str, Any]:
    """A row in which nothing is measured yet."""
    return subject.identity() | point.columns() | dict.fromkeys(FIGURES)


def left_out_row(
    subject: Subject, point: Point, reason: SegdeployError | str | None
) -> dict[str, Any]:
    """The row of a subject that was skipped, or whose runtime failed."""
    failed = isinstance(reason, RunError)
    return open_row(subject, point) | {"skipped": shown_text(str(reason)), "failed": failed}


def baseline_of(rows: Sequence[dict[str, Any]], reference: Subject | None) -> dict[str, Any] | None:
    """The row that the others are so many times as fast as; ``None`` where it has no figures."""
    measured = bool(rows) and rows[0]["images_per_s"] is not None
    return rows[0] if reference and measured and rows[0]["name"] == reference.name else None


def speedup_of(row: dict[str, Any], reference: dict[str, Any] | None) -> float | None:
    """How many times as fast as the reference: in time of a call, or in images a second."""
    if reference is None or row["images_per_s"] is None:
        return None
    if row["p50_ms"] is not None:
        return float(reference["p50_ms"] / row["p50_ms"])
    return float(row["images_per_s"] / reference["images_per_s"])
