"""The interval around a change of IoU: its laws, and how often it holds the truth."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segdeploy.benchmarks.scores import paired_interval as module
from segdeploy.benchmarks.scores.paired_interval import paired_interval

changes = st.lists(st.floats(-100, 100, width=16), min_size=2, max_size=40)


@settings(max_examples=25, deadline=None)
@given(changes, st.integers(0, 5))
def test_it_is_finite_repeatable_and_centred_on_the_mean(values: list[float], seed: int) -> None:
    low, high = paired_interval(values, seed=seed)
    assert math.isfinite(low)
    assert math.isfinite(high)
    assert (low + high) / 2 == pytest.approx(math.fsum(values) / len(values), abs=1e-8)
    assert low <= high
    assert paired_interval(values, seed=seed) == (low, high)


@settings(max_examples=25, deadline=None)
@given(changes, st.floats(-50, 50), st.sampled_from([-2.0, 0.5, 4.0]))
def test_it_moves_and_stretches_with_the_data(
    values: list[float], shift: float, factor: float
) -> None:
    low, high = paired_interval(values, seed=0)
    moved = paired_interval([factor * value + shift for value in values], seed=0)
    ends = sorted((factor * low + shift, factor * high + shift))
    assert moved == pytest.approx(tuple(ends), rel=1e-6, abs=1e-6)


def test_memory_does_not_decide_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = list(np.random.default_rng(0).normal(size=50))
    whole = paired_interval(values, seed=3)
    monkeypatch.setattr(module, "AT_ONCE", 7 * 50)
    assert paired_interval(values, seed=3) == pytest.approx(whole)


def test_four_times_the_images_halve_it() -> None:
    values = list(np.random.default_rng(1).normal(size=100))
    few, many = paired_interval(values, seed=0), paired_interval(values * 4, seed=0)
    assert (few[1] - few[0]) / (many[1] - many[0]) == pytest.approx(2, rel=0.05)


def test_one_changed_image_among_many_has_a_finite_interval() -> None:
    low, high = paired_interval([0.0] * 119 + [-5.0], seed=0)
    assert -5 / 10 < low < -5 / 120 < high < 5 / 120


def test_pairing_makes_a_common_difficulty_cancel() -> None:
    """Images differ by tens of points, the candidate always by one: the interval sees the one."""
    generator = np.random.default_rng(0)
    hard = generator.uniform(20, 90, 60)
    low, high = paired_interval(list((hard - 1) - hard), seed=0)
    assert low == pytest.approx(-1, abs=1e-6)
    assert high == pytest.approx(-1, abs=1e-6)


def quantized(generator: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Changes of IoU as int8 makes them: a tenth none, most small, some large, losses larger.

    Scales and shares are those of a network of this project on images of nuclei: standard
    deviation 0.4 points, extremes of 1 to 2, more of them losses.
    """
    small = generator.normal(0, 0.25, shape)
    large = np.where(
        generator.random(shape) < 0.6,
        -generator.exponential(0.6, shape),
        generator.exponential(0.4, shape),
    )
    kind = generator.random(shape)
    return np.where(kind < 0.1, 0.0, np.where(kind < 0.8, small, large))


QUANTIZED_MEAN = 0.2 * (0.4 * 0.4 - 0.6 * 0.6)


@pytest.mark.parametrize("images", [64, 120])
def test_the_interval_covers_the_true_mean_in_95_of_100_repetitions(images: int) -> None:
    """Within 2 points; the figure itself is known to 0.6 (standard error of 1200 repetitions)."""
    draws = quantized(np.random.default_rng(7), (1200, images))
    intervals = [
        paired_interval(list(draw), seed=repetition, resamples=599)
        for repetition, draw in enumerate(draws)
    ]
    covered = np.mean([low <= QUANTIZED_MEAN <= high for low, high in intervals])
    assert 0.93 <= covered <= 0.97


def test_pairing_is_what_makes_the_interval_narrow() -> None:
    """The same changes between other images than their own: tens of times as wide."""
    generator = np.random.default_rng(3)
    reference = generator.uniform(60, 95, 120)
    candidate = reference + quantized(generator, (1, 120))[0]
    low, high = paired_interval(candidate - reference, seed=0)
    apart = paired_interval(candidate[::-1] - reference, seed=0)
    assert apart[1] - apart[0] > 20 * (high - low)


LARGE = 4_000

MANY: dict[str, NDArray[np.float64]] = {
    "symmetric": np.random.default_rng(0).normal(size=LARGE),
    "skewed": np.random.default_rng(1).exponential(size=LARGE),
    "rare losses": np.where(
        np.random.default_rng(2).random(LARGE) < 0.003,
        -np.random.default_rng(3).exponential(30, LARGE),
        np.random.default_rng(4).normal(0, 0.05, LARGE),
    ),
    "five images": (np.arange(LARGE) < 5) * -1.0,
    "half of them": (np.arange(LARGE) % 2) * 1.0,
}


@pytest.mark.parametrize("kind", MANY)
def test_images_resampled_together_give_what_each_by_itself_gives(kind: str) -> None:
    """Of each a few times, as the quantile of 1,500 resamples is itself uncertain by 0.05."""
    centred = MANY[kind] - MANY[kind].mean()
    quantiles = [
        np.mean([estimate(centred, seed=seed, resamples=1_500) for seed in range(3)])
        for estimate in (module._studentized_quantile, module.large_quantile)
    ]
    assert quantiles[1] == pytest.approx(quantiles[0], rel=0.05)


def test_a_million_images_take_seconds() -> None:
    values = np.random.default_rng(0).normal(0.1, 1, 1_000_000)
    started = time.process_time()
    low, high = paired_interval(values, seed=0)
    assert time.process_time() - started < 10
    assert (high - low) / 2 == pytest.approx(1.96 / 1000, rel=0.03)
    assert low < 0.1 < high
