"""Rows of results as a table: for a notebook a DataFrame, where pandas is there."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from segdeploy.benchmarks.parity.records import ParityRow
from segdeploy.calibration.json_record import json_of


def table_of(rows: Sequence[object], *, without: Sequence[str] = ()) -> Any:
    """Rows as dicts, in a pandas DataFrame where pandas is installed, else in a list.

    Args:
        rows: dicts, or frozen records, whose fields are the columns.
        without: columns to leave out, as raw samples.
    """
    plain = [
        {name: value for name, value in json_of(row).items() if name not in without} for row in rows
    ]
    if importlib.util.find_spec("pandas") is None:
        return plain
    pandas = importlib.import_module("pandas")
    return pandas.DataFrame(plain)


def kept_figures(row: ParityRow) -> dict[str, Any]:
    """What a candidate keeps, one figure a column; ``None`` is not measured.

    Of several classes ``iou_percent`` is mIoU; ``classes`` of the row has each.

    Args:
        row: of the parity section.
    """
    low, high = row.ci95_percentage_points or (None, None)
    return {
        "name": row.name,
        "file": row.file,
        "runtime": row.runtime,
        "precision_executed": row.precision_executed,
        "verdict": row.verdict.value if row.verdict else None,
        "iou_percent": row.iou if row.scores else None,
        "delta_iou_points": row.delta_iou_percentage_points,
        "ci95_low_points": low,
        "ci95_high_points": high,
        "disagreement_percent": row.disagreement_percent,
        "skipped": row.skipped,
    }
