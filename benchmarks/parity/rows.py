"""One row of the parity table, from what was measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.parity.records import (
    MeansOverImages,
    ParityRow,
    PercentPerImage,
    PixelsPerImage,
    WorstImage,
)
from segdeploy.benchmarks.parity.report import ImageParity, ParityReport
from segdeploy.benchmarks.parity.verdict import Verdict, lines_reached
from segdeploy.benchmarks.scores.accuracy import Scores, score
from segdeploy.benchmarks.scores.image_scores import ImageScores, PerImage, score_images
from segdeploy.benchmarks.speed.entries import RowIdentity


def reference_row(
    identity: RowIdentity,
    executed: str,
    probability: NDArray[np.float32],
    truths: NDArray[np.bool_],
    fields: NDArray[np.bool_] | None,
    *,
    ranks: bool,
) -> ParityRow:
    """The row that the others are compared with.

    Args:
        identity: what the row is about.
        executed: what ran, in words.
        probability: float32 (N, H, W), what it said of every image.
        truths: bool (N, H, W).
        fields: bool (N, H, W), the fields of view, or ``None``.
        ranks: whether the values are probabilities, and not masks of 0 and 1.
    """
    images = score_images(probability, truths, fields)
    return ParityRow(
        **vars(identity),
        precision_executed=executed,
        scores=_pooled(score(probability, truths, fields), ranks=ranks),
        image_scores=_means(images, ranks=ranks),
        delta_iou_percentage_points=None,
        ci95_percentage_points=None,
        disagreement_percent=None,
        passed=None,
        skipped=None,
        worst_images=(),
        iou_per_image_percent=_every(images.iou),
    )


def skipped_row(identity: RowIdentity, reason: str) -> ParityRow:
    """The row of a candidate that could not run here."""
    return ParityRow(
        **vars(identity),
        precision_executed=None,
        scores=None,
        delta_iou_percentage_points=None,
        ci95_percentage_points=None,
        disagreement_percent=None,
        passed=None,
        skipped=reason,
        worst_images=(),
        iou_per_image_percent=None,
    )


def failed_row(identity: RowIdentity, reason: str) -> ParityRow:
    """The row of a candidate whose runtime crashed, hung or failed: measured, and not passed."""
    return replace(
        skipped_row(identity, reason),
        passed=False,
        verdict=Verdict.FAILED,
        failures=(f"failed: {reason}",),
    )


def candidate_row(
    identity: RowIdentity,
    executed: str | None,
    report: ParityReport,
    images: ImageScores,
    *,
    ranks: bool,
) -> ParityRow:
    """The row of a candidate that was compared.

    Args:
        identity: what the row is about.
        executed: what ran, in words; ``None`` where only its outputs are known.
        report: it beside the reference.
        images: its scores of each image.
        ranks: whether it gave probabilities, and not masks of 0 and 1.
    """
    return ParityRow(
        **vars(identity),
        precision_executed=executed,
        scores=_pooled(report.candidate_scores, ranks=ranks),
        image_scores=_means(images, ranks=ranks),
        delta_iou_percentage_points=report.delta,
        ci95_percentage_points=report.ci95,
        disagreement_percent=report.disagreement_percent,
        passed=report.passed,
        verdict=report.verdict,
        failures=report.failures,
        collapsed_images=report.collapsed_images,
        reference_iou_kept_percent=report.reference_iou_kept_percent,
        mlperf_lines_reached_percent=lines_reached(report.reference_iou_kept_percent),
        skipped=None,
        worst_images=tuple(_worst(image) for image in report.worst_images()),
        iou_per_image_percent=report.candidate_iou_per_image,
    )


def _worst(image: ImageParity) -> WorstImage:
    return WorstImage(
        name=image.name,
        reference_iou=image.reference_iou,
        candidate_iou=image.candidate_iou,
        disagreement_percent=image.disagreement_percent,
        collapsed=image.collapsed,
    )


def _pooled(scores: Scores, *, ranks: bool) -> Scores:
    """A mask does not rank its pixels, so it has no area under the curve."""
    return scores if ranks else replace(scores, auc=None)


def _means(images: ImageScores, *, ranks: bool) -> MeansOverImages:
    return MeansOverImages(
        miou_per_image=_percent(images.miou_per_image),
        dice_per_image=_percent(images.dice_per_image),
        precision_per_image=_percent(images.precision_per_image),
        sensitivity_per_image=_percent(images.sensitivity_per_image),
        specificity_per_image=_percent(images.specificity_per_image),
        accuracy_per_image=_percent(images.accuracy_per_image),
        auc_per_image=_percent(images.auc_per_image) if ranks else None,
        hausdorff=_pixels(images.hausdorff),
        hausdorff95=_pixels(images.hausdorff95),
    )


def _percent(found: PerImage) -> PercentPerImage:
    return PercentPerImage(mean=found.mean, left_out=found.left_out, values=found.values)


def _pixels(found: PerImage) -> PixelsPerImage:
    return PixelsPerImage(mean=found.mean, left_out=found.left_out, values=found.values)


def _every(found: PerImage) -> tuple[float, ...]:
    """Of a score that every image has."""
    if found.left_out:
        raise ValueError(f"{found.left_out} images lack a score that every image has")
    return found.defined
