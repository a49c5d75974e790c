"""One image scored, by itself: numbers alone, and the same in whichever process."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.parity.answers import Seen, classes_of
from segdeploy.benchmarks.scores.classes import class_counts, inside_of
from segdeploy.benchmarks.scores.confusion import Confusion, Counts
from segdeploy.benchmarks.scores.image_scores import ImageScores, score_images
from segdeploy.benchmarks.scores.pooled_area import Sides, sides_of
from segdeploy.deploy.data.image_set import Truth
from segdeploy.deploy.data.output_contract import OutputContract

SCORES = tuple(each.name for each in fields(ImageScores))
"""Columns of scores of one label."""

CONFUSION = tuple(each.name for each in fields(Confusion))
"""Columns of counts of one label."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pixels:
    """How many pixels of an image are meant.

    Attributes:
        counted: that count.
        differing: of those, whose class is another than the reference saw.
        inside: the field of view, whatever the truth there.
        all: of the image.
        limited: 1 where the image has a field of view, else 0.
    """

    counted: int
    differing: int
    inside: int
    all: int
    limited: int


@dataclass(frozen=True, kw_only=True, eq=False)
class OneImage:
    """What is kept of an image.

    Attributes:
        place: in the set.
        scores: of one label: ``SCORES``, NaN where the image has none; of several classes none.
        counts: of one label: ``CONFUSION``; of several classes (3 K,), the pixels on both sides,
            predicted and true.
        pixels: how many are meant.
        matrix: pixels by true and predicted class (K, K), of classes that exclude each other.
        sides: what the area under the curve needs, where there is one.
        classes: what was seen, where it is to be kept.
    """

    place: int
    scores: NDArray[np.float64]
    counts: Counts
    pixels: Pixels
    matrix: Counts | None
    sides: Sides | None
    classes: Truth | None


def scored(seen: Seen, output: OutputContract, *, ranks: bool) -> OneImage:
    """Score an image.

    Args:
        seen: what was said of it; its classes are kept where nothing was expected of them.
        output: the output contract.
        ranks: whether it gave probabilities, and not masks.

    Raises:
        InputError: as ``score_images``.
        RunError: likewise.
    """
    classes = classes_of(seen.probability, output)
    inside = inside_of(output, seen.truth, seen.counted)
    height, width = seen.truth.shape[-2:]
    pixels = Pixels(
        counted=height * width if inside is None else int(np.count_nonzero(inside)),
        differing=_differing(classes, seen.expected, inside),
        inside=height * width if seen.counted is None else int(np.count_nonzero(seen.counted)),
        all=height * width,
        limited=int(seen.counted is not None),
    )
    kept = classes if seen.expected is None else None
    if not output.binary:
        counts, matrix = class_counts(classes, seen.truth, inside, output)
        return OneImage(
            place=seen.place,
            scores=np.zeros(0),
            counts=counts.ravel(),
            pixels=pixels,
            matrix=matrix,
            sides=None,
            classes=kept,
        )
    truth = np.asarray(seen.truth, np.bool_)
    field = None if seen.counted is None else seen.counted[None]
    scores = score_images(seen.probability, truth[None], field)
    confusion = Confusion.count(np.asarray(classes, np.bool_)[None], truth[None], field)
    meant = ... if seen.counted is None else seen.counted
    return OneImage(
        place=seen.place,
        scores=np.array([getattr(scores, name).array[0] for name in SCORES]),
        counts=np.array([getattr(confusion, name)[0] for name in CONFUSION]),
        pixels=pixels,
        matrix=None,
        sides=sides_of(seen.probability[0][meant], truth[meant]) if ranks else None,
        classes=kept,
    )


def _differing(classes: Truth, expected: Truth | None, inside: NDArray[np.bool_] | None) -> int:
    """Pixels of another class than expected; one where any of its labels is another."""
    if expected is None:
        return 0
    differs = np.asarray(classes != expected)
    if differs.ndim == 3:
        differs = np.asarray(differs.any(axis=0))
    return int(np.count_nonzero(differs if inside is None else differs & inside))
