"""One row of the parity table, as ``report.json`` holds it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.parity.report import ImageParity, ParityReport
from segdeploy.benchmarks.parity.verdict import lines_reached
from segdeploy.benchmarks.scores.accuracy import Scores, score
from segdeploy.benchmarks.scores.definitions import PER_IMAGE
from segdeploy.benchmarks.scores.image_scores import ImageScores, PerImage, score_images

Row = dict[str, Any]
"""A ``parity_row`` of ``report.schema.json``."""

FAILED = "failed"
"""The verdict on a candidate that could not be scored because its runtime failed."""


def reference_row(
    identity: Row,
    executed: str,
    probability: NDArray[np.float32],
    truths: NDArray[np.bool_],
    fields: NDArray[np.bool_] | None,
    *,
    ranks: bool,
) -> Row:
    """The row that the others are compared with.

    Args:
        identity: name, file, target, runtime and the precision asked for.
        executed: what ran, in words.
        probability: float32 (N, H, W), what it said of every image.
        truths: bool (N, H, W).
        fields: bool (N, H, W), the fields of view, or ``None``.
        ranks: whether the values are probabilities, and not masks of 0 and 1.
    """
    images = score_images(probability, truths, fields)
    return {
        **identity,
        "precision_executed": executed,
        **_scores(score(probability, truths, fields), images, ranks=ranks),
        **_not_judged(),
        "skipped": None,
        "iou_per_image_percent": list(images.iou.values),
    }


def skipped_row(identity: Row, reason: str) -> Row:
    """The row of a candidate that could not run here."""
    return {
        **identity,
        "precision_executed": None,
        "scores": None,
        "image_scores": None,
        **_not_judged(),
        "skipped": reason,
        "iou_per_image_percent": None,
    }


def failed_row(identity: Row, reason: str) -> Row:
    """The row of a candidate whose runtime crashed, hung or failed: measured, and not passed."""
    judgement = {"passed": False, "verdict": FAILED, "failures": [f"failed: {reason}"]}
    return skipped_row(identity, reason) | judgement


def candidate_row(
    identity: Row, executed: str | None, report: ParityReport, images: ImageScores, *, ranks: bool
) -> Row:
    """The row of a candidate that was compared.

    Args:
        identity: name, file, target, runtime and the precision asked for.
        executed: what ran, in words; ``None`` where only its outputs are known.
        report: it beside the reference.
        images: its scores of each image.
        ranks: whether it gave probabilities, and not masks of 0 and 1.
    """
    lines = lines_reached(report.reference_iou_kept_percent)
    return {
        **identity,
        "precision_executed": executed,
        **_scores(report.candidate_scores, images, ranks=ranks),
        "delta_iou_percentage_points": report.delta,
        "ci95_percentage_points": list(report.ci95),
        "disagreement_percent": report.disagreement_percent,
        "passed": report.passed,
        "verdict": report.verdict.value,
        "failures": list(report.failures),
        "collapsed_images": list(report.collapsed_images),
        "reference_iou_kept_percent": report.reference_iou_kept_percent,
        "mlperf_lines_reached_percent": None if lines is None else list(lines),
        "skipped": None,
        "worst_images": [_worst(image) for image in report.worst_images()],
        "iou_per_image_percent": list(report.candidate_iou_per_image),
    }


def _not_judged() -> Row:
    """What a row says that was compared with nothing."""
    return {
        "delta_iou_percentage_points": None,
        "ci95_percentage_points": None,
        "disagreement_percent": None,
        "passed": None,
        "verdict": None,
        "failures": [],
        "collapsed_images": [],
        "reference_iou_kept_percent": None,
        "mlperf_lines_reached_percent": None,
        "worst_images": [],
    }


def _worst(image: ImageParity) -> Row:
    return {
        "name": image.name,
        "reference_iou": image.reference_iou,
        "candidate_iou": image.candidate_iou,
        "disagreement_percent": image.disagreement_percent,
        "collapsed": image.collapsed,
    }


def _scores(scores: Scores, images: ImageScores, *, ranks: bool) -> Row:
    """Scores as columns; a mask does not rank its pixels, so it has no area under the curve."""
    return {
        "scores": asdict(scores if ranks else replace(scores, auc=None)),
        "image_scores": {
            name: _image_score(getattr(images, name)) if ranks or name != "auc_per_image" else None
            for name in PER_IMAGE
        },
    }


def _image_score(found: PerImage) -> Row:
    return {"mean": found.mean, "left_out": found.left_out, "values": list(found.values)}
