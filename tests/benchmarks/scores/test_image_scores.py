from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.spatial.distance import directed_hausdorff
from sklearn import metrics

from segdeploy.benchmarks.scores.accuracy import iou_per_image, score
from segdeploy.benchmarks.scores.definitions import DEFINITIONS, PER_IMAGE, POOLED
from segdeploy.benchmarks.scores.image_scores import ImageScores, PerImage, score_images
from segdeploy.deploy.data.output_contract import FOREGROUND_PROBABILITY
from segdeploy.deploy.system.errors import InputError, RunError

NAMES = [field.name for field in fields(ImageScores)]
GRID = st.integers(0, 8).map(lambda eighth: np.float32(eighth / 8))  # coarse, so that values tie
Case = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Probabilities, truth, and a field of view that holds a pixel of every image."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6)))
    probability = draw(hnp.arrays(np.float32, shape, elements=GRID))
    truth, field = draw(hnp.arrays(np.bool_, shape)), draw(hnp.arrays(np.bool_, shape))
    field[:, draw(st.integers(0, shape[1] - 1)), 0] = True
    return probability, truth, field


@settings(deadline=None)
@given(cases(), st.randoms())
def test_each_image_is_scored_on_its_own_wherever_it_stands(case: Case, random: Random) -> None:
    probability, truth, field = case
    order = list(range(len(truth)))
    random.shuffle(order)
    scores = score_images(probability, truth, field)
    turned = score_images(probability[order], truth[order], field[order])
    alone = [score_images(*(part[i : i + 1] for part in case)) for i in order]
    for name in NAMES:
        expected = tuple(getattr(scores, name).values[i] for i in order)
        assert getattr(turned, name).values == expected
        assert tuple(getattr(one, name).values[0] for one in alone) == expected


@settings(deadline=None)
@given(cases())
def test_dice_is_never_below_iou_in_one_averaging(case: Case) -> None:
    images = score_images(*case)
    for iou, dice in zip(images.iou.values, images.dice_per_image.values, strict=True):
        assert iou is not None
        assert dice is not None
        assert dice >= iou
    assert (images.dice_per_image.mean or 0) >= (images.iou.mean or 0) - 1e-9


@settings(deadline=None)
@given(cases())
def test_one_image_alone_has_the_pooled_scores(case: Case) -> None:
    """One rule for each score, over one image or over all: of one image they agree."""
    first = tuple(part[:1] for part in case)
    pooled, images = score(*first), score_images(*first)
    assert images.iou.mean == pooled.iou
    for name in POOLED.keys() - {"iou"}:
        assert getattr(images, f"{name}_per_image").mean == getattr(pooled, name)


@settings(deadline=None)
@given(cases())
def test_the_mean_of_iou_is_the_published_metric(case: Case) -> None:
    probability, truth, field = case
    images = score_images(probability, truth, field)
    assert images.iou.mean == score(probability, truth, field).iou
    prediction = probability >= FOREGROUND_PROBABILITY
    assert images.iou.values == tuple(iou_per_image(prediction, truth, field))


@settings(deadline=None)
@given(cases(), st.data())
def test_a_rectangular_field_scores_as_the_images_cropped_to_it(
    case: Case, data: st.DataObject
) -> None:
    """Distances too: what lies outside the field is no goal."""
    probability, truth, _ = case
    rows, columns = (
        slice(first := data.draw(st.integers(0, length - 1)), first + data.draw(st.integers(1, 6)))
        for length in truth.shape[1:]
    )
    field = np.zeros_like(truth)
    field[:, rows, columns] = True
    cropped = score_images(probability[:, rows, columns], truth[:, rows, columns])
    assert score_images(probability, truth, field) == cropped


@settings(max_examples=60, deadline=None)
@given(cases())
def test_every_image_matches_sklearn_and_scipy(case: Case) -> None:
    images = score_images(*case)
    for i, (probability, truth, field) in enumerate(zip(*case, strict=True)):
        true, seen = truth[field], probability[field]
        predicted = seen >= FOREGROUND_PROBABILITY
        assert percent(images.dice_per_image, i, metrics.f1_score, true, predicted)
        right = metrics.accuracy_score(true, predicted)
        assert images.accuracy_per_image.values[i] == pytest.approx(100 * right)
        assert percent(images.iou, i, metrics.jaccard_score, true, predicted)
        other = metrics.jaccard_score(~true, ~predicted, zero_division=1)
        assert images.miou_per_image.values[i] == pytest.approx(
            (images.iou.values[i] + 100 * other) / 2
        )
        if predicted.any():
            assert percent(images.precision_per_image, i, metrics.precision_score, true, predicted)
        if true.any():
            assert percent(images.sensitivity_per_image, i, metrics.recall_score, true, predicted)
        if not true.all():
            assert percent(images.specificity_per_image, i, metrics.recall_score, ~true, ~predicted)
        area = None
        if true.any() and not true.all():
            area = pytest.approx(100 * metrics.roc_auc_score(true, seen))
        assert images.auc_per_image.values[i] == area
        shown = (probability >= FOREGROUND_PROBABILITY) & field
        one, two = np.argwhere(shown), np.argwhere(truth & field)
        if len(one) and len(two):
            apart = max(directed_hausdorff(one, two)[0], directed_hausdorff(two, one)[0])
            assert images.hausdorff.values[i] == pytest.approx(apart)
        else:
            assert images.hausdorff.values[i] == (0.0 if len(one) == len(two) else None)


def percent(
    found: PerImage,
    i: int,
    oracle: Callable[..., float],
    true: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
) -> bool:
    """Whether one image's score is a hundred times the oracle's."""
    expected: bool = found.values[i] == pytest.approx(
        100 * oracle(true, predicted, zero_division=1)
    )
    return expected


def test_images_without_a_value_are_left_out_and_counted() -> None:
    """Image 0: 3 pixels apart. Image 1: nothing predicted. Image 2: nothing on either side."""
    truth = np.zeros((3, 5, 5), bool)
    probability = np.zeros((3, 5, 5), np.float32)
    truth[0, 0, 0] = truth[1, 2, 2] = True
    probability[0, 0, 3] = 1
    scores = score_images(probability, truth)
    for distance in (scores.hausdorff, scores.hausdorff95):
        assert distance == PerImage(values=(3.0, None, 0.0))
        assert (distance.mean, distance.left_out) == (1.5, 1)
    assert scores.auc_per_image.left_out == 1
    assert scores.dice_per_image.values == (0, 0, 100)


def test_a_score_no_image_has_is_no_number() -> None:
    nowhere = PerImage(values=(None, None))
    assert nowhere.mean is None
    assert nowhere.left_out == 2


@pytest.mark.parametrize("values", [(), (1.0, float("nan")), (float("inf"),)])
def test_values_that_are_no_scores_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected finite values or None"):
        PerImage(values=values)


def test_every_name_has_one_definition() -> None:
    assert list(PER_IMAGE) == [name for name in NAMES if name != "iou"]
    assert list(DEFINITIONS) == [*POOLED, *PER_IMAGE]
    assert len(set(DEFINITIONS.values())) == len(POOLED) + len(PER_IMAGE)
    assert all(text.endswith(".") for text in DEFINITIONS.values())


def test_what_is_no_probability_and_a_field_without_pixels_are_refused() -> None:
    truth = np.zeros((1, 2, 2), bool)
    with pytest.raises(RunError, match="NaN"):
        score_images(np.full((1, 2, 2), np.nan, np.float32), truth)
    with pytest.raises(InputError, match="holds no pixel"):
        score_images(np.zeros((1, 2, 2), np.float32), truth, truth)
