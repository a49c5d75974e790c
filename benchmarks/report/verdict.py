"""The verdict in words: passed or not and by how much, then what to deploy."""

from __future__ import annotations

from segdeploy.benchmarks.parity.records import ParityRow
from segdeploy.benchmarks.report.records import Report
from segdeploy.benchmarks.report.rows import (
    ComparedRow,
    chosen_timing,
    compared_rows,
    failed_candidates,
    parity_rows,
)
from segdeploy.benchmarks.report.tables import figure, interval


def verdict_text(report: Report) -> str:
    """The verdict in one plain paragraph: passed or not and by how much, then what to deploy."""
    return f"{word_of(report)}. {reasons(report)}"


def word_of(report: Report) -> str:
    """The verdict in capitals."""
    return {True: "PASS", False: "FAIL", None: "NOT JUDGED"}[report.passed]


def reasons(report: Report) -> str:
    """Why, and what to deploy."""
    return f"{_judgement(report)} {_advice(report)}"


def headline(report: Report) -> str:
    """How many candidates keep the budget, in one sentence."""
    judged, failed = _judged(report), failed_candidates(report.parity)
    if report.parity is None or not (judged or failed):
        return "No candidate was compared, so what the conversion cost is unknown."
    kept, candidates = sum(shown.row.passed is True for shown in judged), len(judged) + len(failed)
    return (
        f"{kept} of {candidates} candidates keep the budget of at "
        f"most {report.parity.max_drop_percentage_points:g} percentage points of "
        f"{report.parity.score.shown} below "
        f"{report.parity.reference} on {report.parity.images} images."
    )


def telling_rows(report: Report) -> list[ComparedRow]:
    """The candidates that did not pass; where all did, the one that changed lowest."""
    judged = _judged(report)
    failed = [shown for shown in judged if not shown.row.passed]
    return failed or sorted(judged, key=lambda shown: _delta(shown.row))[:1]


def _judged(report: Report) -> list[ComparedRow]:
    return [shown for shown in compared_rows(report.parity) if shown.row.passed is not None]


def _delta(row: ParityRow) -> float:
    """Of IoU; a row that was judged without one, as no run writes it, changed by nothing."""
    return row.delta_iou_percentage_points or 0.0


def _judgement(report: Report) -> str:
    """The headline, the rows that tell most, and what was not measured."""
    told, failed = telling_rows(report), failed_candidates(report.parity)
    said = [headline(report)]
    if told:
        changes = "; ".join(_change(shown.row) for shown in told)
        said.append(f"{'Lowest change' if told[0].row.passed else 'Not kept'}: {changes}.")
    if failed:
        why = "; ".join(f"{row.name}, {row.skipped}" for row in failed)
        said.append(f"Failed: {why}.")
    skipped = [r.name for r in parity_rows(report) if r.skipped is not None and not r.failed]
    if skipped and told:
        said.append(f"Not measured: {', '.join(skipped)}.")
    return " ".join(said)


def _change(row: ParityRow) -> str:
    """What happened to a row: why it did not pass, or by how much it changed."""
    if row.failures:
        return f"{row.name}, {'; '.join(row.failures)}"
    return (
        f"{row.name}, {figure(row.delta_iou_percentage_points, 'points')}"
        f" (95 % interval {interval(row.ci95_percentage_points)})"
    )


def _advice(report: Report) -> str:
    """What to deploy, with its speed and size where they were measured."""
    chosen = report.recommendation
    if chosen is None:
        return "No artefact is recommended."
    advice = f"Deploy {chosen.file} with {chosen.runtime}: {chosen.reason.rstrip('.')}."
    row = chosen_timing(report)
    if row is None:
        return advice
    advice += f" At batch {row.batch} one call takes {figure(row.p50_ms, 'fixed')} ms (p50)"
    if row.speedup is not None:
        advice += f", {figure(row.speedup, 'fixed')} times the speed of {report.baseline}"
    if row.file_bytes is not None:
        advice += f"; the file has {figure(row.file_bytes, 'mega')} MB"
    return f"{advice}."
