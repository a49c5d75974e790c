"""The tables of all scores, for both pages of the report."""

from __future__ import annotations

from dataclasses import dataclass

from segdeploy.benchmarks.parity.records import ParityRow
from segdeploy.benchmarks.report.records import Report
from segdeploy.benchmarks.report.rows import compared_rows
from segdeploy.benchmarks.report.tables import Column, Columns, figure
from segdeploy.benchmarks.scores.definitions import PER_IMAGE as PER_IMAGE_SCORES
from segdeploy.benchmarks.scores.definitions import POOLED as POOLED_SCORES

POOLED: Columns = (
    Column("Candidate", "row.name"),
    Column("mIoU", "figures.miou", "percent"),
    Column("Dice", "figures.dice", "percent"),
    Column("Precision", "figures.precision", "percent"),
    Column("Sensitivity", "figures.sensitivity", "percent"),
    Column("Specificity", "figures.specificity", "percent"),
    Column("Accuracy", "figures.accuracy", "percent"),
    Column("AUC", "figures.auc", "percent"),
)
"""Each figure by its name in the definitions; all of one averaging."""

PER_IMAGE: Columns = (
    Column("Candidate", "row.name"),
    Column("IoU", "figures.iou", "percent"),
    Column("mIoU", "figures.miou_per_image", "percent"),
    Column("Dice", "figures.dice_per_image", "percent"),
    Column("Precision", "figures.precision_per_image", "percent"),
    Column("Sensitivity", "figures.sensitivity_per_image", "percent"),
    Column("Specificity", "figures.specificity_per_image", "percent"),
    Column("Accuracy", "figures.accuracy_per_image", "percent"),
    Column("AUC", "figures.auc_per_image", "percent"),
    Column("No AUC", "figures.auc_left_out", "count"),
    Column("Hausdorff px", "figures.hausdorff", "fixed"),
    Column("Hausdorff 95 % px", "figures.hausdorff95", "fixed"),
    Column("No distance", "figures.hausdorff_left_out", "count"),
)
"""The same of the scores that are means over images, and how many images some leave out."""

PER_IMAGE_NOTE = (
    "Each image scored on its own, then averaged, in percent; distances in pixels of the network's "
    "input grid. Images without an AUC (their truth holds one class) or without a distance "
    "(prediction or truth is empty, the other is not) are counted and left out of that mean."
)


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """A measured row of parity with its scores by name; ``None`` where a model has not got one."""

    row: ParityRow
    figures: dict[str, float | None]


def pooled_rows(report: Report) -> list[ScoreRow]:
    """The scores of one pool of pixels."""
    return [
        ScoreRow(row=row, figures={name: getattr(row.scores, name) for name in POOLED_SCORES})
        for row in (shown.row for shown in compared_rows(report.parity))
    ]


def per_image_rows(report: Report) -> list[ScoreRow]:
    """The means over images, and how many images some leave out.

    None for a report from before these were measured.
    """
    rows = []
    for row in (shown.row for shown in compared_rows(report.parity)):
        scores = row.image_scores
        if scores is None:
            continue
        found = {name: getattr(scores, name) for name in PER_IMAGE_SCORES}
        figures: dict[str, float | None] = {
            name: each.mean if each else None for name, each in found.items()
        }
        figures["iou"] = row.scores.iou if row.scores else None
        figures["auc_left_out"] = scores.auc_per_image.left_out if scores.auc_per_image else None
        figures["hausdorff_left_out"] = scores.hausdorff.left_out
        rows.append(ScoreRow(row=row, figures=figures))
    return rows


def scores_in_words(row: ParityRow) -> str:
    """The scores of a measured row in a line, all of one averaging, which it names.

    Of one label each is the mean over images; of an older report, which lacks those, IoU alone.
    """
    found = row.image_scores
    if row.scores is None or row.scores.iou is None:
        figures = {"mIoU": row.iou}
        figures |= {"Dice": row.scores.dice, "accuracy": row.scores.accuracy} if row.scores else {}
        averaged = "over all pixels"
    else:
        figures, averaged = {"IoU": row.scores.iou}, "mean of images"
        if found is not None:
            means = {"mIoU": found.miou_per_image.mean, "Dice": found.dice_per_image.mean}
            figures |= {label: mean for label, mean in means.items() if mean is not None}
    shown = ", ".join(f"{label} {figure(value, 'share')}" for label, value in figures.items())
    return f"{averaged} {shown}"


def field_note(inside_percent: float | None) -> str:
    """What a field of view left out of the scores; empty where every pixel counts.

    Example:
        >>> field_note(68.75)
        'Scored inside the field of view, 68.75 % of all pixels; the others count nowhere.'
    """
    if inside_percent is None:
        return ""
    return (
        f"Scored inside the field of view, {figure(inside_percent, 'percent')} % of all pixels; "
        "the others count nowhere."
    )
