"""Segmentation scores: one definition for each name, as arrays in, values out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.scores.confusion import Confusion
from segdeploy.benchmarks.scores.definitions import DEFINITIONS
from segdeploy.calibration.json_record import Percent
from segdeploy.deploy.data.output_contract import FOREGROUND_PROBABILITY, OutputContract
from segdeploy.deploy.onnx_model.probabilities import require_probabilities
from segdeploy.deploy.system.errors import InputError

__all__ = [
    "DEFINITIONS",
    "Scores",
    "area_under_roc",
    "classify",
    "iou_per_image",
    "score",
    "scores_of",
]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Segmentation scores in percent, defined in ``benchmarks.scores.definitions``.

    ``auc`` is ``None`` when the truth holds only one class. ``iou`` and ``auc`` are those of one
    label, ``None`` of several classes, of which the others are means.
    """

    iou: Percent | None
    miou: Percent
    dice: Percent
    precision: Percent
    sensitivity: Percent
    specificity: Percent
    accuracy: Percent
    auc: Percent | None


def score(
    probability: NDArray[np.float32],
    truth: NDArray[np.bool_],
    field: NDArray[np.bool_] | None = None,
) -> Scores:
    """Every score of one set of predictions.

    Example:
        >>> probability = np.array([[[0.9, 0.8, 0.1, 0.2]]], np.float32)
        >>> truth = np.array([[[True, False, False, False]]])
        >>> scores = score(probability, truth)  # 1 hit, 1 false alarm, 2 right rejections
        >>> scores.iou, scores.precision, scores.accuracy, scores.auc
        (50.0, 50.0, 75.0, 100.0)
        >>> field = np.array([[[True, False, True, True]]])  # the false alarm lies outside
        >>> score(probability, truth, field).iou
        100.0

    Args:
        probability: float32 (N, H, W), foreground probability.
        truth: bool (N, H, W).
        field: bool (N, H, W), the field of view; pixels outside count nowhere, though a broken
            value is refused there too.

    Raises:
        InputError: shapes that differ or are empty, values that are no probabilities, or an
            image without a pixel inside its field.
        RunError: the model returned values that are not finite.
    """
    prediction = classify(probability, truth.shape)
    counts = Confusion.count(prediction, truth, field)
    inside = np.full(truth.shape, True) if field is None else field
    return scores_of(counts, auc=area_under_roc(probability[inside], truth[inside]))


def scores_of(counts: Confusion, *, auc: float | None) -> Scores:
    """Every score of one label, from the counts of each image, (N,)."""
    pool = counts.pooled()
    return Scores(
        iou=float(counts.iou.mean()),
        miou=float(pool.miou),
        dice=float(pool.dice),
        precision=float(pool.precision),
        sensitivity=float(pool.sensitivity),
        specificity=float(pool.specificity),
        accuracy=float(pool.accuracy),
        auc=auc,
    )


def classify(probability: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Predicted class of each pixel, after checking that the values are probabilities.

    Args:
        probability: float32 (N, H, W).
        shape: the (N, H, W) of the truth or of the reference it goes with.

    Returns:
        bool (N, H, W).

    Raises:
        InputError: shapes that differ or are empty, or values that are no probabilities.
        RunError: the model returned values that are not finite.
    """
    if probability.shape != shape or len(shape) != 3 or 0 in shape:
        raise InputError(
            f"predictions have shape {probability.shape}, what they are compared with {shape}; "
            "expected the same (images, height, width), none of them zero"
        )
    require_probabilities(probability[:, None], OutputContract())
    return probability >= FOREGROUND_PROBABILITY


def iou_per_image(
    prediction: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    field: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Intersection over union of the foreground, per image, in percent.

    Example:
        >>> p = np.array([[[True, True, False]]])
        >>> t = np.array([[[True, False, False]]])
        >>> iou_per_image(p, t)  # 1 pixel shared of 2 covered
        array([50.])

    Args:
        prediction: bool (N, H, W).
        truth: bool (N, H, W).
        field: bool (N, H, W), the field of view; pixels outside count nowhere.

    Returns:
        float64 (N,); 100 where both are empty.

    Raises:
        InputError: a field that does not fit.
    """
    return Confusion.count(prediction, truth, field).iou


def area_under_roc(probability: NDArray[np.float32], truth: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve in percent, from the ranks of the probabilities (Mann-Whitney U).

    Example:
        Foreground 0.9 and 0.4, background 0.4 and 0.1: of four pairs three are in order and one
        ties, so 3.5 of 4.

        >>> area_under_roc(np.array([0.9, 0.4, 0.4, 0.1]), np.array([True, True, False, False]))
        87.5

    Args:
        probability: any shape; only the order of the values matters.
        truth: bool, the same shape.

    Returns:
        Percent, or ``None`` when the truth holds only one class.
    """
    positives = int(np.count_nonzero(truth))
    negatives = truth.size - positives
    if positives == 0 or negatives == 0:
        return None
    _, place, ties = np.unique(probability.ravel(), return_inverse=True, return_counts=True)
    ranks = np.cumsum(ties) - (ties - 1) / 2  # from 1; equal values share their mean rank
    rank_sum = float(ranks[place][truth.ravel()].sum())
    pairs_in_order = rank_sum - positives * (positives + 1) / 2
    return 100.0 * pairs_in_order / (positives * negatives)
