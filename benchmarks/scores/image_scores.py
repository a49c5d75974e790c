"""Segmentation scores of each image of a set, and their means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.scores.accuracy import area_under_roc, classify
from segdeploy.benchmarks.scores.confusion import Confusion, Percents, within
from segdeploy.benchmarks.scores.figures import Figures
from segdeploy.benchmarks.scores.hausdorff import hausdorff


@dataclass(frozen=True, kw_only=True)
class PerImage:
    """One score over a set.

    Example:
        >>> distances = PerImage(values=(2.0, None, 4.0))
        >>> distances.mean, distances.left_out
        (3.0, 1)

    Attributes:
        values: one for each image, in the order of the set; ``None`` where the image has none.

    Raises:
        ValueError: no image, or an infinite value.
    """

    values: Sequence[float | None]

    def __post_init__(self) -> None:
        defined = (value for value in self.values if value is not None)
        if not self.values or not all(map(math.isfinite, defined)):
            raise ValueError(f"expected finite values or None, at least one; found {self.values}")
        if not isinstance(self.values, Figures):
            figures = Figures[float | None](np.asarray(self.values, np.float64))
            object.__setattr__(self, "values", figures)

    @property
    def array(self) -> NDArray[np.float64]:
        """Float64 (N,); NaN where an image has no value."""
        assert isinstance(self.values, Figures)
        return np.asarray(self.values.array, np.float64)

    @property
    def defined(self) -> NDArray[np.float64]:
        """The values of the images that have one."""
        return self.array[~np.isnan(self.array)]

    @property
    def mean(self) -> float | None:
        """Over the images that have a value; ``None`` where none has."""
        return float(np.mean(self.defined)) if self.defined.size else None

    @property
    def left_out(self) -> int:
        """Images without a value."""
        return int(np.count_nonzero(np.isnan(self.array)))


@dataclass(frozen=True, kw_only=True)
class ImageScores:
    """Scores of each image; ``benchmarks.scores.definitions`` says what their means are.

    All in percent, but ``hausdorff`` and ``hausdorff95``, in pixels. Only those two and
    ``auc_per_image`` can be without a value. The mean of ``iou`` is ``Scores.iou``.
    """

    iou: PerImage
    miou_per_image: PerImage
    dice_per_image: PerImage
    precision_per_image: PerImage
    sensitivity_per_image: PerImage
    specificity_per_image: PerImage
    accuracy_per_image: PerImage
    auc_per_image: PerImage
    hausdorff: PerImage
    hausdorff95: PerImage


def score_images(
    probability: NDArray[np.float32],
    truth: NDArray[np.bool_],
    field: NDArray[np.bool_] | None = None,
) -> ImageScores:
    """Every score of each image.

    Example:
        >>> probability = np.array([[[0.9, 0.8, 0.1, 0.2]], [[0.1, 0.1, 0.1, 0.1]]], np.float32)
        >>> truth = np.array([[[True, False, False, False]], [[False, False, False, True]]])
        >>> scores = score_images(probability, truth)
        >>> scores.iou.values, scores.iou.mean, scores.auc_per_image.values
        (Figures(50.0, 0.0), 25.0, Figures(100.0, 50.0))
        >>> scores.hausdorff.values  # nothing predicted of something true: no distance
        Figures(1.0, None)

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
    predicted, true = within(prediction, field), within(truth, field)
    apart = [hausdorff(one, other) for one, other in zip(predicted, true, strict=True)]
    inside = np.full(truth.shape, True) if field is None else field
    areas = [
        area_under_roc(ranked[seen], classes[seen])
        for ranked, classes, seen in zip(probability, truth, inside, strict=True)
    ]
    return ImageScores(
        iou=_per_image(counts.iou),
        miou_per_image=_per_image(counts.miou),
        dice_per_image=_per_image(counts.dice),
        precision_per_image=_per_image(counts.precision),
        sensitivity_per_image=_per_image(counts.sensitivity),
        specificity_per_image=_per_image(counts.specificity),
        accuracy_per_image=_per_image(counts.accuracy),
        auc_per_image=_per_image(areas),
        hausdorff=_per_image([each.largest if each else None for each in apart]),
        hausdorff95=_per_image([each.percentile95 if each else None for each in apart]),
    )


def _per_image(values: Percents | Sequence[float | None]) -> PerImage:
    return PerImage(values=Figures(np.asarray(values, np.float64)))
