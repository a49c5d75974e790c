"""Noise adds up over parts; weights show what one scale costs; 8 bits reach what they should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segdeploy.calibration.baselines import reachable_noise
from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.histogram import TensorHistogram
from segdeploy.calibration.noise import SILENCE, Noise
from segdeploy.calibration.qparams import QuantType, dequantize, from_range, quantize
from segdeploy.calibration.weight_spread import weight_spread

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, cut=st.integers(1, 99))
def test_noise_of_the_parts_adds_up_to_that_of_the_whole(seed: int, cut: int) -> None:
    generator = np.random.default_rng(seed)
    wanted, found = generator.normal(size=(2, 100)).astype(np.float32)
    whole = Noise.between(wanted, found)
    parts = [Noise.between(wanted[:cut], found[:cut]), Noise.between(wanted[cut:], found[cut:])]
    total = SILENCE + parts[0] + parts[1]
    assert total.signal == pytest.approx(whole.signal)
    assert total.noise == pytest.approx(whole.noise)
    assert total.sqnr_db == pytest.approx(whole.sqnr_db)


def test_a_tenth_of_the_amplitude_is_20_db_whatever_the_unit() -> None:
    wanted = np.array([3.0, -4.0])
    for unit in (1e-6, 1.0, 1e6):
        assert Noise.between(wanted * unit, wanted * unit * 1.1).sqnr_db == pytest.approx(20)


def test_without_noise_or_signal_there_is_no_ratio() -> None:
    ones, zeros = np.ones(3), np.zeros(3)
    assert Noise.between(ones, ones).sqnr_db is None
    assert Noise.between(zeros, ones).sqnr_db is None
    assert SILENCE.sqnr_db is None


@pytest.mark.parametrize(
    ("wanted", "found"), [([1.0], [1.0, 2.0]), ([1.0], [np.nan]), ([np.inf], [1.0])]
)
def test_noise_refuses_what_cannot_be_compared(wanted: list[float], found: list[float]) -> None:
    with pytest.raises(CalibrationError, match="expected"):
        Noise.between(np.array(wanted), np.array(found))


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, spread=st.floats(1, 300))
def test_one_scale_never_beats_one_for_each_channel_by_much(seed: int, spread: float) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(4, 64)).astype(np.float32)
    weight /= np.abs(weight).max(axis=1, keepdims=True)
    weight[0] /= np.float32(spread)
    found = weight_spread(weight)
    assert found.range_spread == pytest.approx(spread, rel=1e-4)
    assert found.per_channel_db is not None
    assert found.per_tensor_db is not None
    assert found.per_channel_db > found.per_tensor_db - 1.5  # rounding is luck for 256 values
    again = weight_spread(weight * np.float32(1024))
    assert again.per_tensor_db == pytest.approx(found.per_tensor_db, abs=1e-3)


def test_channels_of_zeros_are_left_out() -> None:
    weight = np.zeros((3, 4), np.float32)
    assert weight_spread(weight).range_spread is None
    weight[1], weight[2, 0] = 1.0, 0.25
    assert weight_spread(weight).range_spread == 4.0


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, bins=st.integers(1, 128), shift=st.floats(-3, 3))
def test_a_charts_bins_lose_no_value_and_follow_the_data(
    seed: int, bins: int, shift: float
) -> None:
    generator = np.random.default_rng(seed)
    values = (generator.normal(size=2000) + shift).astype(np.float32)
    edges, counts = TensorHistogram.of(values).signed_uniform(bins)
    assert (edges[0], edges[-1]) == (values.min(), values.max())
    assert len(counts) == bins == len(edges) - 1
    assert counts.sum() == values.size
    assert (counts >= 0).all()
    exact = np.histogram(values, edges)[0]
    assert np.abs(np.cumsum(counts) - np.cumsum(exact)).max() <= 8  # a bin of the grid is split


def test_a_constant_is_one_bin_of_a_chart() -> None:
    edges, counts = TensorHistogram.of(np.full(5, 2.0, np.float32)).signed_uniform(8)
    assert (edges.tolist(), counts.tolist()) == ([2.0, 2.0], [5])
    with pytest.raises(CalibrationError, match="0 bins"):
        TensorHistogram.of(np.ones(1, np.float32)).signed_uniform(0)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_what_8_bits_reach_is_what_the_best_of_many_ranges_gives(seed: int, signed: bool) -> None:
    values = np.random.default_rng(seed).normal(size=20000).astype(np.float32)
    values = values if signed else np.maximum(values, 0)
    dtype = QuantType.S8 if signed else QuantType.U8
    best = -np.inf
    for top in np.linspace(0.3, 1.0, 40) * float(np.abs(values).max()):
        params = from_range(-top if signed else 0.0, top, dtype=dtype, symmetric=True)
        found = Noise.between(values, dequantize(quantize(values, params), params)).sqnr_db
        best = max(best, found if found is not None else best)
    reachable = reachable_noise(TensorHistogram.of(values)).sqnr_db
    assert reachable == pytest.approx(best, abs=0.3)


def test_nothing_is_reached_by_zeros() -> None:
    assert reachable_noise(TensorHistogram.of(np.zeros(4, np.float32))) == SILENCE
