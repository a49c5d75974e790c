"""One row of the parity table, from what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from segdeploy.benchmarks.parity.records import (
    ClassRow,
    MeansOverImages,
    ParityRow,
    PercentPerImage,
    PixelsPerImage,
    WorstImage,
)
from segdeploy.benchmarks.parity.report import ClassParityReport, ImageChange, ParityReport
from segdeploy.benchmarks.parity.tallies import Found
from segdeploy.benchmarks.parity.verdict import Verdict, lines_reached
from segdeploy.benchmarks.scores.confusion import Counts
from segdeploy.benchmarks.scores.figures import Figures
from segdeploy.benchmarks.scores.image_scores import ImageScores, PerImage
from segdeploy.benchmarks.speed.entries import RowIdentity


def reference_row(identity: RowIdentity, executed: str, found: Found, *, ranks: bool) -> ParityRow:
    """The row that the others are compared with.

    Args:
        identity: what the row is about.
        executed: what ran, in words.
        found: its scores.
        ranks: whether the values are probabilities, and not masks of 0 and 1.
    """
    return ParityRow(
        **vars(identity),
        precision_executed=executed,
        scores=found.scores,
        image_scores=_means(found.image_scores, ranks=ranks),
        delta_iou_percentage_points=None,
        ci95_percentage_points=None,
        disagreement_percent=None,
        passed=None,
        skipped=None,
        worst_images=(),
        iou_per_image_percent=_every(found.image_scores),
        classes=_classes(found, None),
        confusion=_confusion(found),
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
    found: Found,
    *,
    ranks: bool,
) -> ParityRow:
    """The row of a candidate that was compared.

    Args:
        identity: what the row is about.
        executed: what ran, in words; ``None`` where only its outputs are known.
        report: it beside the reference.
        found: its scores.
        ranks: whether it gave probabilities, and not masks of 0 and 1.
    """
    of_classes = report if isinstance(report, ClassParityReport) else None
    return ParityRow(
        **vars(identity),
        precision_executed=executed,
        scores=found.scores,
        image_scores=_means(found.image_scores, ranks=ranks),
        delta_iou_percentage_points=report.delta,
        ci95_percentage_points=report.ci95,
        disagreement_percent=report.disagreement_percent,
        passed=report.passed,
        verdict=report.verdict,
        failures=report.failures,
        collapsed_images=report.collapsed_images,
        collapsed_classes=of_classes.collapsed_classes if of_classes else (),
        reference_iou_kept_percent=report.reference_iou_kept_percent,
        mlperf_lines_reached_percent=lines_reached(report.reference_iou_kept_percent),
        skipped=None,
        worst_images=tuple(_worst(image) for image in report.worst_images()),
        iou_per_image_percent=_every(found.image_scores),
        classes=_classes(found, of_classes),
        confusion=_confusion(found),
    )


def _classes(found: Found, report: ClassParityReport | None) -> tuple[ClassRow, ...]:
    """Each of several classes, with its change where there is one; none of one label."""
    counts = found.classes
    if counts is None:
        return ()
    changes = report.class_changes if report else {}
    rows = []
    for index, name in enumerate(found.output.classes):
        held, change = bool(counts.held[index]), changes.get(name)
        rows.append(
            ClassRow(
                name=name,
                iou=float(counts.iou[index]) if held else None,
                dice=float(counts.dice[index]) if held else None,
                true_pixels=int(counts.true[:, index].sum()),
                predicted_pixels=int(counts.predicted[:, index].sum()),
                delta_percentage_points=change.delta if change else None,
                ci95_percentage_points=change.ci95 if change else None,
                verdict=change.evidence.verdict if change and change.evidence else None,
                shared_per_image=_pixels_of(counts.shared[:, index]),
                either_per_image=_pixels_of(counts.either[:, index]),
            )
        )
    return tuple(rows)


def _pixels_of(counts: Counts) -> Figures[int]:
    return Figures(counts)


def _confusion(found: Found) -> tuple[tuple[int, ...], ...] | None:
    matrix = found.matrix
    return None if matrix is None else tuple(tuple(map(int, row)) for row in matrix)


def _worst(image: ImageChange) -> WorstImage:
    return WorstImage(
        name=image.name,
        reference_iou=image.reference_iou,
        candidate_iou=image.candidate_iou,
        disagreement_percent=image.disagreement_percent,
        collapsed=image.collapsed,
    )


def _means(images: ImageScores | None, *, ranks: bool) -> MeansOverImages | None:
    if images is None:
        return None
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


def _every(images: ImageScores | None) -> Sequence[float] | None:
    """IoU of each image, which every image has; ``None`` of several classes."""
    return None if images is None else Figures(images.iou.defined)
