import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdeploy.calibration.bins import MAX_BIN, TINY, BinWindow, bin_of, edge, position
from segdeploy.calibration.errors import CalibrationError

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(FINITE)
def test_bin_holds_its_value(value):
    index = int(bin_of(np.array([value], np.float32))[0])
    if abs(value) <= TINY:
        assert index == 0
    else:
        assert edge(index - 1) < abs(value) <= edge(index)


@given(st.integers(0, MAX_BIN))
def test_position_is_the_inverse_of_edge(index):
    assert position(np.array([edge(index)]))[0] == index


def test_bins_near_the_top_are_no_wider_than_2048_uniform_ones():
    for top in (1.0, 1.37, 1.999, 2.0):
        index = int(bin_of(np.array([top], np.float32))[0])
        assert edge(index) - edge(index - 1) <= edge(index) / 2048


def test_largest_float_is_in_the_last_bin():
    assert bin_of(np.array([np.finfo(np.float32).max], np.float32))[0] == MAX_BIN


@given(st.lists(st.floats(0, 3, width=32), min_size=1), st.floats(0, 4), st.floats(0, 4))
def test_count_up_to_never_falls_and_is_exact_at_edges(values, a, b):
    array = np.array(values, np.float32)
    dense = np.bincount(bin_of(array), minlength=2)
    window = BinWindow.of_dense(dense.astype(np.int64))
    low, high = window.count_up_to(np.array(sorted((a, b))))
    assert low <= high
    grid_edge = edge(int(position(np.array([a]))[0]))
    expected = np.count_nonzero((array > TINY) & (array <= grid_edge))
    assert window.count_up_to(np.array([grid_edge]))[0] == expected


@pytest.mark.parametrize(
    ("start", "counts"), [(1, [0, 1]), (1, [1, 0]), (2, []), (0, [1]), (MAX_BIN, [1, 1]), (5, [-1])]
)
def test_window_that_cannot_be_is_refused(start, counts):
    with pytest.raises(CalibrationError):
        BinWindow(start=start, counts=np.array(counts, np.int64))


def test_counts_are_read_only():
    window = BinWindow(start=5, counts=np.array([1, 2]))
    with pytest.raises(ValueError, match="read-only"):
        window.counts[0] = 9
