"""Several items at once: in order, lazily, and no more of them than allowed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdeploy.deploy.system.look_ahead import run_ahead


@given(
    items=st.lists(st.integers(), max_size=20),
    workers=st.integers(1, 4),
    ahead=st.none() | st.integers(1, 9),
)
def test_results_are_those_of_one_after_the_other(
    items: list[int], workers: int, ahead: int | None
) -> None:
    assert list(run_ahead(abs, items, workers=workers, ahead=ahead)) == [abs(i) for i in items]


@given(workers=st.integers(1, 4), ahead=st.none() | st.integers(1, 9))
def test_no_more_are_taken_than_allowed(workers: int, ahead: int | None) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(30):
            taken += 1
            yield item

    for given_back, _ in enumerate(run_ahead(abs, items(), workers=workers, ahead=ahead), 1):
        assert taken - given_back < (ahead or workers)


def test_the_first_results_may_be_slow() -> None:
    def work(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    assert list(run_ahead(work, [0.1, 0.0, 0.05, 0.0], workers=4)) == [0.1, 0.0, 0.05, 0.0]


def test_an_error_comes_in_its_place_and_what_was_not_begun_never_is() -> None:
    begun = []
    threads = threading.active_count()

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise ValueError("no luck")
        time.sleep(0.02)
        return item

    results = run_ahead(work, range(100), workers=1, ahead=50)
    assert next(results) == 0
    with pytest.raises(ValueError, match="no luck"):
        next(results)
    assert len(begun) < 10
    assert threading.active_count() == threads


def test_a_caller_that_stops_leaves_no_thread() -> None:
    threads = threading.active_count()
    results = run_ahead(abs, range(100), workers=3)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]  # a generator
    assert threading.active_count() == threads
