import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segdeploy.calibration.bins import TINY, BinWindow
from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.histogram import TensorCounter, TensorHistogram, sum_histograms

VALUES = hnp.arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    | st.floats(-8, 8, width=32)
    | st.just(0.0),
)


@given(VALUES, VALUES)
def test_merge_commutes(a, b):
    first, second = TensorHistogram.of(a), TensorHistogram.of(b)
    assert first + second == second + first


@given(VALUES, VALUES, VALUES)
def test_merge_associates(a, b, c):
    x, y, z = (TensorHistogram.of(part) for part in (a, b, c))
    assert (x + y) + z == x + (y + z)


@given(VALUES, st.lists(st.integers(0, 60), max_size=6), st.randoms())
def test_any_partition_in_any_order_is_the_same_histogram(values, cuts, random):
    shuffled = values.copy()
    random.shuffle(shuffled)
    parts = [part for part in np.split(shuffled, sorted(cuts)) if part.size]
    merged = sum_histograms(TensorHistogram.of(part) for part in parts)
    assert merged == TensorHistogram.of(values)
    assert hash(merged) == hash(TensorHistogram.of(values))


@given(VALUES)
def test_counts_and_extremes_are_exact(values):
    histogram = TensorHistogram.of(values)
    assert histogram.min == values.min()
    assert histogram.max == values.max()
    assert histogram.total == values.size
    assert histogram.zeros == np.count_nonzero(np.abs(values) <= TINY)
    assert histogram.negative.total == np.count_nonzero(values < -TINY)
    assert histogram.signed == bool((values < 0).any())


@given(VALUES)
def test_stored_arrays_give_the_histogram_back(values):
    histogram = TensorHistogram.of(values)
    assert TensorHistogram.from_arrays(histogram.to_arrays()) == histogram


def test_negative_zero_is_zero_in_any_order():
    both = np.array([0.0, -0.0], np.float32)
    forward, backward = TensorHistogram.of(both), TensorHistogram.of(both[::-1])
    assert str(forward.min) == str(backward.min) == "0.0"
    assert not forward.signed


def test_subnormals_are_counted_as_zero_and_keep_the_extremes():
    smallest = np.finfo(np.float32).smallest_subnormal
    histogram = TensorHistogram.of(np.array([smallest, -smallest, 0, 1], np.float32))
    assert (histogram.zeros, histogram.total) == (3, 4)
    assert histogram.min == -smallest


def test_layout_in_memory_does_not_matter():
    values = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    assert TensorHistogram.of(values.transpose(2, 0, 1)) == TensorHistogram.of(values)


@given(VALUES, st.integers(1, 300))
def test_uniform_conserves_mass_and_is_never_negative(values, num_bins):
    histogram = TensorHistogram.of(values)
    if histogram.limit == 0:
        with pytest.raises(CalibrationError, match="no uniform histogram"):
            histogram.uniform(num_bins)
        return
    uniform = histogram.uniform(num_bins)
    assert (uniform.counts >= 0).all()
    assert uniform.counts.size == num_bins
    assert uniform.counts.sum() == pytest.approx(values.size, rel=1e-12)
    assert histogram.max_magnitude <= histogram.limit <= histogram.max_magnitude * (1 + 2**-11)


def test_uniform_differs_from_an_exact_count_by_what_lies_near_an_edge():
    values = np.random.default_rng(1).laplace(size=200_000).astype(np.float32)
    uniform = TensorHistogram.of(values).uniform(256)
    exact, _ = np.histogram(np.abs(values), bins=uniform.edges)
    assert np.abs(uniform.counts - exact).sum() < 0.01 * values.size


def test_uniform_keeps_empty_stretches_empty():
    values = np.concatenate((np.linspace(0.1, 1, 1000), np.linspace(3, 4, 1000)))
    counts = TensorHistogram.of(values.astype(np.float32)).uniform(2048).counts
    assert (counts[516:1533] == 0).all()


def test_uniform_below_the_top_leaves_the_rest_out():
    histogram = TensorHistogram.of(np.array([0.5, 1, 2, 100], np.float32))
    assert histogram.uniform(4, limit=2.0).counts.tolist() == [1, 1, 0, 1]


@given(VALUES, st.integers(-4096, 0), st.integers(0, 4096))
def test_share_beyond_is_exact_at_edges(values, low, high):
    low, high = low / 512, high / 512  # at most 12 significant bits: edges of the grid
    beyond = np.count_nonzero((values < min(low, -TINY)) | (values > max(high, TINY)))
    if low == 0 or high == 0:
        return
    found = TensorHistogram.of(values).share_beyond(low, high)
    assert found == pytest.approx(beyond / values.size)


def test_sum_of_concat_inputs_is_the_histogram_of_the_concat():
    rng = np.random.default_rng(2)
    parts = [rng.normal(size=(2, c, 3, 3)).astype(np.float32) for c in (1, 4, 2)]
    joined = TensorHistogram.of(np.concatenate(parts, axis=1))
    for order in itertools.permutations(parts):
        assert sum_histograms(TensorHistogram.of(part) for part in order) == joined


def test_sum_of_nothing_is_refused():
    with pytest.raises(CalibrationError, match="no histograms"):
        sum_histograms([])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(3), "float64; expected float32"),
        (np.zeros((2, 0), np.float32), "nothing to count"),
        (np.array([1, np.nan], np.float32), "NaN"),
        (np.array([1, np.inf], np.float32), "Inf"),
        (np.array([-np.inf, 1], np.float32), "Inf"),
    ],
)
def test_what_cannot_be_counted_is_refused(values, message):
    with pytest.raises(CalibrationError, match=message):
        TensorHistogram.of(values)


def test_damaged_arrays_are_refused():
    arrays = TensorHistogram.of(np.array([1, 2], np.float32)).to_arrays()
    with pytest.raises(CalibrationError, match="not a stored histogram"):
        TensorHistogram.from_arrays({k: v for k, v in arrays.items() if k != "sizes"})
    with pytest.raises(CalibrationError, match="disagree"):
        TensorHistogram.from_arrays({**arrays, "extremes": np.array([1.0, 9.0])})


def test_an_empty_histogram_cannot_be():
    nothing = BinWindow(start=1, counts=np.zeros(0, np.int64))
    with pytest.raises(CalibrationError, match="at least one value"):
        TensorHistogram(min=0.0, max=0.0, zeros=0, negative=nothing, positive=nothing)


def test_stream_of_chunks_of_growing_magnitude_and_sign_equals_one_count():
    rng = np.random.default_rng(0)
    parts = [rng.normal(0, scale, 70_001).astype(np.float32) for scale in (1e-9, 1, 1e9)]
    parts.insert(0, np.abs(parts[0]))
    counter = TensorCounter()
    for part in parts:
        counter.add(part)
    assert counter.histogram() == TensorHistogram.of(np.concatenate(parts))


def test_counting_goes_on_from_a_histogram():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 1000)).astype(np.float32)
    for start in (first, np.abs(first), np.zeros(3, np.float32)):
        counter = TensorCounter.of(TensorHistogram.of(start))
        counter.add(second)
        assert counter.histogram() == TensorHistogram.of(np.concatenate((start, second)))


def test_result_stays_as_it_was():
    counter = TensorCounter()
    counter.add(np.ones(4, np.float32))
    before = counter.histogram()
    counter.add(np.full(4, 2, np.float32))
    assert before == TensorHistogram.of(np.ones(4, np.float32))


def test_refused_values_leave_the_counts_alone():
    counter = TensorCounter()
    counter.add(np.ones(4, np.float32))
    with pytest.raises(CalibrationError, match="NaN"):
        counter.add(np.array([5, np.nan], np.float32))
    assert counter.histogram() == TensorHistogram.of(np.ones(4, np.float32))


def test_nothing_counted_is_no_histogram():
    with pytest.raises(CalibrationError):
        TensorCounter().histogram()


def test_memory_does_not_grow_with_the_number_of_values():
    counter = TensorCounter()
    rng = np.random.default_rng(2)
    sizes = set()
    for _ in range(20):
        counter.add(np.clip(rng.normal(size=10_000), -4, 4).astype(np.float32))
        sizes.add(counter._counts.nbytes)
    assert len(sizes) == 1
    assert sizes.pop() < 2 * 2**20


def test_counting_is_fast():
    values = np.random.default_rng(3).normal(size=1_000_000).astype(np.float32)
    counter = TensorCounter()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        counter.add(values)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 40e-9 * values.size  # ten times what one 2.x GHz core takes
