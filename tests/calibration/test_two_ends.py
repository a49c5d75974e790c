"""The range of least squared error with both ends free."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from segdeploy.calibration.estimate import MOST_LOST_DB, Method, estimate
from segdeploy.calibration.histogram import TensorHistogram
from segdeploy.calibration.noise import Noise
from segdeploy.calibration.qparams import QuantType, dequantize, from_range, quantize
from segdeploy.calibration.two_ends import least_error, loss_db, noise_within

RNG = np.random.default_rng(4)
NORMAL = RNG.normal(0, 1, 60000).astype(np.float32)
SHAPES = {
    "leaky": np.where(NORMAL < 0, NORMAL * 0.1, NORMAL),
    "silu": NORMAL * 3 / (1 + np.exp(-NORMAL * 3)),
    "heavy": NORMAL * np.abs(NORMAL) ** 1.5,
    "flipped": -np.where(NORMAL < 0, NORMAL * 0.1, NORMAL),
    "normal": NORMAL,
    "relu": np.maximum(NORMAL, 0),
    "spike": np.append(np.full(90000, 3.0), np.abs(NORMAL) * 2),
    "below zero": -np.abs(NORMAL),
}


def values_of(name: str) -> NDArray[np.float32]:
    return SHAPES[name].astype(np.float32)


def measured(values: NDArray[np.float32], low: float, high: float) -> float:
    """The squared error of the values themselves, through the integers."""
    params = from_range(low, high, dtype=QuantType.U8, symmetric=False)
    return Noise.between(values, dequantize(quantize(values, params), params)).noise


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_noise_is_that_of_the_values(name: str, share: float) -> None:
    values = values_of(name)
    low, high = min(float(values.min()), 0.0) * share, max(float(values.max()), 0.0) * share
    told = noise_within(TensorHistogram.of(values), low, high)
    off = abs(10 * np.log10(told / measured(values, low, high)))
    assert off < (2.5 if name == "spike" else 0.5)  # a spike lies on one side of a step


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "spike"])
def test_no_pair_of_ends_is_much_better_than_the_best(name: str) -> None:
    values = values_of(name)
    best = least_error(TensorHistogram.of(values))
    found = measured(values, best.low, best.high)
    for low in np.linspace(min(float(values.min()), 0.0), 0, 9):
        for high in np.linspace(0, max(float(values.max()), 0.0), 9):
            if low < high:
                assert found <= measured(values, float(low), float(high)) * 1.06


@pytest.mark.parametrize("name", SHAPES)
def test_a_checked_range_loses_little(name: str) -> None:
    histogram = TensorHistogram.of(values_of(name))
    found = estimate(histogram, method=Method.ENTROPY, checked=True)
    assert loss_db(histogram, found.min, found.max, least_error(histogram)) <= MOST_LOST_DB
    plain = estimate(histogram, method=Method.ENTROPY)
    assert (found == plain) == (found.fallback is None)


@pytest.mark.parametrize("name", ["leaky", "silu", "spike"])
def test_the_kl_search_alone_would_clip_a_small_lobe_or_a_spike_too_much(name: str) -> None:
    histogram = TensorHistogram.of(values_of(name))
    found = estimate(histogram, method=Method.ENTROPY, checked=True)
    plain = estimate(histogram, method=Method.ENTROPY)
    assert found.max > plain.max
    assert "dB more noise" in (found.fallback or "")


def test_other_methods_are_not_checked() -> None:
    histogram = TensorHistogram.of(values_of("leaky"))
    for method in (Method.PERCENTILE, Method.MSE, Method.MINMAX):
        assert estimate(histogram, method=method, checked=True) == estimate(
            histogram, method=method
        )


def test_zeros_alone_have_a_range_without_noise() -> None:
    histogram = TensorHistogram.of(np.zeros(5, np.float32))
    best = least_error(histogram)
    assert (best.low, best.high, best.noise) == (0, 0, 0)
    assert estimate(histogram, method=Method.ENTROPY, checked=True).max == 0
