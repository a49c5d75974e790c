"""What is kept of everything that was said over a set: numbers of each image, never its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.parity.one_image import CONFUSION, SCORES, OneImage, Pixels
from segdeploy.benchmarks.parity.report import (
    ClassParityReport,
    ImageChange,
    ImageParity,
    ParityReport,
)
from segdeploy.benchmarks.scores.accuracy import Scores, scores_of
from segdeploy.benchmarks.scores.classes import ClassCounts, averaged_classes
from segdeploy.benchmarks.scores.confusion import Confusion, Counts
from segdeploy.benchmarks.scores.figures import Figures
from segdeploy.benchmarks.scores.image_scores import ImageScores, PerImage
from segdeploy.benchmarks.scores.pooled_area import PooledArea
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.distributed.shard import Shard

PIXELS = tuple(each.name for each in fields(Pixels))


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What one model, or a device, scores over a set.

    Attributes:
        images: the set.
        output: the output contract.
        scored: of one label: ``SCORES`` of each image, float64 (N, S); of several classes (N, 0).
        counts: as ``OneImage.counts``, int64 (N, C).
        pixels: ``PIXELS`` of each image, int64 (N, P).
        matrix: as ``OneImage.matrix``, of all images.
        auc: area under the curve over all pixels, where there is one.
    """

    images: SegmentationSet
    output: OutputContract
    scored: NDArray[np.float64]
    counts: Counts
    pixels: Counts
    matrix: Counts | None
    auc: float | None

    @cached_property
    def scores(self) -> Scores:
        """Over all pixels."""
        if self.classes is not None:
            return self.classes.scores()
        return scores_of(self.confusion, auc=self.auc)

    @property
    def confusion(self) -> Confusion:
        """Of one label: of each image."""
        return Confusion(**{name: self.counts[:, i] for i, name in enumerate(CONFUSION)})

    @cached_property
    def classes(self) -> ClassCounts | None:
        """Of several classes: what was counted; ``None`` of one label.

        Raises:
            InputError: the truth holds no class at all.
        """
        if self.output.binary:
            return None
        shared, predicted, true = np.split(self.counts, 3, axis=1)
        return ClassCounts(
            shared=shared,
            predicted=predicted,
            true=true,
            pixels=self.of("counted"),
            matrix=self.matrix,
            averaged=averaged_classes(self.output),
        )

    @property
    def image_scores(self) -> ImageScores | None:
        """Of one label: of each image; ``None`` of several classes."""
        if not self.output.binary:
            return None
        return ImageScores(
            **{name: PerImage(values=Figures(self.scored[:, i])) for i, name in enumerate(SCORES)}
        )

    @property
    def iou(self) -> NDArray[np.float64]:
        """Of each image, percent: of the foreground, or the mean over the classes it holds."""
        if self.classes is not None:
            return self.classes.miou_per_image
        return self.scored[:, SCORES.index("iou")]

    @property
    def field_of_view_percent(self) -> float | None:
        """Pixels inside fields of view, of all; ``None`` where every image counts as a whole."""
        limited, inside, every = (int(self.of(name).sum()) for name in ("limited", "inside", "all"))
        return 100.0 * (inside / every) if limited else None

    def of(self, name: str) -> Counts:
        """One of ``PIXELS``, int64 (N,)."""
        return self.pixels[:, PIXELS.index(name)]


class Tally:
    """Takes images in any order; holds the numbers of each, and pixels in temporary files.

    Args:
        images: the set.
        output: the output contract.
        ranks: whether probabilities come, and not masks.
        shard: the images that come to this process.
    """

    def __init__(
        self, images: SegmentationSet, output: OutputContract, *, ranks: bool, shard: Shard
    ) -> None:
        classes, many = output.channels, len(images)
        self._images, self._output, self._shard = images, output, shard
        self._scored = np.zeros((many, len(SCORES) if output.binary else 0))
        self._counts = np.zeros((many, len(CONFUSION) if output.binary else 3 * classes), np.int64)
        self._pixels = np.zeros((many, len(PIXELS)), np.int64)
        self._matrix = np.zeros((classes, classes), np.int64) if output.exclusive else None
        self._area = PooledArea() if output.binary and ranks else None

    def add(self, one: OneImage) -> None:
        """Take an image."""
        self._scored[one.place] = one.scores
        self._counts[one.place] = one.counts
        self._pixels[one.place] = astuple(one.pixels)
        if self._matrix is not None and one.matrix is not None:
            self._matrix += one.matrix
        if self._area is not None and one.sides is not None:
            self._area.add(one.sides)

    def found(self) -> Found:
        """Of all images of all processes, the same in each.

        Raises:
            RunError: another process ended before.
        """
        shard, mine = self._shard, slice(self._shard.rank, None, self._shard.size)
        tables = self._scored, self._counts, self._pixels
        if shard.size > 1:
            for rank, parts in enumerate(shard.gathered([table[mine] for table in tables])):
                for table, part in zip(tables, parts, strict=True):
                    table[rank :: shard.size] = part
        matrix = self._matrix
        if matrix is not None:
            matrix = np.sum(shard.gathered(matrix), axis=0)
        area = None
        if self._area is not None:
            with self._area:
                area = self._area.percent(shard)
        return Found(
            images=self._images,
            output=self._output,
            scored=self._scored,
            counts=self._counts,
            pixels=self._pixels,
            matrix=matrix,
            auc=area,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageChanges(Sequence[ImageChange]):
    """Every image on both sides, each made when it is asked for."""

    reference: Found
    candidate: Found

    def __len__(self) -> int:
        return len(self.reference.images)

    def __getitem__(self, place: int) -> ImageChange:  # type: ignore[override]  # no slices
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        before, after = self.reference, self.candidate
        name = before.images.samples[place].name
        pixels, differing = (int(after.of(each)[place]) for each in ("counted", "differing"))
        reference_iou, candidate_iou = (float(each[place]) for each in self._iou)
        if not before.output.binary:
            return ImageChange(
                name=name,
                pixels=pixels,
                differing=differing,
                reference_iou=reference_iou,
                candidate_iou=candidate_iou,
            )
        hits, false_alarms, misses = (
            [int(side.counts[place, CONFUSION.index(each)]) for side in (before, after)]
            for each in ("hits", "false_alarms", "misses")
        )
        return ImageParity(
            name=name,
            pixels=pixels,
            truth_foreground=hits[0] + misses[0],
            reference_foreground=hits[0] + false_alarms[0],
            candidate_foreground=hits[1] + false_alarms[1],
            differing=differing,
            reference_iou=reference_iou,
            candidate_iou=candidate_iou,
        )

    @cached_property
    def _iou(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self.reference.iou, self.candidate.iou


def compared(
    reference: Found,
    candidate: Found,
    *,
    names: tuple[str, str],
    max_drop: float,
    max_drop_class: float | None,
    seed: int,
) -> ParityReport:
    """Put a candidate beside the reference.

    Args:
        reference: what it scores.
        candidate: what it scores, and where its classes differ.
        names: of reference and candidate.
        max_drop: largest loss that passes, percentage points.
        max_drop_class: of any class; ``None`` for no such budget.
        seed: of the bootstrap.

    Raises:
        InputError: fewer than two images, or masks without any class.
        UsageError: a budget is negative or not finite.
    """
    images = ImageChanges(reference=reference, candidate=candidate)
    before, after = reference.classes, candidate.classes
    if before is None or after is None:
        return ParityReport(
            reference=names[0],
            candidate=names[1],
            reference_scores=reference.scores,
            candidate_scores=candidate.scores,
            images=images,
            max_drop=max_drop,
            seed=seed,
        )
    return ClassParityReport(
        reference=names[0],
        candidate=names[1],
        reference_scores=reference.scores,
        candidate_scores=candidate.scores,
        images=images,
        max_drop=max_drop,
        seed=seed,
        classes=reference.output.classes,
        before=before,
        after=after,
        max_drop_class=max_drop_class,
    )
