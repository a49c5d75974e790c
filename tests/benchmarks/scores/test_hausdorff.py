from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, directed_hausdorff

from segdeploy.benchmarks.scores.hausdorff import Apart, hausdorff

Mask = NDArray[np.bool_]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Mask, Mask]:
    """Two masks of one size, neither of them empty."""
    shape = draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    one, other = draw(hnp.arrays(np.bool_, shape)), draw(hnp.arrays(np.bool_, shape))
    assume(one.any() and other.any())
    return one, other


def apart(one: Mask, other: Mask) -> Apart:
    found = hausdorff(one, other)
    assert found is not None
    return found


@settings(deadline=None)
@given(pairs())
def test_it_is_a_distance(pair: tuple[Mask, Mask]) -> None:
    one, other = pair
    assert apart(one, other) == apart(other, one)
    assert (apart(one, other).largest == 0) == np.array_equal(one, other)
    assert 0 <= apart(one, other).percentile95 <= apart(one, other).largest
    assert apart(one, other).largest <= math.hypot(*one.shape)


@settings(deadline=None)
@given(st.data())
def test_the_triangle_inequality(data: st.DataObject) -> None:
    one, other = data.draw(pairs())
    third = data.draw(hnp.arrays(np.bool_, one.shape))
    assume(third.any())
    around = apart(one, third).largest + apart(third, other).largest
    assert apart(one, other).largest <= around + 1e-9


@settings(deadline=None)
@given(pairs(), st.integers(-5, 5), st.integers(-5, 5))
def test_a_moved_shape_is_as_far_as_it_was_moved(
    pair: tuple[Mask, Mask], down: int, right: int
) -> None:
    """Whatever the shape: its outermost point that way moves out by the whole step."""
    still = np.pad(pair[0], 5)
    moved = np.roll(still, (down, right), axis=(0, 1))
    assert apart(still, moved).largest == math.sqrt(down**2 + right**2)


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_against_scipy_on_the_coordinates_of_the_pixels(pair: tuple[Mask, Mask]) -> None:
    one, other = (np.argwhere(mask) for mask in pair)
    expected = max(directed_hausdorff(one, other)[0], directed_hausdorff(other, one)[0])
    assert apart(*pair).largest == pytest.approx(expected)
    between = cdist(one, other)
    sides = (np.percentile(between.min(axis=axis), 95) for axis in (0, 1))
    assert apart(*pair).percentile95 == pytest.approx(max(sides))


def test_rows_of_the_array_are_no_points() -> None:
    """A mask given to SciPy as it is has its rows compared as vectors, wherever they stand."""
    one, other = np.zeros((2, 9, 9), bool)
    one[0, 0] = other[8, 0] = True
    naive = max(directed_hausdorff(one, other)[0], directed_hausdorff(other, one)[0])
    assert naive == 0
    assert apart(one, other).largest == 8


def test_a_stray_pixel_moves_the_largest_distance_not_the_percentile() -> None:
    truth = np.zeros((40, 40), bool)
    truth[:10, :10] = True
    prediction = truth.copy()
    prediction[9, 39] = True
    assert apart(prediction, truth) == Apart(largest=30.0, percentile95=0.0)


@settings(deadline=None)
@given(hnp.arrays(np.bool_, (4, 5)))
def test_nothing_is_at_no_distance_from_nothing_and_at_none_from_something(mask: Mask) -> None:
    nothing = np.zeros_like(mask)
    expected = None if mask.any() else Apart(largest=0.0, percentile95=0.0)
    assert hausdorff(mask, nothing) == hausdorff(nothing, mask) == expected
