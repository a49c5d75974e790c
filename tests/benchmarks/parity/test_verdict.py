"""The judgement on an interval."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from segdeploy.benchmarks.parity.verdict import Evidence, Verdict, kept_percent, lines_reached

points = st.floats(-5, 5)
budgets = st.floats(0, 5)


@st.composite
def evidence(draw: st.DrawFn) -> Evidence:
    low, delta, high = sorted(draw(st.tuples(points, points, points)))
    images = draw(st.integers(2, 5000))
    return Evidence(delta=delta, low=low, high=high, max_drop=draw(budgets), images=images)


@given(evidence(), budgets)
def test_a_larger_budget_never_judges_harder(found: Evidence, more: float) -> None:
    order = [Verdict.LOST, Verdict.NOT_PROVEN, Verdict.KEPT]
    eased = replace(found, max_drop=found.max_drop + more)
    assert order.index(eased.verdict) >= order.index(found.verdict)


@given(evidence())
def test_exactly_what_is_not_kept_has_a_failure_that_names_its_verdict(found: Evidence) -> None:
    assert (found.failure is None) == (found.verdict is Verdict.KEPT)
    assert (found.failure or "kept").startswith(found.verdict.value)


@given(evidence())
def test_the_budget_that_a_failure_names_is_kept(found: Evidence) -> None:
    assert replace(found, max_drop=found.budget_that_is_kept).verdict is Verdict.KEPT


@given(evidence())
def test_the_number_of_images_that_a_failure_names_would_prove_it(found: Evidence) -> None:
    """An interval narrows with the square root of the number of images."""
    needed = found.images_that_prove
    assume(found.verdict is Verdict.NOT_PROVEN and needed is not None)
    assert needed is not None
    assert needed > found.images - 1
    narrowed = (found.delta - found.low) * (found.images / needed) ** 0.5
    assert found.delta - narrowed >= -found.max_drop - 1e-9


def test_more_images_do_not_prove_what_the_estimate_itself_denies() -> None:
    found = Evidence(delta=-0.3, low=-0.5, high=-0.1, max_drop=0.2, images=60)
    assert found.verdict is Verdict.NOT_PROVEN
    assert found.images_that_prove is None
    assert "more images will not do; --max-drop 0.5 would" in str(found.failure)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.2, 0.1, Verdict.KEPT),
        (0.1, 0.2, Verdict.KEPT),
        (-0.201, 0.1, Verdict.NOT_PROVEN),
        (-0.3, -0.2, Verdict.NOT_PROVEN),
        (-0.3, -0.201, Verdict.LOST),
    ],
)
def test_the_ends_of_the_interval_decide(low: float, high: float, verdict: Verdict) -> None:
    found = Evidence(delta=(low + high) / 2, low=low, high=high, max_drop=0.2, images=60)
    assert found.verdict is verdict


@given(st.floats(1, 100), st.floats(0, 100))
def test_lines_are_reached_in_order_and_at_their_share(reference: float, candidate: float) -> None:
    kept = kept_percent(reference, candidate)
    assert kept is not None
    assert lines_reached(kept) == tuple(line for line in (99.0, 99.9) if kept >= line)


def test_the_reference_itself_reaches_both_lines() -> None:
    assert lines_reached(kept_percent(84.7, 84.7)) == (99.0, 99.9)
