"""What other processes took of the processors while something was timed."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass

import psutil

SHORTEST_S = 0.2
"""Less tells nothing: the system counts processor time in steps of 10 ms."""

BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
"""States of a processor in which nobody else gets it."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Seconds: of the clock, of the processors at work, and of this process and all it started."""

    clock_s: float
    busy_s: float
    own_s: float


class OtherLoad:
    """Measures while it is entered.

    Attributes:
        percent: share of the processors this process may use that others had, 0 to 100; ``None``
            before the end, where it was too short, or where the system does not tell.
    """

    percent: float | None = None

    def __enter__(self) -> OtherLoad:
        self._before = sample()
        return self

    def __exit__(self, *error: object) -> None:
        self.percent = percent_of_others(self._before, sample(), cores=len(_cores()))


def percent_of_others(before: Sample, after: Sample, *, cores: int) -> float | None:
    """Share of the processors that other processes had between two samples.

    Example:
        Of two processors for 10 s, 12 s were worked, 5 s of them by this process: 7 of 20.

        >>> start = Sample(clock_s=0.0, busy_s=100.0, own_s=1.0)
        >>> end = Sample(clock_s=10.0, busy_s=112.0, own_s=6.0)
        >>> percent_of_others(start, end, cores=2)
        35.0
    """
    elapsed, busy = after.clock_s - before.clock_s, after.busy_s - before.busy_s
    if elapsed < SHORTEST_S or cores < 1 or busy <= 0:
        return None
    others = busy - (after.own_s - before.own_s)
    return 100.0 * min(1.0, max(0.0, others / (elapsed * cores)))


def sample() -> Sample:
    """Now."""
    times = psutil.cpu_times(percpu=True)
    used = [times[core] for core in _cores() if core < len(times)]
    return Sample(
        clock_s=time.perf_counter(),
        busy_s=sum(getattr(core, state, 0.0) for core in used for state in BUSY),
        own_s=_own_s(),
    )


def _cores() -> list[int]:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _own_s() -> float:
    """Processor time of this process and all below it, those that ended included."""
    here = psutil.Process()
    total = 0.0
    for process in (here, *here.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
