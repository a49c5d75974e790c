"""What must be the same after a kill: everything but what the clock decides, listed here once."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from segdeploy.benchmarks.report.files import pages_of, read_report

REPORT_TIMINGS = (
    "created_utc",
    "stages.*.status",
    "stages.*.seconds",
    "calibration.seconds",
    "recommendation",
    "benchmark.conditions",
    "benchmark.rows.*.p50_ms",
    "benchmark.rows.*.p90_ms",
    "benchmark.rows.*.p99_ms",
    "benchmark.rows.*.images_per_s",
    "benchmark.rows.*.speedup",
    "benchmark.rows.*.noise_percent",
    "benchmark.rows.*.load_s",
    "benchmark.rows.*.first_inference_s",
    "benchmark.rows.*.peak_bytes",
    "benchmark.rows.*.imports_bytes",
    "benchmark.rows.*.latencies_s",
    "benchmark.rows.*.completions_s",
    "layer_times.*.layers.*.times_us",
    "layer_times.*.others.*.times_us",
)
"""Fields of ``report.json`` that two equal runs may differ in; ``*`` is every entry of a list."""

EPOCH_TIMINGS = ("images_per_s", "seconds")
"""Columns of ``history.csv``, and of the history in ``state.pt``."""

TIMED_FILES = ("report.json", "report.md", "report.html", "history.csv", "state.pt")
CHECKSUMS = "checksums.sha256"
PAGES = ("report.md", "report.html")


def without_timings(report: dict[str, Any]) -> dict[str, Any]:
    """A report in which what the clock decides is ``None``; the report itself stays as it is."""
    copy: dict[str, Any] = json.loads(json.dumps(report))
    for place in REPORT_TIMINGS:
        _clear(copy, place.split("."))
    return copy


def _clear(node: Any, keys: Sequence[str]) -> None:
    if isinstance(node, list) and keys[0] == "*":
        for entry in node:
            _clear(entry, keys[1:])
    elif isinstance(node, dict) and keys[0] in node:
        if len(keys) == 1:
            node[keys[0]] = None
        else:
            _clear(node[keys[0]], keys[1:])


def difference(one: Path, other: Path, *, leave_out: Sequence[str] = ()) -> str | None:
    """The first difference between two folders, in words; ``None`` where all is the same.

    Args:
        one: a folder.
        other: another.
        leave_out: names at the top of both that do not count.
    """
    first, second = (_names(folder, leave_out) for folder in (one, other))
    if first != second:
        return f"only in {one}: {sorted(first - second)}; in {other}: {sorted(second - first)}"
    for name in sorted(first):
        if (one / name).is_file() and (found := _file_difference(one / name, other / name)):
            return f"{name}: {found}"
    return None


def _names(folder: Path, leave_out: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for where, folders, files in os.walk(folder):
        inner = Path(where).relative_to(folder)
        if not inner.parts:
            folders[:] = [name for name in folders if name not in leave_out]
            files = [name for name in files if name not in leave_out]
        found |= {(inner / name).as_posix() for name in (*folders, *files)}
    return found


def _file_difference(one: Path, other: Path) -> str | None:
    if one.name in PAGES and (one.parent / "report.json").is_file():
        return next((found for path in (one, other) if (found := _page_differs(path))), None)
    if one.name in TIMED_FILES or one.name == CHECKSUMS:
        return _tree_difference(_content(one), _content(other))
    first, second = one.read_bytes(), other.read_bytes()
    if first == second:
        return None
    at = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    place = min(len(first), len(second)) if at is None else at
    return (
        f"{len(first)} and {len(second)} bytes, from byte {place} on "
        f"{first[place : place + 40]!r} and {second[place : place + 40]!r}"
    )


def _content(path: Path) -> Any:
    if path.name == CHECKSUMS:
        lines = path.read_text("utf-8").splitlines()
        return [
            line.split()[-1 if Path(line.split()[-1]).name in TIMED_FILES else slice(None)]
            for line in lines
        ]
    if path.suffix == ".json":
        return without_timings(json.loads(path.read_bytes()))
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as stream:
            rows: list[dict[str, Any]] = list(csv.DictReader(stream))
        return [_without_epoch_timings(row) for row in rows]
    state = torch.load(path, weights_only=True)
    return state | {"history": [_without_epoch_timings(row) for row in state["history"]]}


def _without_epoch_timings(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in EPOCH_TIMINGS}


def _page_differs(page: Path) -> str | None:
    """A page is made from the report beside it, and from nothing else."""
    same = pages_of(read_report(page.parent))[page.name] == page.read_bytes()
    return None if same else f"{page} is not the page of its report.json"


def _tree_difference(one: Any, other: Any, where: str = "") -> str | None:
    if isinstance(one, dict) and isinstance(other, dict):
        if list(one) != list(other):
            return f"{where}: keys {list(one)} and {list(other)}"
        pairs = [(key, one[key], other[key]) for key in one]
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return f"{where}: {len(one)} and {len(other)} entries"
        pairs = [(index, *pair) for index, pair in enumerate(zip(one, other, strict=True))]
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return None if torch.equal(one, other) else f"{where}: tensors differ"
    else:
        return None if one == other else f"{where}: {one!r:.80} and {other!r:.80}"
    return next(
        (found for key, a, b in pairs if (found := _tree_difference(a, b, f"{where}/{key}"))), None
    )
