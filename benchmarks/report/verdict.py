"""The verdict in words: passed or not and by how much, then what to deploy."""

from __future__ import annotations

from typing import Any

from segdeploy.benchmarks.report.rows import (
    chosen_row,
    compared_rows,
    failed_rows,
    figure,
    interval,
    section_rows,
)


def verdict_text(report: dict[str, Any]) -> str:
    """The verdict in one plain paragraph: passed or not and by how much, then what to deploy."""
    return f"{word_of(report)}. {reasons(report)}"


def word_of(report: dict[str, Any]) -> str:
    """The verdict in capitals."""
    return {True: "PASS", False: "FAIL", None: "NOT JUDGED"}[report["passed"]]


def reasons(report: dict[str, Any]) -> str:
    """Why, and what to deploy."""
    return f"{_judgement(report)} {_advice(report)}"


def headline(report: dict[str, Any]) -> str:
    """How many candidates keep the budget, in one sentence."""
    parity = report["parity"]
    judged, failed = _judged(report), failed_rows(report, "parity")
    if not judged and not failed:
        return "No candidate was compared, so what the conversion cost is unknown."
    kept, candidates = sum(row["passed"] for row in judged), len(judged) + len(failed)
    return (
        f"{kept} of {candidates} candidates keep the budget of at "
        f"most {parity['max_drop_percentage_points']:g} percentage points of IoU below "
        f"{parity['reference']} on {parity['images']} images."
    )


def telling_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The candidates that did not pass; where all did, the one that changed lowest."""
    judged = _judged(report)
    failed = [row for row in judged if not row["passed"]]
    lowest = sorted(judged, key=lambda row: float(row["delta_iou_percentage_points"]))
    return failed or lowest[:1]


def _judged(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in compared_rows(report) if row["passed"] is not None]


def _judgement(report: dict[str, Any]) -> str:
    """The headline, the rows that tell most, and what was not measured."""
    told, failed = telling_rows(report), failed_rows(report, "parity")
    said = [headline(report)]
    if told:
        changes = "; ".join(_change(row) for row in told)
        said.append(f"{'Lowest change' if told[0]['passed'] else 'Not kept'}: {changes}.")
    if failed:
        reasons = "; ".join(f"{row['name']}, {row['skipped']}" for row in failed)
        said.append(f"Failed: {reasons}.")
    rows = section_rows(report, "parity")
    skipped = [r["name"] for r in rows if r["skipped"] is not None and r not in failed]
    if skipped and told:
        said.append(f"Not measured: {', '.join(skipped)}.")
    return " ".join(said)


def _change(row: dict[str, Any]) -> str:
    """What happened to a row: why it did not pass, or by how much it changed."""
    if row.get("failures"):
        return f"{row['name']}, {'; '.join(row['failures'])}"
    return (
        f"{row['name']}, {figure(row['delta_iou_percentage_points'], 'points')}"
        f" (95 % interval {interval(row['ci95_percentage_points'])})"
    )


def _advice(report: dict[str, Any]) -> str:
    """What to deploy, with its speed and size where they were measured."""
    chosen = report["recommendation"]
    if chosen is None:
        return "No artefact is recommended."
    advice = f"Deploy {chosen['file']} with {chosen['runtime']}: {chosen['reason'].rstrip('.')}."
    row = chosen_row(report, "benchmark")
    if row is None:
        return advice
    advice += f" At batch {row['batch']} one call takes {figure(row['p50_ms'], 'fixed')} ms (p50)"
    if row["speedup"] is not None:
        advice += f", {figure(row['speedup'], 'fixed')} times the speed of PyTorch"
    if row["file_bytes"] is not None:
        advice += f"; the file has {figure(row['file_bytes'], 'mega')} MB"
    return f"{advice}."
