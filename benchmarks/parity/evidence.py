"""Parity: a candidate beside a reference on the same images, as evidence for a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.parity.report import ImageParity, ParityReport
from segdeploy.benchmarks.scores.accuracy import classify, iou_per_image, score
from segdeploy.benchmarks.scores.confusion import pixels_per_image, within
from segdeploy.calibration.json_record import NotNegative, Percent
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.onnx_model.probabilities import require_probabilities
from segdeploy.deploy.system.errors import InputError

__all__ = ["ImageParity", "ParityReport", "StageCheck", "compare", "stage_check"]

Pixels = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class StageCheck:
    """How far one stage moved the output of the model: it beside its parent, on real inputs.

    Attributes:
        max_abs_difference: largest |difference| of the outputs, in probability.
        sqnr_db: signal to quantization noise in dB; ``None`` where the ratio has no finite value:
            nothing changed, or the parent predicts zero everywhere.
        disagreement_percent: pixels whose class changed.
    """

    max_abs_difference: NotNegative
    sqnr_db: float | None
    disagreement_percent: Percent


def compare(
    reference_name: str,
    candidate_name: str,
    reference_probability: Pixels,
    candidate_probability: Pixels,
    truth: NDArray[np.bool_],
    *,
    max_drop: float,
    image_names: Sequence[str],
    field: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> ParityReport:
    """Put a candidate beside a reference.

    Example:
        One of 100 true pixels lost on the first of two images: IoU 100 -> 99 there, so delta is
        -0.5 points, and one of 200 pixels disagrees.

        >>> truth = np.ones((2, 10, 10), bool)
        >>> reference = np.full((2, 10, 10), 0.9, np.float32)
        >>> candidate = reference.copy()
        >>> candidate[0, 0, 0] = 0.4
        >>> report = compare("fp32", "int8", reference, candidate, truth,
        ...                  max_drop=0.1, image_names=["a", "b"])
        >>> report.delta, report.disagreement_percent, report.passed
        (-0.5, 0.5, False)

    Args:
        reference_name: how the report calls the reference.
        candidate_name: how the report calls the candidate.
        reference_probability: float32 (N, H, W), foreground probability.
        candidate_probability: float32 (N, H, W), of the same images in the same order.
        truth: bool (N, H, W).
        max_drop: largest loss of IoU that passes, percentage points.
        image_names: N distinct names, in the order of the arrays.
        field: bool (N, H, W), the field of view; pixels outside count nowhere.
        seed: of the bootstrap.

    Raises:
        InputError: shapes or names that do not fit, fewer than two images, no probabilities, or
            an image without a pixel inside its field.
        RunError: a model returned values that are not finite.
        UsageError: ``max_drop`` is negative or not finite.
    """
    if len(image_names) != len(truth) or len(set(image_names)) != len(image_names):
        raise InputError(
            f"{len(image_names)} image names, {len(set(image_names))} of them distinct, "
            f"for {len(truth)} images; expected one distinct name for each"
        )
    reference = classify(reference_probability, truth.shape)
    candidate = classify(candidate_probability, truth.shape)
    return ParityReport(
        reference=reference_name,
        candidate=candidate_name,
        reference_scores=score(reference_probability, truth, field),
        candidate_scores=score(candidate_probability, truth, field),
        images=_images(reference, candidate, truth, image_names, field),
        max_drop=max_drop,
        seed=seed,
    )


def stage_check(
    parent_probability: Pixels,
    child_probability: Pixels,
    output: OutputContract = OutputContract(),  # noqa: B008 (frozen)
) -> StageCheck:
    """Compare a new artefact's output with its parent's on the same inputs.

    Example:
        Signal 1.0**2, noise 0.1**2: a ratio of 100, which is 20 dB.

        >>> one = np.ones((1, 1, 1, 1), np.float32)
        >>> check = stage_check(one, np.float32(0.9) * one)
        >>> round(check.max_abs_difference, 3), round(check.sqnr_db, 3), check.disagreement_percent
        (0.1, 20.0, 0.0)

    Args:
        parent_probability: float32 (N, classes, H, W).
        child_probability: likewise.
        output: the output contract of both.

    Raises:
        InputError: shapes that differ or are empty, or values that are no probabilities.
        RunError: a model returned values that are not finite.
    """
    if child_probability.shape != parent_probability.shape or 0 in parent_probability.shape:
        raise InputError(
            f"predictions have shape {child_probability.shape}, what they are compared with "
            f"{parent_probability.shape}; expected the same (images, classes, height, width)"
        )
    for probability in (parent_probability, child_probability):
        require_probabilities(probability, output)
    changed = output.members(parent_probability) != output.members(child_probability)
    parent = parent_probability.astype(np.float64)
    error = child_probability.astype(np.float64) - parent
    signal, noise = float(np.square(parent).sum()), float(np.square(error).sum())
    return StageCheck(
        max_abs_difference=float(np.abs(error).max()),
        sqnr_db=10.0 * math.log10(signal / noise) if signal > 0 and noise > 0 else None,
        disagreement_percent=100.0 * float(np.mean(changed.any(axis=1))),
    )


def _images(
    reference: NDArray[np.bool_],
    candidate: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    names: Sequence[str],
    field: NDArray[np.bool_] | None,
) -> tuple[ImageParity, ...]:
    """Count both sides of every image inside its field; all arrays are (N, H, W)."""
    reference_iou = iou_per_image(reference, truth, field)
    candidate_iou = iou_per_image(candidate, truth, field)
    pixels = pixels_per_image(truth.shape, field)
    reference, candidate, truth = (within(mask, field) for mask in (reference, candidate, truth))
    return tuple(
        ImageParity(
            name=name,
            pixels=int(pixels[i]),
            truth_foreground=int(np.count_nonzero(truth[i])),
            reference_foreground=int(np.count_nonzero(reference[i])),
            candidate_foreground=int(np.count_nonzero(candidate[i])),
            differing=int(np.count_nonzero(reference[i] != candidate[i])),
            reference_iou=float(reference_iou[i]),
            candidate_iou=float(candidate_iou[i]),
        )
        for i, name in enumerate(names)
    )
