"""What both pages of the report show: the same rows, and each figure to the same digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segdeploy.benchmarks.literature.file import PUBLISHED

ABSENT = "\N{EN DASH}"
"""Shown for a null: not measured, or not applicable."""

NAMED = 8
"""Layers named on a page; ``report.json`` has them all."""

NEWER: dict[str, Any] = {
    "verdict": None,
    "failures": (),
    "collapsed_images": (),
    "reference_iou_kept_percent": None,
    "mlperf_lines_reached_percent": None,
}
"""Keys of a row of parity that older reports do not have."""

FIGURES: dict[str, tuple[float, str]] = {
    "percent": (1, ".2f"),
    "share": (1, ".3f"),
    "points": (1, "+.3f"),
    "small": (1, ".4f"),
    "fixed": (1, ".2f"),
    "rate": (1, ",.1f"),
    "tiny": (1, ".1e"),
    "count": (1, ",.0f"),
    "of_all": (100, ".2f"),
    "milli": (1e3, ",.1f"),
    "mega": (1e-6, ",.2f"),
    "memory": (1e-6, ",.0f"),
    "giga": (1e-9, ",.3f"),
    "gibi": (2.0**-30, ".1f"),
}
"""How a figure is shown: factor, then format. The one place that decides on digits."""


def figure(value: float | None, kind: str) -> str:
    """One figure as every page shows it; a zero carries no minus.

    Example:
        >>> figure(9163428, "mega"), figure(-0.0004, "points"), figure(-0.02, "points")
        ('9.16', '+0.000', '-0.020')

    Args:
        value: in the unit of its key in ``report.json``; ``None`` was not measured.
        kind: a key of ``FIGURES``.
    """
    if value is None:
        return ABSENT
    factor, pattern = FIGURES[kind]
    text = format(value * factor, pattern)
    is_zero = float(text.replace(",", "")) == 0
    return text.replace("-", "+" if "+" in pattern else "", 1) if is_zero else text


def interval(ends: list[float] | None) -> str:
    """Both ends of an interval in percentage points.

    Example:
        >>> interval([-0.085, 0.022])
        '-0.085 to +0.022'
    """
    return ABSENT if ends is None else " to ".join(figure(end, "points") for end in ends)


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A GitHub table; every column but the first is aligned to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    lines = [" | ".join(cells) for cells in (head, rule, *body)]
    return "\n".join(f"| {line} |" for line in lines)


def failed_rows(report: dict[str, Any], section: str) -> list[dict[str, Any]]:
    """The rows of a section whose runtime crashed, hung or failed."""
    return [
        row
        for row in section_rows(report, section)
        if row["skipped"] is not None and (row.get("failed") or row.get("passed") is False)
    ]


def section_rows(report: dict[str, Any], section: str) -> list[dict[str, Any]]:
    """The rows of a section, ``parity`` or ``benchmark``; none where it did not run."""
    return list(report[section]["rows"]) if report[section] else []


def chosen_row(report: dict[str, Any], section: str) -> dict[str, Any] | None:
    """The measured row of the recommended artefact, the smallest batch first."""
    chosen = report["recommendation"] or {"file": None, "runtime": None}
    rows = [
        row
        for row in section_rows(report, section)
        if row["skipped"] is None and all(row[key] == chosen[key] for key in ("file", "runtime"))
    ]
    return min(rows, key=lambda row: int(row.get("batch") or 0), default=None)


def compared_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The measured rows of parity, with the verdict, the interval and the line in words.

    What older reports do not hold is null or empty.
    """
    return [
        NEWER
        | row
        | {
            "interval": interval(row["ci95_percentage_points"]),
            "line": line_reached(row.get("mlperf_lines_reached_percent")),
            "verdict": _verdict(row, reference=report["parity"]["reference"]),
            "tone": _tone(row),
        }
        for row in section_rows(report, "parity")
        if row["skipped"] is None
    ]


def line_reached(lines: list[float] | None) -> str:
    """The highest of MLPerf's accuracy lines that a candidate reaches.

    Example:
        >>> line_reached([99.0, 99.9]), line_reached([])
        ('99.9 %', 'below 99 %')
    """
    if lines is None:
        return ABSENT
    return f"{max(lines):g} %" if lines else "below 99 %"


def _verdict(row: dict[str, Any], *, reference: str) -> str:
    """In words, in capitals where the row did not pass."""
    if row["passed"] is None:
        return "reference" if row["name"] == reference else "not judged"
    word = row.get("verdict") or ("pass" if row["passed"] else "fail")
    return str(word if row["passed"] else word.upper())


def _tone(row: dict[str, Any]) -> str:
    """How the verdict is coloured; empty for a row that was not judged."""
    if row.get("verdict") == "not proven":
        return "open"
    return {True: "pass", False: "fail", None: ""}[row["passed"]]


def worst_rows(report: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The images that lost most, over all candidates."""
    rows = [
        image | {"image": image["name"], "name": row["name"]}
        for row in compared_rows(report)
        for image in row["worst_images"]
    ]
    return sorted(rows, key=lambda row: float(row["candidate_iou"] - row["reference_iou"]))[:count]


def skipped_rows(report: dict[str, Any]) -> list[dict[str, str]]:
    """Every stage and row that was not measured, with its reason."""
    stages = [
        {"where": "stage", "name": stage["name"], "reason": stage["note"] or ABSENT}
        for stage in report["stages"]
        if stage["status"] == "skipped"
    ]
    sections = {name: section_rows(report, name) for name in ("parity", "benchmark")}
    sections["time by layer"] = report.get("layer_times") or []
    return stages + [
        {"where": section, "name": row["name"], "reason": _reason(row)}
        for section, rows in sections.items()
        for row in rows
        if row["skipped"] is not None
    ]


def _reason(row: dict[str, Any]) -> str:
    failed = row.get("failed") or row.get("passed") is False
    return f"failed: {row['skipped']}" if failed else str(row["skipped"])


def timed_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The measured rows of the benchmark."""
    return [row for row in section_rows(report, "benchmark") if row["skipped"] is None]


def float_layer_rows(report: dict[str, Any]) -> list[dict[str, str]]:
    """For each candidate with layers that were to run in int8 and did not: which they are."""
    found = {row["name"]: row["float_layers"] for row in timed_rows(report) if row["float_layers"]}
    return [
        {
            "name": name,
            "count": f"{len(layers)} layer{'s' if layers[1:] else ''}",
            "layers": ", ".join(layers[:NAMED])
            + (f" and {len(layers) - NAMED} more" if layers[NAMED:] else ""),
        }
        for name, layers in found.items()
    ]


def iou_rows(report: dict[str, Any]) -> list[dict[str, str]]:
    """The published table, then this run, one row for each runtime."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in compared_rows(report):
        runs = found.setdefault(row["runtime"], {"fp32": [], "fp16": [], "int8": []})
        iou = figure(row["scores"]["iou"], "share")
        if iou not in runs.setdefault(row["precision_requested"], []):
            runs[row["precision_requested"]].append(iou)
    counted = report["cost"] and report["cost"]["published_gflops_reproduced"]
    own = [
        {"source": f"This run, {runtime}", "gflops": figure(counted, "share")}
        | {k: ", ".join(v) or ABSENT for k, v in runs.items()}
        for runtime, runs in found.items()
    ]
    published = [
        {
            "source": f"Published, {entry.network} ({entry.source.title})",
            "gflops": figure(entry.gflops, "share"),
        }
        | {p: figure(getattr(entry.iou, p), "share") for p in ("fp32", "fp16", "int8")}
        for entry in PUBLISHED.values()
    ]
    return published + own
