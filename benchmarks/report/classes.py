"""What both pages and the command line show of several classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from segdeploy.benchmarks.parity.records import ClassRow, ParityRow
from segdeploy.benchmarks.report.records import Report
from segdeploy.benchmarks.report.rows import compared_rows
from segdeploy.benchmarks.report.tables import Column, Columns, figure, interval

CLASSES: Columns = (
    Column("Candidate", "row.name"),
    Column("Class", "found.name"),
    Column("IoU %", "found.iou", "percent"),
    Column("Dice %", "found.dice", "percent"),
    Column("Change, points", "found.delta_percentage_points", "points"),
    Column("95 % interval", "interval"),
    Column("True pixels", "found.true_pixels", "count"),
    Column("Predicted pixels", "found.predicted_pixels", "count"),
    Column("Verdict", "verdict"),
)

CLASSES_NOTE = (
    "Each class over all pixels, the ignored index left out. A class that the masks never hold has "
    "no IoU and counts in no mean."
)

MOST_IN_MARKDOWN = 12
"""Classes of which Markdown shows a matrix; the HTML page and report.json have all."""


@dataclass(frozen=True, kw_only=True)
class ClassLine:
    """A class of a measured row."""

    row: ParityRow
    found: ClassRow

    @property
    def interval(self) -> str:
        """Of the change, in percentage points."""
        return interval(self.found.ci95_percentage_points)

    @property
    def verdict(self) -> str | None:
        """On the budget of a class, where one was stated; a class that was lost in capitals."""
        if self.found.name in self.row.collapsed_classes:
            return "NEVER PREDICTED"
        return self.found.verdict.value if self.found.verdict else None


@dataclass(frozen=True, kw_only=True)
class MatrixShown:
    """The confusion matrix of a row: true class by predicted class.

    Attributes:
        row: whose it is.
        names: of the classes.
        shares: percent of each true class, ``None`` where there is no pixel of it.
        pixels: the same as counts.
    """

    row: ParityRow
    names: tuple[str, ...]
    shares: tuple[tuple[float | None, ...], ...]
    pixels: tuple[tuple[int, ...], ...]


def classes_of_rows(report: Report) -> list[ClassLine]:
    """Every class of every measured row; none where there is one label."""
    return [
        ClassLine(row=shown.row, found=found)
        for shown in compared_rows(report.parity)
        for found in shown.row.classes
    ]


def matrices(report: Report) -> list[MatrixShown]:
    """The confusion matrix of every measured row that has one."""
    return [
        MatrixShown(
            row=shown.row,
            names=tuple(found.name for found in shown.row.classes),
            shares=tuple(map(_shares, shown.row.confusion)),
            pixels=shown.row.confusion,
        )
        for shown in compared_rows(report.parity)
        if shown.row.confusion
    ]


def class_lines(row: ParityRow) -> list[str]:
    """Each class in a line, for the command line."""
    lines = []
    for found in row.classes:
        told = f"{found.name}: IoU {figure(found.iou, 'share')}, Dice {figure(found.dice, 'share')}"
        if found.delta_percentage_points is not None:
            change = figure(found.delta_percentage_points, "points")
            told += f"; delta {change} [{interval(found.ci95_percentage_points)}]"
        lines.append(told if found.iou is not None else f"{found.name}: not averaged")
    return lines


def _shares(counts: Sequence[int]) -> tuple[float | None, ...]:
    total = sum(counts)
    return tuple(100.0 * count / total if total else None for count in counts)
