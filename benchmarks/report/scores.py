"""The tables of all scores, for both pages of the report."""

from __future__ import annotations

from typing import Any

from segdeploy.benchmarks.report.rows import compared_rows, figure

POOLED: tuple[tuple[str, str, str | None], ...] = (
    ("Candidate", "name", None),
    ("IoU", "iou", "percent"),
    ("mIoU", "miou", "percent"),
    ("Dice", "dice", "percent"),
    ("Precision", "precision", "percent"),
    ("Sensitivity", "sensitivity", "percent"),
    ("Specificity", "specificity", "percent"),
    ("Accuracy", "accuracy", "percent"),
    ("AUC", "auc", "percent"),
)
"""Heading, key of the row and of the definitions, and a key of ``FIGURES``."""

PER_IMAGE: tuple[tuple[str, str, str | None], ...] = (
    ("Candidate", "name", None),
    ("mIoU", "miou_per_image", "percent"),
    ("Dice", "dice_per_image", "percent"),
    ("Precision", "precision_per_image", "percent"),
    ("Sensitivity", "sensitivity_per_image", "percent"),
    ("Specificity", "specificity_per_image", "percent"),
    ("Accuracy", "accuracy_per_image", "percent"),
    ("AUC", "auc_per_image", "percent"),
    ("No AUC", "auc_left_out", "count"),
    ("Hausdorff px", "hausdorff", "fixed"),
    ("Hausdorff 95 % px", "hausdorff95", "fixed"),
    ("No distance", "hausdorff_left_out", "count"),
)
"""The same of the scores that are means over images, and how many images some leave out."""

PER_IMAGE_NOTE = (
    "Each image scored on its own, then averaged, in percent; distances in pixels of the network's "
    "input grid. Images without an AUC (their truth holds one class) or without a distance "
    "(prediction or truth is empty, the other is not) are counted and left out of that mean."
)


def pooled_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The measured rows of parity with their scores as columns."""
    return [row | row["scores"] for row in compared_rows(report)]


def per_image_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The measured rows of parity with their means over images as columns.

    None for a report from before these were measured.
    """
    rows = []
    for row in compared_rows(report):
        scores = row.get("image_scores")
        if scores is None:
            continue
        means = {name: found and found["mean"] for name, found in scores.items()}
        left_out = {
            f"{name}_left_out": scores[key] and scores[key]["left_out"]
            for name, key in (("auc", "auc_per_image"), ("hausdorff", "hausdorff"))
        }
        rows.append(row | means | left_out)
    return rows


def field_note(report: dict[str, Any]) -> str:
    """What a field of view left out of the scores; empty where every pixel counts.

    Example:
        >>> field_note({"parity": {"field_of_view_percent": 68.75}})
        'Scored inside the field of view, 68.75 % of all pixels; the others count nowhere.'
    """
    inside = (report["parity"] or {}).get("field_of_view_percent")
    if inside is None:
        return ""
    return (
        f"Scored inside the field of view, {figure(inside, 'percent')} % of all pixels; the "
        "others count nowhere."
    )
