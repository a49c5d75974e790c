"""Pixels counted by predicted and true class, and the scores that are shares of such counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.system.errors import InputError

Counts = NDArray[np.int64]
Percents = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Confusion:
    """Numbers of pixels, int64: (N,) for N images, or () for one pool of pixels.

    Each score is an array of the same shape, in percent; ``benchmarks.scores.definitions`` says
    what it means. All are defined whatever the counts: a share of nothing is 100, or 0 where the
    pixels it speaks of are on the other side alone.

    Example:
        One image with 1 hit and 1 false alarm, one with 3 hits and 1 miss:

        >>> counts = Confusion(
        ...     hits=np.array([1, 3]), false_alarms=np.array([1, 0]),
        ...     misses=np.array([0, 1]), rejections=np.array([2, 0]),
        ... )
        >>> counts.precision, counts.pooled().precision
        (array([ 50., 100.]), array(80.))

    Attributes:
        hits: foreground on both sides.
        false_alarms: foreground only predicted.
        misses: foreground only true.
        rejections: background on both sides.
    """

    hits: Counts
    false_alarms: Counts
    misses: Counts
    rejections: Counts

    @classmethod
    def count(
        cls,
        prediction: NDArray[np.bool_],
        truth: NDArray[np.bool_],
        field: NDArray[np.bool_] | None = None,
    ) -> Confusion:
        """Count each image.

        Args:
            prediction: bool (N, H, W).
            truth: bool (N, H, W).
            field: bool (N, H, W), the field of view; pixels outside count nowhere.

        Raises:
            InputError: a field that does not fit.
        """
        predicted, true = within(prediction, field), within(truth, field)
        hits = _per_image(predicted & true)
        false_alarms, misses = _per_image(predicted) - hits, _per_image(true) - hits
        return cls(
            hits=hits,
            false_alarms=false_alarms,
            misses=misses,
            rejections=pixels_per_image(truth.shape, field) - hits - false_alarms - misses,
        )

    def pooled(self) -> Confusion:
        """All images as one pool of pixels."""
        return Confusion(
            hits=np.asarray(self.hits.sum()),
            false_alarms=np.asarray(self.false_alarms.sum()),
            misses=np.asarray(self.misses.sum()),
            rejections=np.asarray(self.rejections.sum()),
        )

    @property
    def wrong(self) -> Counts:
        """Pixels whose class is wrong."""
        return self.false_alarms + self.misses

    @property
    def iou(self) -> Percents:
        """Intersection over union of the foreground."""
        return _percent(self.hits, self.wrong)

    @property
    def miou(self) -> Percents:
        """Mean over both classes of intersection over union."""
        return (self.iou + _percent(self.rejections, self.wrong)) / 2

    @property
    def dice(self) -> Percents:
        """Twice the shared foreground over both foregrounds."""
        return _percent(2 * self.hits, self.wrong)

    @property
    def precision(self) -> Percents:
        """Share of the predicted foreground that is true."""
        return _percent(self.hits, self.false_alarms, elsewhere=self.misses)

    @property
    def sensitivity(self) -> Percents:
        """Share of the true foreground that is predicted."""
        return _percent(self.hits, self.misses, elsewhere=self.false_alarms)

    @property
    def specificity(self) -> Percents:
        """Share of the true background that is predicted."""
        return _percent(self.rejections, self.false_alarms, elsewhere=self.misses)

    @property
    def accuracy(self) -> Percents:
        """Share of pixels whose class is right."""
        return _percent(self.hits + self.rejections, self.wrong)


def within(mask: NDArray[np.bool_], field: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """The part of a mask inside the field of view; all of it for ``None``.

    Raises:
        InputError: a field that does not fit.
    """
    if field is None:
        return mask
    require_field(field, mask.shape)
    return mask & field


def pixels_per_image(shape: tuple[int, ...], field: NDArray[np.bool_] | None) -> Counts:
    """Pixels inside the field of view of each image, int64 (N,), for masks of shape (N, H, W)."""
    if field is None:
        return np.full(shape[0], shape[1] * shape[2], np.int64)
    return _per_image(field)


def require_field(field: NDArray[np.bool_] | None, shape: tuple[int, ...]) -> None:
    """Refuse a field of view that leaves nothing to score, or belongs to other images.

    Args:
        field: bool (N, H, W), or ``None`` for no limit.
        shape: the (N, H, W) of the truth.

    Raises:
        InputError: another shape or type, or an image without a pixel inside.
    """
    if field is None:
        return
    if field.shape != shape or field.dtype != np.bool_:
        raise InputError(
            f"the field of view is {field.dtype} {field.shape}, the masks are bool {shape}; "
            "expected one mask of booleans for each image, of its size"
        )
    outside = np.flatnonzero(~field.any(axis=(1, 2)))
    if outside.size:
        raise InputError(
            f"the field of view of {outside.size} of {len(field)} images holds no pixel at "
            f"{shape[2]}x{shape[1]}, first that of image {outside[0]} (counted from 0); expected "
            "255 inside and 0 outside, and a part that survives the resize"
        )


def _per_image(mask: NDArray[np.bool_]) -> Counts:
    return np.asarray(np.count_nonzero(mask, axis=(1, 2)), np.int64)


def _percent(right: Counts, wrong: Counts, *, elsewhere: Counts | int = 0) -> Percents:
    """``right`` of ``right + wrong``; of none, 100 unless there are errors ``elsewhere``."""
    total = right + wrong
    of_none = np.where(np.asarray(elsewhere) > 0, 0.0, 100.0)
    return np.asarray(np.where(total == 0, of_none, 100.0 * right / np.maximum(total, 1)))
