"""The judgement on a candidate: what its interval proves about the budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

MLPERF_LINES_PERCENT = (99.0, 99.9)
"""Shares of the reference's accuracy that MLPerf Inference asks of a quantized model.

Source: MLPerf Inference rules, the two quality targets of its image and language benchmarks.
"""


NARROWER_AT_MOST = 100
"""How much narrower more images can be hoped to make an interval: 10,000 times as many."""


class Verdict(str, Enum):
    """What was shown about a candidate, by the words of ``report.json``.

    Attributes:
        KEPT: the lower end of the interval is within the budget.
        NOT_PROVEN: the budget lies inside the interval; these images cannot tell.
        NOT_PROVEN_FP16: an fp16 file kept the budget where it was computed in fp32, and its values
            do not hold in fp16 arithmetic, or were not seen to.
        LOST: the upper end of the interval is beyond the budget.
        COLLAPSED: some image lost all its foreground, or of several classes the set all of one,
            whatever the interval says.
        FAILED: the runtime crashed, hung or failed, so that nothing could be scored.
    """

    KEPT = "kept"
    NOT_PROVEN = "not proven"
    NOT_PROVEN_FP16 = "not proven for fp16 arithmetic"
    LOST = "lost"
    COLLAPSED = "collapsed"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A change of a score with its 95 % interval, and the loss that is allowed; percentage points.

    Both ends of the interval are asked, as a trial for non-inferiority asks them: an estimate
    within the budget proves nothing while its interval reaches beyond.

    Example:
        >>> few = Evidence(delta=-0.02, low=-0.16, high=0.04, max_drop=0.1, images=60)
        >>> few.verdict.value, few.images_that_prove, few.budget_that_is_kept
        ('not proven', 184, 0.16)

    Attributes:
        delta: the estimate; negative is a loss.
        low: lower end of the interval.
        high: its upper end.
        max_drop: the budget, 0 or more.
        images: how many the estimate is of.
        score: what changed, in a sentence.
        flag: that sets the budget.
    """

    delta: float
    low: float
    high: float
    max_drop: float
    images: int
    score: str = "IoU"
    flag: str = "--max-drop"

    @property
    def verdict(self) -> Verdict:
        """What the interval proves; never a collapse, which an interval does not show."""
        if self.low >= -self.max_drop:
            return Verdict.KEPT
        return Verdict.LOST if self.high < -self.max_drop else Verdict.NOT_PROVEN

    @property
    def images_that_prove(self) -> int | None:
        """About how many images of this kind would prove it, if the estimate holds.

        An interval narrows with the square root of their number. ``None`` where the estimate
        itself is beyond the budget, or so close to it that no set of images is large enough.
        """
        room, reach = self.delta + self.max_drop, self.delta - self.low
        if room * NARROWER_AT_MOST <= reach:
            return None
        return math.ceil(self.images * (reach / room) ** 2)

    @property
    def budget_that_is_kept(self) -> float:
        """The smallest budget in hundredths of a point that is proven to be kept."""
        return math.ceil(max(-self.low, 0.0) * 100) / 100

    @property
    def failure(self) -> str | None:
        """Why the budget is not kept and what would prove it, one sentence; ``None`` if it is."""
        shown = f"{self.delta:+.3f} points (95 % interval {self.low:+.3f} to {self.high:+.3f})"
        if self.verdict is Verdict.KEPT:
            return None
        if self.verdict is Verdict.LOST:
            return f"lost: {self.score} changed by {shown}, more than the {self.max_drop:g} allowed"
        return (
            f"not proven: {self.score} changed by {shown}, which leaves open whether it is more "
            f"than the {self.max_drop:g} allowed; {self._remedy()}"
        )

    def _remedy(self) -> str:
        budget = f"{self.flag} {self.budget_that_is_kept:g}"
        if self.images_that_prove is None:
            return (
                f"the change itself uses up the budget, so more images will not do; {budget} would"
            )
        return (
            f"about {self.images_that_prove:,} images (now {self.images:,}) would prove it if the "
            f"change stays the same, or {budget}"
        )


def kept_percent(reference: float, candidate: float) -> float | None:
    """Share of the reference's score that a candidate keeps, percent.

    Example:
        >>> kept_percent(80.0, 79.0), kept_percent(0.0, 10.0)
        (98.75, None)

    Args:
        reference: its score.
        candidate: its score, in the same unit.

    Returns:
        Above 100 for a gain; ``None`` of a reference of 0, of which there is no share.
    """
    return 100.0 * candidate / reference if reference else None


def lines_reached(kept: float | None) -> tuple[float, ...] | None:
    """Which of MLPerf's lines a share reaches.

    Example:
        >>> lines_reached(99.5), lines_reached(98.9), lines_reached(None)
        ((99.0,), (), None)
    """
    return None if kept is None else tuple(line for line in MLPERF_LINES_PERCENT if kept >= line)
