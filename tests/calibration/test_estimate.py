import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.estimate import SEARCH_METHODS, CalibrationRange, Method, estimate
from segdeploy.calibration.histogram import TensorHistogram

VALUES = hnp.arrays(
    np.float32,
    st.integers(1, 300),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    | st.floats(-8, 8, width=32)
    | st.just(0.0),
)


@settings(deadline=None)
@given(VALUES, st.sampled_from(SEARCH_METHODS))
def test_every_range_includes_zero_and_stays_within_what_was_seen(values, method):
    found = estimate(TensorHistogram.of(values), method=method)
    assert min(values.min(), 0) <= found.min <= 0 <= found.max <= max(values.max(), 0)
    assert (found.observed_min, found.observed_max) == (values.min(), values.max())
    assert found.method is method
    assert np.float32(found.min) == found.min
    assert np.float32(found.max) == found.max
    assert (found.divergence is None) == (method is not Method.ENTROPY or bool(found.fallback))


@settings(deadline=None)
@given(VALUES)
def test_minmax_clips_nothing(values):
    found = estimate(TensorHistogram.of(values), method=Method.MINMAX)
    assert (found.min, found.max) == (min(values.min(), 0), max(values.max(), 0))
    assert found.share_clipped == 0


def test_signed_range_is_symmetric_where_the_data_reach_and_shorter_where_they_do_not():
    values = np.random.default_rng(0).laplace(size=500_000).astype(np.float32)
    found = estimate(TensorHistogram.of(values), method=Method.ENTROPY)
    assert -found.min == found.max < values.max()
    assert found.candidates == 1921
    leaky = np.where(values < 0, values * np.float32(0.01), values)
    found = estimate(TensorHistogram.of(leaky), method=Method.ENTROPY)
    assert found.min == leaky.min()


def test_share_clipped_is_what_lies_outside():
    values = np.random.default_rng(1).laplace(size=500_000).astype(np.float32)
    found = estimate(TensorHistogram.of(values), method=Method.ENTROPY)
    outside = np.mean((values < found.min) | (values > found.max))
    assert outside > 0
    assert found.share_clipped == pytest.approx(outside, rel=0.05)


def test_all_negative_values_end_at_zero():
    values = -np.abs(np.random.default_rng(2).normal(size=50_000)).astype(np.float32)
    for method in SEARCH_METHODS:
        found = estimate(TensorHistogram.of(values), method=method)
        assert found.max == 0
        assert found.min < -2


@pytest.mark.parametrize("values", [np.zeros(9), np.full(9, 2.5), np.array([-4.0])])
def test_degenerate_tensors_say_they_fell_back(values):
    found = estimate(TensorHistogram.of(values.astype(np.float32)), method=Method.ENTROPY)
    assert (found.min, found.max) == (min(values.min(), 0), max(values.max(), 0))
    assert found.fallback
    assert (found.candidates, found.divergence, found.share_clipped) == (0, None, 0)


def test_the_same_histogram_gives_the_same_range_bit_for_bit():
    values = np.random.default_rng(3).normal(size=60_000).astype(np.float32)
    halves = TensorHistogram.of(values[30_000:]) + TensorHistogram.of(values[:30_000])
    for method in SEARCH_METHODS:
        assert estimate(halves, method=method) == estimate(
            TensorHistogram.of(values), method=method
        )


def test_imported_is_not_a_search():
    with pytest.raises(CalibrationError, match="'imported' cannot be estimated"):
        estimate(TensorHistogram.of(np.ones(3, np.float32)), method=Method.IMPORTED)


VALID = CalibrationRange(
    min=-1.0,
    max=2.0,
    observed_min=-3.0,
    observed_max=4.0,
    method=Method.ENTROPY,
    divergence=0.1,
    candidates=7,
    share_clipped=0.5,
    fallback=None,
)


@pytest.mark.parametrize(
    "change",
    [
        {"min": float("nan")},
        {"max": float("inf")},
        {"min": 3.0},
        {"min": 0.5},
        {"max": -0.5},
        {"observed_min": 5.0},
        {"divergence": -0.1},
        {"divergence": float("nan")},
        {"divergence": float("inf")},
        {"candidates": -1},
        {"share_clipped": 1.5},
        {"share_clipped": float("nan")},
    ],
)
def test_range_that_cannot_be_is_refused(change):
    with pytest.raises(CalibrationError):
        dataclasses.replace(VALID, **change)
