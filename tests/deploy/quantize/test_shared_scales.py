"""Laws of scale sharing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdeploy.deploy.quantize.shared_scales import Span, share_spans, sqnr_cost_db

NAMES = "abcdefgh"
ends = st.floats(0.01, 100)
span = st.builds(lambda low, high: Span(low=-low, high=high), st.just(0.0) | ends, ends)
spans_of = st.fixed_dictionaries(dict.fromkeys(NAMES, span))
edges_of = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=20)


@given(spans_of, edges_of, st.floats(0, 12))
def test_no_tensor_loses_more_than_the_limit_or_any_of_its_own_range(spans, edges, limit) -> None:
    shared = share_spans(spans, edges, limit_db=limit)
    assert shared.keys() == spans.keys()
    for name in spans:
        assert shared[name].low <= spans[name].low
        assert shared[name].high >= spans[name].high
        assert sqnr_cost_db(spans[name], shared[name]) <= limit + 1e-9


@given(spans_of, edges_of, st.floats(0, 12))
def test_a_tensor_without_negative_values_keeps_zero_as_its_lower_end(spans, edges, limit) -> None:
    shared = share_spans(spans, edges, limit_db=limit)
    assert all(shared[name].low == 0 for name in spans if spans[name].low == 0)


@given(spans_of, edges_of, st.floats(0, 12), st.randoms())
def test_the_order_of_the_edges_does_not_matter(spans, edges, limit, random) -> None:
    shuffled = list(edges)
    random.shuffle(shuffled)
    assert share_spans(spans, shuffled, limit_db=limit) == share_spans(spans, edges, limit_db=limit)


@given(spans_of, st.floats(0, 12))
def test_tensors_without_edges_keep_their_own_range(spans, limit) -> None:
    assert share_spans(spans, [], limit_db=limit) == spans


def test_a_chain_stops_where_its_widest_member_would_cost_the_narrowest_too_much() -> None:
    spans = {name: Span(low=0.0, high=1.3**i) for i, name in enumerate("abcdef")}
    chain = list(zip("abcde", "bcdef", strict=True))
    shared = share_spans(spans, chain, limit_db=sqnr_cost_db(spans["a"], spans["c"]) + 1e-9)
    groups = {shared[name].high for name in spans}
    assert 1 < len(groups) < len(spans)


def test_doubling_the_range_costs_one_bit() -> None:
    cost = sqnr_cost_db(Span(low=-1, high=1), Span(low=-2, high=2))
    assert cost == pytest.approx(6.0206, abs=1e-4)


def test_an_empty_range_costs_nothing_to_widen() -> None:
    assert sqnr_cost_db(Span(low=0, high=0), Span(low=0, high=5)) == 0
