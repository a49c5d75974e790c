from __future__ import annotations

from dataclasses import asdict, fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn import metrics

from segdeploy.benchmarks.scores.accuracy import (
    DEFINITIONS,
    Scores,
    area_under_roc,
    iou_per_image,
    score,
)
from segdeploy.benchmarks.scores.definitions import POOLED
from segdeploy.deploy.data.output_contract import FOREGROUND_PROBABILITY
from segdeploy.deploy.system.errors import InputError, RunError

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6))
GRID = st.integers(0, 8).map(lambda eighth: np.float32(eighth / 8))  # coarse, so that values tie


Case = tuple[NDArray[np.float32], NDArray[np.bool_]]
FieldCase = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    shape = draw(SHAPES)
    probability = draw(hnp.arrays(np.float32, shape, elements=GRID))
    return probability, draw(hnp.arrays(np.bool_, shape))


@st.composite
def field_cases(draw: st.DrawFn) -> FieldCase:
    """A case with a field of view that holds a pixel of every image."""
    probability, truth = draw(cases())
    field = draw(hnp.arrays(np.bool_, truth.shape))
    field[:, draw(st.integers(0, truth.shape[1] - 1)), 0] = True
    return probability, truth, field


def require_sklearns_scores(
    scores: Scores, truth: NDArray[np.bool_], probability: NDArray[np.float32]
) -> None:
    """The scores of one pool of pixels are those of scikit-learn, where that defines them."""
    predicted = probability >= FOREGROUND_PROBABILITY
    assert scores.accuracy == pytest.approx(100 * metrics.accuracy_score(truth, predicted))
    pooled = [
        metrics.jaccard_score(truth == side, predicted == side, zero_division=1)
        for side in (True, False)
    ]
    assert scores.miou == pytest.approx(100 * float(np.mean(pooled)))
    assert scores.dice == pytest.approx(100 * metrics.f1_score(truth, predicted, zero_division=1))
    if predicted.any():
        assert scores.precision == pytest.approx(100 * metrics.precision_score(truth, predicted))
    if truth.any():
        assert scores.sensitivity == pytest.approx(100 * metrics.recall_score(truth, predicted))
    if not truth.all():
        specificity = metrics.recall_score(truth, predicted, pos_label=False)
        assert scores.specificity == pytest.approx(100 * specificity)
    if not truth.any() or truth.all():
        assert scores.auc is None
        return
    balanced = metrics.balanced_accuracy_score(truth, predicted)
    assert (scores.sensitivity + scores.specificity) / 2 == pytest.approx(100 * balanced)
    assert scores.auc == pytest.approx(100 * metrics.roc_auc_score(truth, probability))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_scores_match_sklearn(case: Case) -> None:
    probability, truth = case
    scores = score(probability, truth)
    require_sklearns_scores(scores, truth.ravel(), probability.ravel())
    per_image = [
        metrics.jaccard_score(t.ravel(), p.ravel() >= FOREGROUND_PROBABILITY, zero_division=1)
        for t, p in zip(truth, probability, strict=True)
    ]
    assert scores.iou == pytest.approx(100 * float(np.mean(per_image)))


@settings(max_examples=60, deadline=None)
@given(field_cases())
def test_scores_inside_a_field_match_sklearn_on_its_pixels(case: FieldCase) -> None:
    probability, truth, field = case
    scores = score(probability, truth, field)
    require_sklearns_scores(scores, truth[field], probability[field])
    per_image = [
        metrics.jaccard_score(t[f], p[f] >= FOREGROUND_PROBABILITY, zero_division=1)
        for t, p, f in zip(truth, probability, field, strict=True)
    ]
    assert scores.iou == pytest.approx(100 * float(np.mean(per_image)))


@settings(deadline=None)
@given(cases(), st.data())
def test_a_rectangular_field_scores_as_the_images_cropped_to_it(
    case: Case, data: st.DataObject
) -> None:
    probability, truth = case
    rows, columns = (
        slice(first := data.draw(st.integers(0, length - 1)), first + data.draw(st.integers(1, 6)))
        for length in truth.shape[1:]
    )
    field = np.zeros_like(truth)
    field[:, rows, columns] = True
    cropped = score(probability[:, rows, columns], truth[:, rows, columns])
    assert score(probability, truth, field) == cropped


@settings(deadline=None)
@given(field_cases(), st.integers(0, 2**32 - 1))
def test_what_lies_outside_the_field_counts_nowhere(case: FieldCase, seed: int) -> None:
    probability, truth, field = case
    noise = np.random.default_rng(seed)
    others = np.where(field, probability, noise.random(truth.shape)).astype(np.float32)
    other_truth = np.where(field, truth, noise.random(truth.shape) < 0.5)
    assert score(others, other_truth, field) == score(probability, truth, field)


@settings(deadline=None)
@given(cases())
def test_a_field_of_every_pixel_is_no_limit(case: Case) -> None:
    probability, truth = case
    assert score(probability, truth, np.ones_like(truth)) == score(probability, truth)


@settings(deadline=None)
@given(cases())
def test_scores_are_percent_and_ignore_the_order_of_images(case: Case) -> None:
    probability, truth = case
    scores = score(probability, truth)
    assert all(v is None or 0 <= v <= 100 for v in asdict(scores).values())
    turned = score(probability[::-1], truth[::-1])
    assert asdict(turned) == pytest.approx(asdict(scores))


@settings(deadline=None)
@given(hnp.arrays(np.bool_, SHAPES))
def test_a_perfect_prediction_scores_100_everywhere(truth: NDArray[np.bool_]) -> None:
    scores = asdict(score(truth.astype(np.float32), truth))
    assert all(value in (100.0, None) for value in scores.values())


@settings(deadline=None)
@given(cases())
def test_auc_of_reversed_probabilities_is_the_complement(case: Case) -> None:
    probability, truth = case
    auc = area_under_roc(probability, truth)
    reversed_auc = area_under_roc(1 - probability, truth)
    assert (auc is None) == (reversed_auc is None)
    if auc is not None and reversed_auc is not None:
        assert auc + reversed_auc == pytest.approx(100)


def test_iou_is_averaged_over_images_and_the_rest_over_pixels() -> None:
    """Image 1: 1 of 2 right, IoU 50. Image 2: 8 of 8 right, IoU 100. Pooled IoU would be 90."""
    truth = np.zeros((2, 1, 10), bool)
    truth[0, 0, :2] = truth[1, 0, :8] = True
    probability = truth.astype(np.float32)
    probability[0, 0, 1] = 0.1
    scores = score(probability, truth)
    assert scores.iou == 75
    assert scores.sensitivity == 90
    assert scores.miou == pytest.approx((90 + 100 * 10 / 11) / 2)
    assert scores.dice == pytest.approx(100 * 18 / 19)


def test_a_probability_of_exactly_one_half_is_foreground() -> None:
    half = np.full((1, 1, 1), 0.5, np.float32)
    assert score(half, np.ones((1, 1, 1), bool)).iou == 100


def test_nothing_predicted_of_something_true_scores_zero() -> None:
    truth = np.ones((1, 2, 2), bool)
    scores = score(np.zeros((1, 2, 2), np.float32), truth)
    assert (scores.precision, scores.sensitivity, scores.dice, scores.iou) == (0, 0, 0, 0)
    assert scores.specificity == 0  # background predicted where none is true


def test_every_score_has_its_definition() -> None:
    assert list(POOLED) == [field.name for field in fields(Scores)]
    assert all(text.endswith(".") for text in DEFINITIONS.values())


def test_empty_images_agree_completely() -> None:
    nothing = np.zeros((2, 3, 3), bool)
    assert iou_per_image(nothing, nothing).tolist() == [100, 100]


@pytest.mark.parametrize(
    ("probability", "error", "message"),
    [
        (np.zeros((1, 2, 3)), InputError, "shape"),
        (np.full((1, 2, 2), np.nan), RunError, "4 of 4 predicted values are NaN"),
        (np.full((1, 2, 2), 3.0), InputError, "logits"),
        (np.full((1, 2, 2), -3.0), InputError, "logits"),
    ],
)
def test_values_that_are_no_probabilities_are_refused(
    probability: NDArray[np.float64], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        score(probability.astype(np.float32), np.zeros((1, 2, 2), bool))


def test_scores_of_a_set_without_fields_stay_what_they_were() -> None:
    """Golden: the figures of version 0.1, from before there were fields of view."""
    i = np.arange(3 * 8 * 8)
    probability = (i * 37 + 11) % 101 / 100
    truth = (i * 53 + 7) % 97 < 40
    scores = score(probability.astype(np.float32).reshape(3, 8, 8), truth.reshape(3, 8, 8))
    assert scores == Scores(
        iou=30.144927536231886,
        miou=33.6165757693806,
        dice=46.32768361581921,
        precision=42.2680412371134,
        sensitivity=51.25,
        specificity=50.0,
        accuracy=50.520833333333336,
        auc=51.2109375,
    )


NOWHERE = np.array([[[True, True]], [[False, False]]])


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (np.ones((2, 2, 1), bool), r"bool \(2, 2, 1\), the masks are bool \(2, 1, 2\)"),
        (np.ones((2, 1, 2), np.uint8), "uint8"),
        (NOWHERE, "1 of 2 images holds no pixel at 2x1, first that of image 1"),
    ],
)
def test_a_field_that_leaves_nothing_or_does_not_fit_is_refused(
    field: NDArray[np.bool_], message: str
) -> None:
    truth = np.zeros((2, 1, 2), bool)
    for call in (
        lambda: score(truth.astype(np.float32), truth, field),
        lambda: iou_per_image(truth, truth, field),
    ):
        with pytest.raises(InputError, match=message):
            call()
