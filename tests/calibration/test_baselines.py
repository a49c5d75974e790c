import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segdeploy.calibration.baselines import (
    minmax_threshold,
    mse_threshold,
    percentile_threshold,
    squared_errors,
)
from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.histogram import TensorHistogram


def slow_squared_error(counts, length, levels):
    centres = np.arange(len(counts)) + 0.5
    step = length / (levels - 1)
    level = np.clip(np.floor(centres / step + 0.5), 0, levels - 1)
    return float((counts * (centres - level * step) ** 2).sum())


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=9, max_size=60), st.integers(2, 9))
def test_squared_errors_are_the_definition(counts, levels):
    counts = np.array(counts, np.float64)
    found = squared_errors(counts, levels)
    expected = [slow_squared_error(counts, i, levels) for i in range(levels, counts.size + 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_mse_threshold_beats_its_neighbours_on_the_data_itself():
    values = np.abs(np.random.default_rng(0).laplace(size=200_000)).astype(np.float32)
    found = mse_threshold(TensorHistogram.of(values)).value

    def error(threshold):
        step = threshold / 255
        return float(((values - np.clip(np.rint(values / step), 0, 255) * step) ** 2).mean())

    assert error(found) < min(error(found * 0.9), error(found * 1.1), error(values.max()))


def test_mse_falls_back_and_says_so():
    zero = mse_threshold(TensorHistogram.of(np.zeros(5, np.float32)))
    assert (zero.value, zero.fallback) == (0.0, "every value is zero")
    one = mse_threshold(TensorHistogram.of(np.ones(5, np.float32)), num_bins=256)
    assert "one candidate" in one.fallback


def test_mse_of_a_constant_keeps_it():
    assert mse_threshold(TensorHistogram.of(np.full(9, 3.5, np.float32))).value >= 3.5 * 0.998


@given(st.floats(1, 100), st.integers(0, 2**32 - 1))
def test_percentile_is_the_order_statistic_up_to_a_bin(percentile, seed):
    values = np.abs(np.random.default_rng(seed).normal(size=997)).astype(np.float32)
    found = percentile_threshold(TensorHistogram.of(values), percentile=percentile).value
    exact = float(np.percentile(values, percentile, method="inverted_cdf"))
    assert exact <= found * (1 + 1e-9)
    assert found <= exact * (1 + 2**-11)


def test_percentile_of_mostly_zeros_falls_back():
    values = np.append(np.zeros(99_999), 5).astype(np.float32)
    found = percentile_threshold(TensorHistogram.of(values))
    assert (found.value, found.fallback) == (5.0, "99.99 % of the values are zero")


@pytest.mark.parametrize("percentile", [0, -1, 100.5, float("nan")])
def test_percentile_out_of_place_is_refused(percentile):
    with pytest.raises(CalibrationError, match="percentile is"):
        percentile_threshold(TensorHistogram.of(np.ones(3, np.float32)), percentile=percentile)


def test_minmax_is_exact():
    values = np.array([-7.123456, 3], np.float32)
    assert minmax_threshold(TensorHistogram.of(values)).value == -values[0]
