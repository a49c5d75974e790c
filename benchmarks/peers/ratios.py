"""How many times as fast one candidate is as another, when both took turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segdeploy.deploy.system.errors import RunError

RANGE_PERCENT = (5.0, 95.0)
"""Percentiles of the rounds that a ratio is shown with."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio of times over the rounds of one run; above 1 the candidate is the faster.

    Attributes:
        median: over the rounds.
        low: 5th percentile of the rounds.
        high: 95th percentile of the rounds.
        rounds: how many there were.
    """

    median: float
    low: float
    high: float
    rounds: int


def paired_ratio(reference_s: Sequence[float], candidate_s: Sequence[float]) -> Ratio:
    """Compare two candidates round by round, so that a slow moment of the machine cancels.

    Example:
        The machine is half as fast in the second round, for both:

        >>> paired_ratio([4.0, 8.0, 4.0], [2.0, 4.0, 2.0])
        Ratio(median=2.0, low=2.0, high=2.0, rounds=3)

    Args:
        reference_s: seconds of the reference in each round, above zero.
        candidate_s: seconds of the candidate for the same work in the same rounds.

    Raises:
        RunError: no rounds, or not the same number of both.
    """
    if not reference_s or len(reference_s) != len(candidate_s):
        raise RunError(
            f"{len(candidate_s)} rounds of a candidate beside {len(reference_s)} of its reference; "
            "expected the same number, 1 or more"
        )
    ratios = np.asarray(reference_s) / np.asarray(candidate_s)
    low, high = np.percentile(ratios, RANGE_PERCENT)
    return Ratio(
        median=float(np.median(ratios)), low=float(low), high=float(high), rounds=len(ratios)
    )
