from __future__ import annotations

from dataclasses import asdict, fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn import metrics

from benchmarks.accuracy import (
    DEFINITIONS,
    FOREGROUND_PROBABILITY,
    Scores,
    area_under_roc,
    iou_per_image,
    score,
)
from deploy.errors import InputError, RunError

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6))
GRID = st.integers(0, 8).map(lambda eighth: np.float32(eighth / 8))  # coarse, so that values tie


@st.composite
def cases(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    shape = draw(SHAPES)
    probability = draw(hnp.arrays(np.float32, shape, elements=GRID))
    return probability, draw(hnp.arrays(np.bool_, shape))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_scores_match_sklearn(case: tuple[NDArray[np.float32], NDArray[np.bool_]]) -> None:
    probability, truth = case
    flat, predicted = truth.ravel(), (probability >= FOREGROUND_PROBABILITY).ravel()
    scores = score(probability, truth)
    assert scores.accuracy == pytest.approx(100 * metrics.accuracy_score(flat, predicted))
    per_image = [
        metrics.jaccard_score(t.ravel(), p.ravel() >= FOREGROUND_PROBABILITY, zero_division=1)
        for t, p in zip(truth, probability, strict=True)
    ]
    assert scores.iou == pytest.approx(100 * float(np.mean(per_image)))
    pooled = [
        metrics.jaccard_score(flat == side, predicted == side, zero_division=1)
        for side in (True, False)
    ]
    assert scores.miou == pytest.approx(100 * float(np.mean(pooled)))
    assert scores.dice == pytest.approx(100 * metrics.f1_score(flat, predicted, zero_division=1))
    if predicted.any():
        assert scores.precision == pytest.approx(100 * metrics.precision_score(flat, predicted))
    if flat.any():
        assert scores.sensitivity == pytest.approx(100 * metrics.recall_score(flat, predicted))
    if not flat.all():
        specificity = metrics.recall_score(flat, predicted, pos_label=False)
        assert scores.specificity == pytest.approx(100 * specificity)
    if flat.any() and not flat.all():
        auc = metrics.roc_auc_score(flat, probability.ravel())
        assert scores.auc == pytest.approx(100 * auc)
    else:
        assert scores.auc is None


@settings(deadline=None)
@given(cases())
def test_scores_are_percent_and_ignore_the_order_of_images(
    case: tuple[NDArray[np.float32], NDArray[np.bool_]],
) -> None:
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
def test_auc_of_reversed_probabilities_is_the_complement(
    case: tuple[NDArray[np.float32], NDArray[np.bool_]],
) -> None:
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
    assert list(DEFINITIONS) == [field.name for field in fields(Scores)]
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
