"""Candidates that take turns in blocks of back-to-back calls, and the ratio of two of them.

A call right after another candidate's finds caches, branch predictors and the processor's clock as
that one left them, which no deployment sees: MLPerf's single stream asks for the next result when
the last one came. So each turn is a block of calls, of which the first ones are not counted, with
a rest before it. A round gives every candidate one block; neighbouring blocks share the machine's
slow moments, so ratios are taken round by round, and the interval is over rounds.

Source: Reddi et al., "MLPerf Inference Benchmark", ISCA 2020, single-stream scenario.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import stats

from segdeploy.benchmarks.speed.latency import REST_S, collector_paused
from segdeploy.deploy.runtimes.base import Feeds, Runtime
from segdeploy.deploy.runtimes.timing import block_seconds
from segdeploy.deploy.system.errors import UsageError

CONFIDENCE = 0.95
"""How often the interval of a ratio holds the true one."""

BLOCK_S = 0.1
"""Seconds of calls in a block."""


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Timed calls of one candidate; every statistic is derived from the raw samples.

    Attributes:
        name: of the candidate.
        blocks_s: for each round, the seconds of each counted call, in order.

    Raises:
        ValueError: no block, an empty one, or a sample that is not above zero.
    """

    name: str
    blocks_s: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        calls = [call for block in self.blocks_s for call in block]
        if not self.blocks_s or not all(self.blocks_s):
            raise ValueError(f"{self.name} has a round without calls, or none")
        if not all(0 < call < math.inf for call in calls):
            raise ValueError(f"{self.name} needs finite times above zero")

    @property
    def medians_s(self) -> tuple[float, ...]:
        """Median time of a call in each block."""
        return tuple(float(np.median(block)) for block in self.blocks_s)

    @property
    def p50_ms(self) -> float:
        """Median time of a call over all blocks, ms."""
        return 1e3 * float(np.median([call for block in self.blocks_s for call in block]))


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times as long one candidate takes as another.

    Attributes:
        value: geometric mean over rounds.
        low: lower end of the 95 % interval.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def faster(self) -> bool:
        """Proven to take less time."""
        return self.high < 1.0

    @property
    def slower(self) -> bool:
        """Proven to take more."""
        return self.low > 1.0

    def words(self) -> str:
        """The figure with its interval.

        Example:
            >>> Ratio(value=0.95, low=0.93, high=0.97).words()
            '0.950 [0.930, 0.970]'
        """
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio(one: Blocks, other: Blocks) -> Ratio:
    """Time of ``one`` over that of ``other``, paired by round.

    Each round gives the logarithm of the ratio of two medians; their mean has Student's t interval.

    Example:
        The machine is half as fast in the second round, for both:

        >>> fast = Blocks(name="fast", blocks_s=((1.0, 1.0), (2.0, 2.0), (1.0, 1.0)))
        >>> slow = Blocks(name="slow", blocks_s=((1.5, 1.5), (3.0, 3.0), (1.5, 1.5)))
        >>> round(ratio(slow, fast).value, 3), round(ratio(slow, fast).high, 3)
        (1.5, 1.5)

    Raises:
        ValueError: they have not the same number of rounds, or fewer than two.
    """
    rounds = len(one.blocks_s)
    if rounds != len(other.blocks_s) or rounds < 2:
        raise ValueError(f"{one.name} and {other.name} need two rounds or more, and as many")
    logs = np.log(np.asarray(one.medians_s) / np.asarray(other.medians_s))
    mean = float(logs.mean())
    if np.ptp(logs) == 0:
        return Ratio(value=math.exp(mean), low=math.exp(mean), high=math.exp(mean))
    low, high = stats.t.interval(CONFIDENCE, rounds - 1, loc=mean, scale=stats.sem(logs))
    return Ratio(value=math.exp(mean), low=math.exp(float(low)), high=math.exp(float(high)))


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A candidate.

    Attributes:
        name: of it.
        block: makes calls back to back for so many seconds and tells what each took, as
            ``deploy.runtimes.timing.block_seconds`` does.
    """

    name: str
    block: Callable[[float], tuple[float, ...]]

    @classmethod
    def of(cls, name: str, runtime: Runtime, feeds: Feeds) -> Timed:
        """An open runtime, on one batch."""
        return cls(name=name, block=partial(block_seconds, runtime, feeds))


def take_turns(
    candidates: Sequence[Timed],
    *,
    rounds: int,
    enough: Callable[[Sequence[Blocks]], bool] | None = None,
    block_s: float = BLOCK_S,
    rest: Callable[[float], None] = time.sleep,
) -> tuple[Blocks, ...]:
    """Time candidates in blocks, round by round.

    Who begins changes from round to round, so that no candidate always follows the same one.

    Args:
        candidates: two or more, warmed up.
        rounds: at most.
        enough: asked after each round from the second on, with what was measured; ends it early.
        block_s: seconds of counted calls in a block.
        rest: sleeps so many seconds before each block.

    Raises:
        UsageError: fewer than two candidates or rounds, or a block of no length.
        RunError: a runtime failed.
    """
    if len(candidates) < 2 or rounds < 2 or block_s <= 0:
        raise UsageError(
            f"cannot compare {len(candidates)} candidates in {rounds} rounds of {block_s} s; "
            "expected two candidates and two rounds at least"
        )
    found: list[list[tuple[float, ...]]] = [[] for _ in candidates]

    def so_far() -> tuple[Blocks, ...]:
        pairs = zip(candidates, found, strict=True)
        return tuple(Blocks(name=c.name, blocks_s=tuple(blocks)) for c, blocks in pairs)

    with collector_paused():
        for done in range(rounds):
            first = done % len(candidates)
            for place in (*range(first, len(candidates)), *range(first)):
                rest(REST_S)
                found[place].append(candidates[place].block(block_s))
            if enough is not None and done and enough(so_far()):
                break
    return so_far()
