"""One scale for tensors that a device can then copy instead of rescaling.

A Concat whose inputs and output have one scale copies integers; with different scales it converts
every element. Sharing widens the range of some tensors, which costs them signal-to-quantization-
noise ratio (SQNR): the step grows by the ratio of the ranges, the noise power by its square. A
tensor shares only while that cost stays within a limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Edge = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Span:
    """The values a tensor's integers stand for: ``low`` at or below zero, ``high`` at or above."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """From end to end."""
        return self.high - self.low

    def __or__(self, other: Span) -> Span:
        return Span(low=min(self.low, other.low), high=max(self.high, other.high))


def sqnr_cost_db(own: Span, shared: Span) -> float:
    """SQNR a tensor loses at most when its integers are spread over a wider span, in dB.

    Noise of rounding is step**2 / 12 and the step is proportional to the width. What the wider
    span gains, by clipping less, is not counted, so this is an upper bound.

    Example:
        >>> round(sqnr_cost_db(Span(low=0, high=1), Span(low=0, high=2)), 2)  # half the steps
        6.02
    """
    if own.width == 0:
        return 0.0
    return 20 * math.log10(shared.width / own.width)


def share_spans(
    spans: Mapping[str, Span],
    edges: Iterable[Edge],
    *,
    limit_db: float,
    asked: Iterable[Edge] = (),
) -> dict[str, Span]:
    """Join tensors along edges, cheapest first, while every member's cost stays within the limit.

    A tensor without negative values never joins one with them: its zero point would leave the end
    of the integers, and runtimes rely on that end to clip like the ReLU before it.

    Example:
        >>> spans = {"a": Span(low=0, high=1), "b": Span(low=0, high=1.2), "c": Span(low=0, high=9)}
        >>> shared = share_spans(spans, [("a", "b"), ("b", "c")], limit_db=3.0)
        >>> [shared[name].high for name in "abc"]  # c is too wide to share with
        [1.2, 1.2, 9]

    Args:
        spans: of every tensor on its own.
        edges: pairs that gain from one scale; the order does not matter.
        limit_db: SQNR that no tensor may lose more of.
        asked: pairs that join first, whatever it costs.

    Returns:
        The span of every tensor, shared where it joined.
    """
    group = {name: frozenset((name,)) for name in spans}
    shared = dict(spans)

    def cost(edge: Edge) -> tuple[float, Edge]:
        first, second = edge
        union = spans[first] | spans[second]
        return max(sqnr_cost_db(spans[name], union) for name in edge), edge

    def ranked(pairs: Iterable[Edge]) -> list[Edge]:
        return sorted({(a, b) for a, b in pairs if a != b}, key=cost)

    free = ranked(asked)
    limits = [(edge, math.inf) for edge in free]
    limits += [(edge, limit_db) for edge in ranked(edges) if edge not in free]
    for (first, second), limit in limits:
        if first in group[second]:
            continue
        members = group[first] | group[second]
        union = shared[first] | shared[second]
        same_sign = len({spans[name].low < 0 for name in members}) == 1
        if same_sign and all(sqnr_cost_db(spans[name], union) <= limit for name in members):
            for name in members:
                group[name], shared[name] = members, union
    return shared
