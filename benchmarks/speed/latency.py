"""Latency and throughput of several candidates, interleaved in one run."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from segdeploy.benchmarks.speed.turns import Candidate, OnFailure, Turns
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.runtimes.timing import call_seconds
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.progress import ShareProgress

__all__ = ["BenchmarkResult", "Candidate", "collector_paused", "measure"]

MIN_SAMPLES = 10
"""Fewest timed calls of each candidate, however short the duration."""

NOISY_PERCENT = 10.0
"""A spread above this, between quartiles, makes small differences of latency meaningless."""

MS_PER_S = 1e3

REST_S = 0.02
"""Pause before each timed call. The threads of PyTorch's OpenMP wait for work in a loop for some
milliseconds; on two cores ONNX Runtime took 20.5 ms right after PyTorch and 14.9 ms alone, with
this pause 15.1 ms."""

MOST_REST = 1.0
"""Pauses last so many times as long as the calls, at most: calls of 0.3 ms would need 34 s for half
a second of calls, and say no more than a few dozen of them do."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """Timed calls of one candidate; every statistic is derived from the raw samples.

    ``latencies_s`` holds the wall time of each call of the whole batch, in seconds, in the order
    measured.

    Example:
        >>> result = BenchmarkResult(
        ...     artifact="net", runtime="onnxruntime", precision_requested=Precision.FP32,
        ...     precision_executed="fp32", batch=8, threads=2, streams=1,
        ...     latencies_s=(0.01, 0.02, 0.03))
        >>> result.p50_ms, result.images_per_s  # 24 images in 0.06 s
        (20.0, 400.0)

    Raises:
        ValueError: no samples, a sample that is not above zero, or a count below 1.
    """

    artifact: str
    runtime: str
    precision_requested: Precision
    precision_executed: str
    batch: int
    threads: int
    streams: int
    latencies_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.latencies_s or not all(0 < x < math.inf for x in self.latencies_s):
            raise ValueError(f"{self.artifact} needs finite latencies above zero, at least one")
        if min(self.batch, self.threads, self.streams) < 1:
            raise ValueError(
                f"{self.artifact} has batch {self.batch}, {self.threads} threads and "
                f"{self.streams} streams; expected 1 or more of each"
            )

    @property
    def p50_ms(self) -> float:
        """Median time of one call, ms."""
        return self.percentile_ms(50)

    @property
    def p90_ms(self) -> float:
        """90th percentile of the time of one call, ms."""
        return self.percentile_ms(90)

    @property
    def p99_ms(self) -> float:
        """99th percentile of the time of one call, ms."""
        return self.percentile_ms(99)

    @property
    def images_per_s(self) -> float:
        """All images over all time spent in calls."""
        return self.batch * len(self.latencies_s) / math.fsum(self.latencies_s)

    @property
    def noise_percent(self) -> float:
        """Spread between repetitions: interquartile range over the median, percent."""
        spread = self.percentile_ms(75) - self.percentile_ms(25)
        return 100.0 * spread / self.p50_ms

    @property
    def noisy(self) -> bool:
        """The machine was too busy for small differences to mean anything."""
        return self.noise_percent > NOISY_PERCENT

    def columns(self) -> dict[str, Any]:
        """What a row of a report says of the times, raw samples included."""
        return {
            "p50_ms": self.p50_ms,
            "p90_ms": self.p90_ms,
            "p99_ms": self.p99_ms,
            "images_per_s": self.images_per_s,
            "noise_percent": self.noise_percent,
            "latencies_s": list(self.latencies_s),
        }

    def percentile_ms(self, percent: float) -> float:
        """The time that ``percent`` of the calls stay within, ms, interpolated linearly."""
        return MS_PER_S * float(np.percentile(self.latencies_s, percent))


def measure(
    candidates: Sequence[Candidate],
    *,
    warmup: int,
    duration_s: float,
    min_samples: int = MIN_SAMPLES,
    progress: ShareProgress | None = None,
    on_failure: OnFailure | None = None,
    clock: Callable[[], float] = time.perf_counter,
    rest: Callable[[float], None] = time.sleep,
) -> list[BenchmarkResult]:
    """Time the candidates in turn, A B C A B C ..., after warming each up.

    Taking turns lets a slow moment of the machine fall on all of them. A rest before each call
    lets the threads of the one before come to a stop. The garbage collector pauses meanwhile.

    Args:
        candidates: all get the same number of calls.
        warmup: untimed calls of each candidate first.
        duration_s: seconds for each candidate on average: rounds go on until
            ``duration_s * len(candidates)`` have been timed, or the rests took ``MOST_REST`` times
            as long, as they do between short calls.
        min_samples: fewest timed calls of each candidate, even if that takes longer.
        progress: told the share done, 0 to 1, after every round, outside the timed calls.
        on_failure: told which candidate failed, by its place, and why; it is left out from then on.
        clock: seconds, monotonic; of runtimes in this process.
        rest: sleeps so many seconds.

    Returns:
        One result for each candidate that did not fail, in their order.

    Raises:
        UsageError: no candidates, or a negative or empty setting.
        RunError: a runtime failed and there is no ``on_failure``.
    """
    if not candidates or warmup < 0 or not 0 <= duration_s < math.inf or min_samples < 1:
        raise UsageError(
            f"cannot time {len(candidates)} candidates with --warmup {warmup}, --duration "
            f"{duration_s} and at least {min_samples} samples; expected at least 1 candidate, 0 "
            "warm-up calls, 0 seconds and 1 sample"
        )
    turns = Turns(candidates, on_failure)
    for candidate in turns.left():
        with turns.of(candidate):
            for _ in range(warmup):
                candidate.runtime.infer(candidate.feeds)
    samples: dict[int, list[float]] = {id(candidate): [] for candidate in candidates}
    with collector_paused():
        done, rounds = 0.0, 0
        while done < 1.0 and turns.left():
            for candidate in turns.left():
                rest(REST_S)
                with turns.of(candidate):
                    seconds = call_seconds(candidate.runtime, candidate.feeds, clock=clock)
                    samples[id(candidate)].append(seconds)
            rounds += 1
            left = turns.left()
            timed_s, budget_s = sum(sum(samples[id(c)]) for c in left), duration_s * len(left)
            rested_s = REST_S * rounds * len(left)
            elapsed = max(timed_s, rested_s / MOST_REST) / budget_s if budget_s > 0 else 1.0
            done = min(1.0, elapsed, rounds / min_samples)
            if progress is not None:
                progress(done)
    return turns.results(lambda candidate: _result(candidate, samples[id(candidate)]))


def _result(candidate: Candidate, latencies_s: Sequence[float]) -> BenchmarkResult:
    return BenchmarkResult(
        artifact=candidate.name,
        runtime=candidate.runtime.name,
        precision_requested=candidate.precision_requested,
        precision_executed=candidate.runtime.executed.words,
        batch=candidate.batch,
        threads=candidate.runtime.execution.threads,
        streams=candidate.runtime.execution.streams,
        latencies_s=tuple(latencies_s),
    )


@contextmanager
def collector_paused() -> Iterator[None]:
    """Collect now, not while timing; leave the collector as it was found."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
