"""A run as a notebook shows it: the verdict, the candidates, accuracy against latency."""

from __future__ import annotations

from segdeploy.benchmarks.report.chart_speed import accuracy_latency
from segdeploy.benchmarks.report.classes import classes_of_rows
from segdeploy.benchmarks.report.html import drawn
from segdeploy.benchmarks.report.records import Report
from segdeploy.benchmarks.report.rows import compared_rows, is_recommended, timed_rows
from segdeploy.benchmarks.report.series import series_of
from segdeploy.benchmarks.report.templates import render
from segdeploy.benchmarks.report.verdict import reasons, word_of


def notebook(report: Report) -> str:
    """One element of HTML with its own style and nothing from elsewhere.

    Args:
        report: what was measured.
    """
    timed = timed_rows(report.benchmark)
    first = min((row.batch for row in timed), default=None)
    return render(
        "notebook.html.j2",
        word=word_of(report),
        score=report.parity.score.shown if report.parity else "IoU",
        classes=classes_of_rows(report),
        looks=report.parity.classes if report.parity else (),
        reasons=reasons(report),
        compared=compared_rows(report.parity),
        timed={row.name: row for row in timed if row.batch == first},
        numbers={one.name: one.number for one in series_of(report)},
        recommended={
            shown.row.name
            for shown in compared_rows(report.parity)
            if is_recommended(shown.row, report)
        },
        chart=drawn(accuracy_latency(report)),
    )
