"""What every artefact must keep on real nuclei."""

from __future__ import annotations

import os
from collections.abc import Iterable

from segdeploy.benchmarks.parity.records import ParityRow
from segdeploy.deploy.onnx_model.artifact import Precision

FP32_DIFFERENCE = 1e-5
"""Largest difference of a probability between PyTorch and the fp32 ONNX file."""

MOST_LOST = {Precision.FP32: 0.001, Precision.FP16: 0.01, Precision.INT8: 0.05}
"""Of the estimate of each precision on the whole test split, percentage points of IoU."""

INT8_LOWER_END = -0.15
"""Of the interval of int8 on the whole test split, likewise."""

DSB2018 = os.environ.get("SEGDEPLOY_DSB2018")


def require_kept(rows: Iterable[ParityRow]) -> None:
    """Every row that ran passed the gate; on the whole split it also keeps what is promised.

    At least one row of each precision ran.
    """
    judged = [row for row in rows if row.passed is not None]
    assert {row.precision_requested for row in judged} == MOST_LOST.keys()
    for row in judged:
        assert row.passed, row.failures
        assert not row.collapsed_images
        if len(row.iou_per_image_percent or ()) == 120:
            precision, change = row.precision_requested, row.delta_iou_percentage_points
            assert precision is not None
            assert change is not None
            assert change >= -MOST_LOST[precision], row.name
            if precision is Precision.INT8:
                assert row.ci95_percentage_points is not None
                assert row.ci95_percentage_points[0] >= INT8_LOWER_END, row.name
            else:
                assert change <= MOST_LOST[precision], row.name
