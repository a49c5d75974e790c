"""Images a second with every stream busy, the candidates taking turns in slices of time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segdeploy.benchmarks.speed.latency import NOISY_PERCENT, collector_paused
from segdeploy.benchmarks.speed.turns import Candidate, OnFailure, Turns
from segdeploy.deploy.runtimes.timing import completions
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.progress import ShareProgress

SLICE_S = 0.5
"""Longest turn of a candidate, seconds."""

MIN_SLICES = 3
"""Fewest turns of each candidate, however short the duration."""


@dataclass(frozen=True, kw_only=True)
class ThroughputResult:
    """What one candidate completed; every statistic is derived from the raw stamps.

    Attributes:
        artifact: name of the candidate.
        batch: images of one request.
        completions_s: for each slice, when the result of each request came, in seconds since the
            slice began. A slice lasts from its first request to its last result, so that neither
            filling nor emptying the streams is left out.

    Example:
        >>> result = ThroughputResult(
        ...     artifact="net", batch=8, completions_s=((0.25, 0.5), (0.5,)))
        >>> result.images_per_s  # 3 batches of 8 in 0.5 s + 0.5 s
        24.0

    Raises:
        ValueError: no slices, a slice without results, or stamps that cannot be.
    """

    artifact: str
    batch: int
    completions_s: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.completions_s or self.batch < 1:
            raise ValueError(f"{self.artifact} needs a slice and a batch of 1 or more")
        for stamps in self.completions_s:
            if list(stamps) != sorted(stamps) or not stamps or not 0 < stamps[-1] < math.inf:
                raise ValueError(f"{self.artifact} has a slice that cannot be: {stamps}")

    @property
    def images_per_s(self) -> float:
        """All images completed over the time of all slices."""
        done = sum(len(stamps) for stamps in self.completions_s)
        return self.batch * done / math.fsum(stamps[-1] for stamps in self.completions_s)

    @property
    def noise_percent(self) -> float:
        """Spread between slices: interquartile range over the median of images/s, percent."""
        rates = [len(stamps) / stamps[-1] for stamps in self.completions_s]
        low, middle, high = np.percentile(rates, (25, 50, 75))
        return float(100.0 * (high - low) / middle)

    @property
    def noisy(self) -> bool:
        """The machine was too busy for small differences to mean anything."""
        return self.noise_percent > NOISY_PERCENT

    def columns(self) -> dict[str, Any]:
        """What a row of a report says of the throughput, raw stamps included."""
        return {
            "images_per_s": self.images_per_s,
            "noise_percent": self.noise_percent,
            "completions_s": [list(stamps) for stamps in self.completions_s],
        }


def measure_throughput(
    candidates: Sequence[Candidate],
    *,
    warmup: int,
    duration_s: float,
    progress: ShareProgress = lambda share: None,
    on_failure: OnFailure | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[ThroughputResult]:
    """Keep each candidate's streams busy in turn, A B C A B C ..., after warming each up.

    Taking turns lets a slow moment of the machine fall on all of them.

    Args:
        candidates: all get the same number of slices.
        warmup: untimed batches of each candidate first.
        duration_s: seconds for each candidate, in slices of ``SLICE_S`` or less.
        progress: told the share done, 0 to 1, after every round.
        on_failure: told which candidate failed, by its place, and why; it is left out from then on.
        clock: seconds, monotonic; of runtimes in this process.

    Returns:
        One result for each candidate that did not fail, in their order.

    Raises:
        UsageError: no candidates, or a negative setting.
        RunError: a runtime failed and there is no ``on_failure``.
    """
    if not candidates or warmup < 0 or not 0 <= duration_s < math.inf:
        raise UsageError(
            f"cannot time {len(candidates)} candidates with --warmup {warmup} and --duration "
            f"{duration_s}; expected at least 1 candidate, 0 warm-up calls and 0 seconds"
        )
    turns = Turns(candidates, on_failure)
    for candidate in turns.left():
        with turns.of(candidate):
            for _ in candidate.runtime.infer_many(candidate.feeds for _ in range(warmup)):
                pass
    slices: dict[int, list[tuple[float, ...]]] = {id(candidate): [] for candidate in candidates}
    turn_s = min(SLICE_S, duration_s / MIN_SLICES)
    rounds = max(MIN_SLICES, round(duration_s / turn_s) if turn_s else 0)
    with collector_paused():
        for done in range(1, rounds + 1):
            for candidate in turns.left():
                with turns.of(candidate):
                    stamps = completions(candidate.runtime, candidate.feeds, turn_s, clock=clock)
                    slices[id(candidate)].append(stamps)
            progress(done / rounds)
    return turns.results(
        lambda candidate: ThroughputResult(
            artifact=candidate.name,
            batch=candidate.batch,
            completions_s=tuple(slices[id(candidate)]),
        )
    )
