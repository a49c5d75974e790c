import math
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from segdeploy.calibration.entropy import (
    MOST_CLIPPED,
    divergences,
    entropy_threshold,
    search_limit,
)
from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.estimate import Method, estimate
from segdeploy.calibration.histogram import TensorHistogram


def slow_divergence(counts, length, levels):
    """One candidate, written as the definition reads."""
    counts = [0.0, *map(float, counts[1:])]
    kept = counts[:length]
    reference = list(kept)
    reference[-1] += sum(counts[length:])
    candidate = [0.0] * length
    for level in range(levels):
        members = [k for k in range(length) if k * levels // length == level and kept[k] > 0]
        for k in members:
            candidate[k] = sum(kept[m] for m in members) / len(members)
    if sum(candidate) == 0:
        return math.inf
    divergence = 0.0
    for p, q in zip(reference, candidate, strict=True):
        if p > 0 and q == 0:
            return math.inf
        if p > 0:
            p, q = p / sum(reference), q / sum(candidate)
            divergence += p * math.log(p / q)
    return divergence


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 40) | st.just(0) | st.floats(1e-6, 2), min_size=3, max_size=40),
    st.integers(2, 9),
)
def test_vectorised_search_is_the_definition(counts, levels):
    assume(len(counts) >= levels and sum(counts[1:]) > 1e-6)
    found = divergences(np.array(counts, np.float64), levels)
    expected = [slow_divergence(counts, i, levels) for i in range(levels, len(counts) + 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_vectorised_search_is_the_definition_at_full_size():
    values = np.random.default_rng(0).laplace(size=100_000).astype(np.float32)
    counts = TensorHistogram.of(values).uniform(2048).counts
    found = divergences(counts, 128)
    for length in (128, 129, 200, 777, 1024, 2047, 2048):
        expected = slow_divergence(counts, length, 128)
        assert found[length - 128] == pytest.approx(expected, rel=1e-9)


def test_scale_of_the_counts_does_not_matter():
    counts = np.random.default_rng(1).integers(0, 50, 300).astype(np.float64)
    np.testing.assert_allclose(divergences(counts, 64), divergences(counts * 1e9, 64), atol=1e-12)


def test_first_bin_does_not_matter():
    counts = np.random.default_rng(2).integers(0, 50, 300).astype(np.float64)
    with_spike = counts.copy()
    with_spike[0] = 1e9
    np.testing.assert_array_equal(divergences(counts, 64), divergences(with_spike, 64))


def test_ties_go_to_the_largest_threshold():
    # equal counts up to the end: every candidate that keeps all of them loses nothing
    flat = TensorHistogram.of(np.linspace(1 / 4096, 1, 409_600, dtype=np.float32))
    assert entropy_threshold(flat).value == 1.0


def test_search_clips_a_thin_tail():
    values = np.abs(np.random.default_rng(3).laplace(size=1_000_000)).astype(np.float32)
    found = entropy_threshold(TensorHistogram.of(values))
    assert found.candidates == 2048 - 256 + 1
    assert found.fallback is None
    assert 3 < found.value < values.max()
    assert 0 < found.divergence < 0.1


DISTRIBUTIONS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "laplace": lambda rng, n: rng.laplace(size=n) / math.sqrt(2),
    "relu": lambda rng, n: np.maximum(rng.normal(size=n), 0),
    "bimodal": lambda rng, n: np.where(rng.random(n) < 0.3, 2, -1) + rng.normal(0, 0.2, n),
}


@pytest.mark.parametrize("shape", DISTRIBUTIONS)
@pytest.mark.parametrize("size", [20_000, 300_000])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_outlier_at_40_sigma_moves_minmax_tenfold_and_kl_less_than_a_bin(shape, size, sign):
    clean = DISTRIBUTIONS[shape](np.random.default_rng(size), size).astype(np.float32)
    # the clean data end at 4 sigma, so that 40 is ten times as far
    clean = np.clip(clean / clean.std(), -4, 4).astype(np.float32)
    sign = 1 if shape == "relu" else sign
    planted = np.append(clean, np.float32(sign * 40))
    before, after = TensorHistogram.of(clean), TensorHistogram.of(planted)
    bin_width = before.limit / 2048
    assert after.max_magnitude / before.max_magnitude >= 10
    found, moved = entropy_threshold(before), entropy_threshold(after)
    assert found.fallback is moved.fallback is None
    assert abs(moved.value - found.value) < bin_width
    assert moved.divergence == found.divergence


@pytest.mark.parametrize("shape", DISTRIBUTIONS)
@pytest.mark.parametrize("seed", range(5))
def test_an_outlier_at_40_sigma_does_not_move_kl_where_the_tail_is_natural(shape, seed):
    clean = DISTRIBUTIONS[shape](np.random.default_rng(seed), 50_000).astype(np.float32)
    outlier = np.float32(40 * clean.std())
    found = entropy_threshold(TensorHistogram.of(clean))
    moved = entropy_threshold(TensorHistogram.of(np.append(clean, outlier)))
    assert (moved.value, moved.divergence) == (found.value, found.divergence)


def test_a_tail_without_a_gap_is_searched_whole():
    ladder = np.geomspace(1, 1000, 20_000).astype(np.float32)
    histogram = TensorHistogram.of(ladder)
    assert search_limit(histogram) == histogram.limit


def test_more_than_a_few_far_values_are_no_outliers():
    bulk = np.linspace(0, 4, 100_000, dtype=np.float32)
    once = TensorHistogram.of(np.append(bulk, np.full(1, 40, np.float32)))
    often = TensorHistogram.of(np.append(bulk, np.full(3, 40, np.float32)))
    assert search_limit(once) == 4.0
    assert search_limit(often) == 40.0


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros(1000), "every value is zero"),
        (np.full(1000, 1e-20), "every value is zero"),
        (np.full(1000, 3.5), "1 occupied bins for 256 levels"),
        (np.array([2.5]), "1 occupied bins for 256 levels"),
        (np.tile([-1.0, 0.25, 1.0], 500), "occupied bins for 128 levels"),
        (np.array([0.0, 1.0, 900.0]), "occupied bins for 256 levels"),
    ],
)
def test_degenerate_tensors_fall_back_to_the_largest_magnitude_and_say_so(values, reason):
    found = entropy_threshold(TensorHistogram.of(values.astype(np.float32)))
    assert found.value == np.float32(np.abs(values).max())
    assert reason in found.fallback
    assert (found.candidates, found.divergence) == (0, None)


def test_as_many_bins_as_levels_is_no_search():
    values = np.random.default_rng(4).normal(size=10_000).astype(np.float32)
    found = entropy_threshold(TensorHistogram.of(values), num_bins=128)
    assert found.fallback == "128 bins for 128 levels leave one candidate"
    assert found.value == np.abs(values).max()


def test_too_few_bins_are_refused():
    with pytest.raises(CalibrationError, match="100 bins cannot be searched for 256 levels"):
        entropy_threshold(TensorHistogram.of(np.ones(3, np.float32)), num_bins=100)


def test_search_is_fast():
    rng = np.random.default_rng(5)
    histograms = [TensorHistogram.of(rng.laplace(size=20_000).astype(np.float32))] * 45
    start = time.perf_counter()
    for histogram in histograms:
        entropy_threshold(histogram)
    assert time.perf_counter() - start < 3.0  # a fifth of a second on one idle core


ONE_SIGNED = {
    "uniform": lambda rng, n: rng.uniform(0.25, 3.26, n),
    "normal": lambda rng, n: (1.5 + 0.4 * rng.normal(size=n)).clip(0.25, 3.26),
    "near one": lambda rng, n: (1 - 0.05 * rng.gamma(2, size=n)).clip(0.01, 1),
    "from zero": lambda rng, n: np.abs(rng.laplace(size=n)),
    "narrow": lambda rng, n: rng.uniform(5, 5.1, n),
}


@pytest.mark.parametrize("shape", ONE_SIGNED)
def test_values_far_from_zero_are_not_clipped_whatever_their_sign(shape):
    values = ONE_SIGNED[shape](np.random.default_rng(0), 100_000).astype(np.float32)
    above, below = (
        estimate(TensorHistogram.of(each), method=Method.ENTROPY) for each in (values, -values)
    )
    assert above.min == 0
    assert above.share_clipped <= MOST_CLIPPED
    assert above.max > 0.8 * np.quantile(values, 0.99)
    assert (below.min, below.max) == (-above.max, 0)
    assert (below.divergence, below.candidates) == (above.divergence, above.candidates)


def silu(x):
    return x / (1 + np.exp(-x))


LOBED = {
    "silu": lambda rng, n: silu(4 * rng.normal(size=n) - 3),
    "leaky": lambda rng, n: (lambda x: np.where(x > 0, x, 0.01 * x))(rng.laplace(size=n)),
    "hardswish": lambda rng, n: (lambda x: x * np.clip(x + 3, 0, 6) / 6)(2 * rng.normal(size=n)),
    "a spike beside": lambda rng, n: np.where(rng.random(n) < 0.95, -0.5, 2 * rng.normal(size=n)),
    "two values": lambda rng, n: np.where(rng.random(n) < 0.9, -1, 3) + 0.05 * rng.normal(size=n),
}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("shape", LOBED)
def test_a_long_side_beside_a_short_one_is_clipped_alike_on_either_side(shape, sign):
    values = (sign * LOBED[shape](np.random.default_rng(0), 100_000)).astype(np.float32)
    found, mirrored = (
        estimate(TensorHistogram.of(each), method=Method.ENTROPY) for each in (values, -values)
    )
    assert found.share_clipped <= MOST_CLIPPED
    assert (mirrored.min, mirrored.max) == (-found.max, -found.min)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-8, 8), st.floats(0, 2), st.integers(1, 60)), min_size=1, max_size=4
    ),
    st.integers(0, 2**16),
)
def test_no_search_clips_more_than_its_share(parts, seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate([mean + width * rng.normal(size=100 * n) for mean, width, n in parts])
    found = estimate(TensorHistogram.of(values.astype(np.float32)), method=Method.ENTROPY)
    assert found.share_clipped <= MOST_CLIPPED + 1e-4


def test_isolated_values_beyond_the_share_are_no_candidates():
    # one occupied bin below, everything else beyond: P and Q agree about it
    counts = np.zeros(2048)
    counts[300], counts[600:2000] = 1, 10
    assert divergences(counts, 128)[301 - 128] == pytest.approx(0, abs=1e-9)
