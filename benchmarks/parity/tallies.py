"""What is kept of a model's predictions over a set: scores of each image, never its pixels."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from segdeploy.benchmarks.parity.evaluation import ClassSpool, Seen, classes_of
from segdeploy.benchmarks.parity.report import (
    ClassParityReport,
    ImageChange,
    ImageParity,
    ParityReport,
)
from segdeploy.benchmarks.scores.accuracy import Scores, scores_of
from segdeploy.benchmarks.scores.classes import ClassCounts, ClassTally
from segdeploy.benchmarks.scores.confusion import Confusion
from segdeploy.benchmarks.scores.image_scores import ImageScores, PerImage, score_images
from segdeploy.benchmarks.scores.pooled_area import PooledArea
from segdeploy.deploy.data.image_set import Truth
from segdeploy.deploy.data.output_contract import OutputContract


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one model, or a device, scores over a set.

    Attributes:
        scores: over all pixels.
        image_scores: of each image; ``None`` of several classes.
        counts: of several classes; ``None`` of one label.
        output: the output contract.
    """

    scores: Scores
    image_scores: ImageScores | None
    counts: ClassCounts | None
    output: OutputContract


class Tally(Protocol):
    """Scores images as they come."""

    def add(self, seen: Seen) -> None:
        """Take an image."""

    def found(self) -> Found:
        """Of all images that were taken."""


class OneLabelTally:
    """Of one label.

    Args:
        ranks: whether probabilities come, and not masks, which have no area under the curve.
    """

    def __init__(self, *, ranks: bool) -> None:
        self.area = PooledArea() if ranks else None
        # NaN where an image has no score: a number takes 8 bytes here, an object 32.
        self._values = {one.name: array("d") for one in fields(ImageScores)}
        self._counts = {one.name: array("q") for one in fields(Confusion)}

    def add(self, seen: Seen) -> None:
        """Take an image.

        Raises:
            InputError: as ``score_images``.
            RunError: likewise.
        """
        truth = np.asarray(seen.truth, np.bool_)
        counted = None if seen.counted is None else seen.counted[None]
        scores = score_images(seen.probability, truth[None], counted)
        for name, values in self._values.items():
            (value,) = getattr(scores, name).values
            values.append(math.nan if value is None else value)
        predicted = classes_of(seen.probability, OutputContract()).astype(np.bool_)
        counts = Confusion.count(predicted[None], truth[None], counted)
        for name, pixels in self._counts.items():
            pixels.extend(getattr(counts, name).tolist())
        if self.area is not None:
            inside = ... if seen.counted is None else seen.counted
            self.area.add(seen.probability[0][inside], truth[inside])

    def found(self) -> Found:
        """Of all images that were taken."""
        counts = Confusion(**{name: np.array(each) for name, each in self._counts.items()})
        images = {
            name: PerImage(values=tuple(None if math.isnan(value) else value for value in each))
            for name, each in self._values.items()
        }
        area = None
        if self.area is not None:
            with self.area:
                area = self.area.percent()
        return Found(
            scores=scores_of(counts, auc=area),
            image_scores=ImageScores(**images),
            counts=None,
            output=OutputContract(),
        )


class ManyClassesTally:
    """Of several classes.

    Args:
        output: the output contract.
    """

    def __init__(self, output: OutputContract) -> None:
        self._tally = ClassTally(output)

    def add(self, seen: Seen) -> None:
        """Take an image."""
        inside = self._tally.inside(seen.truth, seen.counted)
        self._tally.add(classes_of(seen.probability, self._tally.output), seen.truth, inside)

    def found(self) -> Found:
        """Of all images that were taken.

        Raises:
            InputError: the truth holds no class at all.
        """
        counts = self._tally.counts()
        return Found(
            scores=counts.scores(), image_scores=None, counts=counts, output=self._tally.output
        )


def tally_of(output: OutputContract, *, ranks: bool) -> Tally:
    """Of a model with an output contract.

    Args:
        output: the contract.
        ranks: whether probabilities come, and not masks.
    """
    return OneLabelTally(ranks=ranks) if output.binary else ManyClassesTally(output)


def scored(
    seen: Iterable[Seen], output: OutputContract, *, ranks: bool, spool: ClassSpool
) -> Found:
    """Score the reference, and keep its classes for the candidates.

    Args:
        seen: every image, taken once.
        output: the output contract.
        ranks: whether probabilities come, and not masks.
        spool: empty; holds the classes of each image then.
    """
    tally = tally_of(output, ranks=ranks)
    for one in seen:
        tally.add(one)
        spool.add(classes_of(one.probability, output))
    return tally.found()


def compared(
    seen: Iterable[Seen],
    reference: Found,
    classes: Iterable[Truth],
    *,
    names: tuple[str, str],
    ranks: bool,
    max_drop: float,
    max_drop_class: float | None,
    seed: int,
) -> tuple[Found, ParityReport]:
    """Score a candidate beside the reference.

    Args:
        seen: every image, taken once.
        reference: what ``scored`` found.
        classes: the reference's, of each image.
        names: of reference and candidate.
        ranks: whether probabilities come, and not masks.
        max_drop: largest loss that passes, percentage points.
        max_drop_class: of any class; ``None`` for no such budget.
        seed: of the bootstrap.

    Raises:
        InputError: fewer than two images, or as the tallies.
        UsageError: a budget is negative or not finite.
    """
    output = reference.output
    tally, changes = tally_of(output, ranks=ranks), _Changes(output)
    for one, expected in zip(seen, classes, strict=True):
        tally.add(one)
        changes.add(one, expected)
    found = tally.found()
    if found.counts is None or reference.counts is None:
        images = changes.of_one_label(reference, found)
        return found, ParityReport(
            reference=names[0],
            candidate=names[1],
            reference_scores=reference.scores,
            candidate_scores=found.scores,
            images=images,
            max_drop=max_drop,
            seed=seed,
        )
    return found, ClassParityReport(
        reference=names[0],
        candidate=names[1],
        reference_scores=reference.scores,
        candidate_scores=found.scores,
        images=changes.of_classes(reference.counts, found.counts),
        max_drop=max_drop,
        seed=seed,
        classes=output.classes,
        before=reference.counts,
        after=found.counts,
        max_drop_class=max_drop_class,
    )


class _Changes:
    """Pixels of each image that changed their class, and the foreground on both sides."""

    def __init__(self, output: OutputContract) -> None:
        self._output, self._inside = output, ClassTally(output).inside
        self._names: list[str] = []
        self._pixels, self._differing = array("q"), array("q")
        self._foreground = array("q"), array("q"), array("q")

    def add(self, seen: Seen, expected: Truth) -> None:
        found = classes_of(seen.probability, self._output)
        inside = self._inside(seen.truth, seen.counted)
        differs = found != expected
        if differs.ndim == 3:  # a pixel differs where any of its labels does
            differs = differs.any(axis=0)
        differing = int(np.count_nonzero(differs if inside is None else differs & inside))
        pixels = differs.size if inside is None else int(np.count_nonzero(inside))
        self._names.append(seen.name)
        self._pixels.append(pixels)
        self._differing.append(differing)
        if self._output.binary:
            masks = (seen.truth, expected, found)
            kept = [mask if inside is None else mask & inside for mask in masks]
            for counts, mask in zip(self._foreground, kept, strict=True):
                counts.append(int(np.count_nonzero(mask)))

    def of_one_label(self, reference: Found, found: Found) -> tuple[ImageChange, ...]:
        assert reference.image_scores is not None
        assert found.image_scores is not None
        iou = reference.image_scores.iou.defined, found.image_scores.iou.defined
        rows = zip(self._names, self._pixels, self._differing, *self._foreground, *iou, strict=True)
        return tuple(
            ImageParity(
                name=name,
                pixels=pixels,
                truth_foreground=truth,
                reference_foreground=reference_foreground,
                candidate_foreground=candidate_foreground,
                differing=differing,
                reference_iou=reference_iou,
                candidate_iou=candidate_iou,
            )
            for (
                name,
                pixels,
                differing,
                truth,
                reference_foreground,
                candidate_foreground,
                reference_iou,
                candidate_iou,
            ) in rows
        )

    def of_classes(self, before: ClassCounts, after: ClassCounts) -> tuple[ImageChange, ...]:
        return tuple(
            ImageChange(
                name=name,
                pixels=pixels,
                differing=differing,
                reference_iou=float(reference_iou),
                candidate_iou=float(candidate_iou),
            )
            for name, pixels, differing, reference_iou, candidate_iou in zip(
                self._names,
                self._pixels,
                self._differing,
                before.miou_per_image,
                after.miou_per_image,
                strict=True,
            )
        )
