"""The area under the curve of a set that is never held."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from segdeploy.benchmarks.scores import pooled_area
from segdeploy.benchmarks.scores.accuracy import area_under_roc
from segdeploy.benchmarks.scores.pooled_area import PooledArea, keys_of, sides_of

SHAPE = (4, 5, 6)
probabilities = hnp.arrays(
    np.float32, SHAPE, elements=st.one_of(st.floats(0, 1, width=16), st.sampled_from([0.0, 1.0]))
)
truths = hnp.arrays(np.bool_, SHAPE)


def area_of(probability: NDArray[np.float32], truth: NDArray[np.bool_]) -> float | None:
    with PooledArea() as area:
        for one, other in zip(probability, truth, strict=True):
            area.add(sides_of(one, other))
        return area.percent()


@settings(deadline=None)
@given(probabilities, truths)
def test_it_is_that_of_all_pixels_at_once(
    probability: NDArray[np.float32], truth: NDArray[np.bool_]
) -> None:
    assert area_of(probability, truth) == area_under_roc(probability, truth)


@pytest.mark.parametrize("kind", ["spread", "mostly zero", "256 levels", "sure", "below zero"])
def test_it_does_not_depend_on_how_much_is_sorted_at_a_time(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(pooled_area, "AT_ONCE", 256)
    monkeypatch.setattr(pooled_area, "MOST_GROUPS", 16)
    draw = np.random.default_rng(0)
    values = draw.random((40, 10, 10))
    values = {
        "spread": values,
        "mostly zero": np.where(draw.random(values.shape) < 0.8, 0, values),
        "256 levels": np.rint(255 * values) / 255,
        "sure": 1 / (1 + np.exp(-20 * (values - 0.5))),
        "below zero": values - 0.5,
    }[kind]
    truth = draw.random(values.shape) < 0.3 + 0.4 * values
    probability = values.astype(np.float32)
    assert area_of(probability, truth) == area_under_roc(probability, truth)


def test_a_truth_of_one_class_has_none() -> None:
    assert area_of(np.zeros(SHAPE, np.float32), np.ones(SHAPE, bool)) is None


@settings(deadline=None)
@given(hnp.arrays(np.float32, 8, elements=st.floats(-1, 2, width=32)))
def test_keys_are_in_the_order_of_the_values(values: NDArray[np.float32]) -> None:
    keys = keys_of(values).astype(np.int64)
    assert np.array_equal(
        np.sign(keys[:, None] - keys), np.sign(values[:, None].astype(np.float64) - values)
    )
