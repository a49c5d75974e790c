"""Pixels counted by class, for networks of several classes, and the scores that follow from them.

A class that the truth of the set never holds has no IoU and counts in no mean: nothing of it could
be found, and what is predicted of it is missing from the classes that are there. So the mean is
over the same classes for every model. The ignored index counts nowhere: neither where the truth
holds it nor, where it is the index of a class, as one of those averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.scores.accuracy import Scores
from segdeploy.benchmarks.scores.confusion import Confusion, Counts, Percents
from segdeploy.deploy.data.image_set import Truth
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.system.errors import InputError


def confusion_matrix(
    predicted: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    *,
    classes: int,
    inside: NDArray[np.bool_] | None = None,
) -> Counts:
    """Pixels by true class (row) and predicted class (column), int64 (classes, classes).

    Example:
        >>> predicted = np.array([[0, 1, 1]], np.uint8)
        >>> truth = np.array([[0, 0, 1]], np.uint8)
        >>> confusion_matrix(predicted, truth, classes=2).tolist()
        [[1, 1], [0, 1]]

    Args:
        predicted: (H, W), each below ``classes``.
        truth: (H, W), likewise where it is inside.
        classes: how many there are.
        inside: bool (H, W), the pixels that count; ``None`` for all.
    """
    if inside is not None:
        predicted, truth = predicted[inside], truth[inside]
    pairs = truth.astype(np.int64).ravel() * classes + predicted.ravel()
    found = np.bincount(pairs, minlength=classes * classes)
    return np.asarray(found.reshape(classes, classes), np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassCounts:
    """What one model said of a set, in pixels of each image and class.

    Example:
        One image of three pixels, of which the second is of class 0 and was taken for 1:

        >>> counts = ClassCounts(
        ...     shared=np.array([[1, 1]]), predicted=np.array([[1, 2]]), true=np.array([[2, 1]]),
        ...     pixels=np.array([3]), matrix=np.array([[1, 1], [0, 1]]), averaged=(True, True),
        ... )
        >>> counts.iou.tolist(), counts.scores().miou, round(counts.scores().accuracy, 2)
        ([50.0, 50.0], 50.0, 66.67)

    Attributes:
        shared: of the class on both sides, int64 (N, K).
        predicted: of the class as the model sees it.
        true: of the class in truth.
        pixels: that count, int64 (N,).
        matrix: pixels of the set by true and predicted class, int64 (K, K); ``None`` of labels
            that may overlap.
        averaged: which classes count in a mean: all but the ignored index.

    Raises:
        InputError: the truth holds no class at all.
    """

    shared: Counts
    predicted: Counts
    true: Counts
    pixels: Counts
    matrix: Counts | None
    averaged: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not self.held.any():
            raise InputError(
                "the masks hold no pixel of any class that counts; expected some: look at the "
                "ignored index, and at the values of the masks"
            )

    @cached_property
    def held(self) -> NDArray[np.bool_]:
        """Which classes have scores: those averaged that the truth of the set holds, (K,)."""
        return np.asarray(np.logical_and(self.averaged, self.true.sum(axis=0) > 0))

    @cached_property
    def pooled(self) -> Confusion:
        """Each class against the rest over all images, (K,)."""
        hits, predicted, true = (
            each.sum(axis=0) for each in (self.shared, self.predicted, self.true)
        )
        wrong = predicted + true - hits
        return Confusion(
            hits=hits,
            false_alarms=predicted - hits,
            misses=true - hits,
            rejections=self.pixels.sum() - wrong,
        )

    @property
    def either(self) -> Counts:
        """Pixels of the class on either side, int64 (N, K)."""
        return np.asarray(self.predicted + self.true - self.shared)

    @property
    def iou(self) -> Percents:
        """Of each class, pooled over all pixels, (K,); meant where ``held``."""
        return self.pooled.iou

    @property
    def dice(self) -> Percents:
        """Of each class, pooled over all pixels, (K,); meant where ``held``."""
        return self.pooled.dice

    @cached_property
    def miou_per_image(self) -> Percents:
        """Of each image alone the mean over the classes its truth holds, (N,); of none 100."""
        held = (self.true > 0) & np.asarray(self.averaged)
        iou = 100.0 * self.shared / np.maximum(self.either, 1)
        return np.where(
            held.any(axis=1), (iou * held).sum(axis=1) / np.maximum(held.sum(axis=1), 1), 100.0
        )

    def scores(self) -> Scores:
        """Means over the classes that are held."""
        pool, held = self.pooled, self.held

        def mean(values: Percents) -> float:
            return float(values[held].mean())

        if self.matrix is None:
            accuracy = mean(pool.accuracy)
        else:
            accuracy = 100.0 * float(np.trace(self.matrix)) / float(self.matrix.sum())
        return Scores(
            iou=None,
            miou=mean(pool.iou),
            dice=mean(pool.dice),
            precision=mean(pool.precision),
            sensitivity=mean(pool.sensitivity),
            specificity=mean(pool.specificity),
            accuracy=accuracy,
            auc=None,
        )


def change_of_images(
    before: tuple[Counts, Counts], after: tuple[Counts, Counts]
) -> NDArray[np.float64]:
    """How each image bears on the change of each class's IoU, percentage points, float64 (N, K).

    The mean over images is the change itself, and an image on which both sides are the same bears
    nothing. IoU pooled over images is one sum over another, S / U; with the mean of both sides'
    IoU, t, and of both U, u, the change is exactly (S' - S - t (U' - U)) / u, a sum over images.

    Example:
        Two images of 10 pixels, on the second of which one pixel more is found: 18 of 20 become
        19 of 20, and all of the change is of that image.

        >>> before = np.array([[9], [9]]), np.array([[10], [10]])
        >>> after = np.array([[9], [10]]), np.array([[10], [10]])
        >>> change_of_images(before, after).tolist()
        [[0.0], [10.0]]

    Args:
        before: pixels of each image and class on both sides and on either, (N, K) each.
        after: of the same images.
    """
    (shared, either), (other_shared, other_either) = before, after
    whole, other_whole = (np.maximum(side.sum(axis=0), 1) for side in (either, other_either))
    share = (shared.sum(axis=0) / whole + other_shared.sum(axis=0) / other_whole) / 2
    moved = (other_shared - shared) - share * (other_either - either)
    return np.asarray(100.0 * len(either) * moved / ((whole + other_whole) / 2))


def inside_of(
    output: OutputContract, truth: Truth, counted: NDArray[np.bool_] | None
) -> NDArray[np.bool_] | None:
    """The pixels that count: bool (H, W), ``None`` for all.

    Args:
        output: the network's output contract, which may have an ignored index.
        truth: as ``Sample.truth`` gives it.
        counted: bool (H, W), as ``Sample.counted`` gives it.
    """
    ignored = output.ignored_index
    if not output.exclusive or ignored is None:
        return counted
    meant = np.asarray(truth != ignored)
    return meant if counted is None else np.logical_and(meant, counted)


def class_counts(
    predicted: Truth, truth: Truth, inside: NDArray[np.bool_] | None, output: OutputContract
) -> tuple[Counts, Counts | None]:
    """Pixels of one image by class.

    Args:
        predicted: uint8 (H, W) of classes that exclude each other, else bool (K, H, W).
        truth: likewise.
        inside: the pixels that count.
        output: the network's output contract.

    Returns:
        int64 (3, K): on both sides, predicted and true; and the matrix by true and predicted class
        (K, K), ``None`` of labels that may overlap.
    """
    if output.exclusive:
        matrix = confusion_matrix(
            predicted.astype(np.uint8, copy=False),
            truth.astype(np.uint8, copy=False),
            classes=output.channels,
            inside=inside,
        )
        return np.stack([matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)]), matrix
    seen = np.True_ if inside is None else inside
    sides = (predicted & truth, predicted, truth)
    return np.stack([np.count_nonzero(each & seen, axis=(1, 2)) for each in sides]), None


def averaged_classes(output: OutputContract) -> tuple[bool, ...]:
    """Which classes count in a mean: all but the ignored index."""
    return tuple(index != output.ignored_index for index in range(output.channels))
