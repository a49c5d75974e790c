"""The timed part of a measurement: one call, or a while with every stream busy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from segdeploy.deploy.runtimes.base import Feeds, Runtime

Clock = Callable[[], float]
"""Seconds, monotonic."""


FEWEST_CALLS = 3
"""Counted calls of a block, however long each takes."""

DISCARDED_CALLS = 2
"""First calls of a block, which pay for what ran before."""


@runtime_checkable
class TimesBlocks(Protocol):
    """A runtime that lives in another process, and makes the calls of a block there."""

    def block_seconds(self, feeds: Feeds, seconds: float) -> tuple[float, ...]:
        """As the function of this name."""


@runtime_checkable
class TimesItself(Protocol):
    """A runtime that lives in another process, and takes the time there."""

    def call_seconds(self, feeds: Feeds) -> float:
        """As the function of this name."""

    def completions(self, feeds: Feeds, seconds: float) -> tuple[float, ...]:
        """As the function of this name."""


def call_seconds(runtime: Runtime, feeds: Feeds, *, clock: Clock = time.perf_counter) -> float:
    """Wall time of one call of ``infer``, taken in the process that makes the call.

    Args:
        runtime: open.
        feeds: one batch; not to change between calls.
        clock: of a runtime in this process.

    Raises:
        RunError: the runtime failed.
    """
    if isinstance(runtime, TimesItself):
        return runtime.call_seconds(feeds)
    start = clock()
    runtime.infer(feeds)
    return clock() - start


def completions(
    runtime: Runtime, feeds: Feeds, seconds: float, *, clock: Clock = time.perf_counter
) -> tuple[float, ...]:
    """Requests for a while, one for each stream at least; when each result came.

    Args:
        runtime: open.
        feeds: one batch, requested again and again; not to change between calls.
        seconds: new requests are made for so long.
        clock: of a runtime in this process.

    Returns:
        Seconds since the start, rising.

    Raises:
        RunError: the runtime failed.
    """
    if isinstance(runtime, TimesItself):
        return runtime.completions(feeds, seconds)
    begin = clock()

    def requests() -> Iterator[Feeds]:
        asked = 0
        while asked < runtime.execution.streams or clock() - begin < seconds:
            asked += 1
            yield feeds

    return tuple(clock() - begin for _ in runtime.infer_many(requests()))


def block_seconds(
    runtime: Runtime, feeds: Feeds, seconds: float, *, clock: Clock = time.perf_counter
) -> tuple[float, ...]:
    """Calls of ``infer`` back to back, in the process that makes them; see ``block_of``.

    Raises:
        RunError: the runtime failed.
    """
    if isinstance(runtime, TimesBlocks):
        return runtime.block_seconds(feeds, seconds)
    return block_of(lambda: call_seconds(runtime, feeds, clock=clock), seconds)


def block_of(call: Callable[[], float], seconds: float) -> tuple[float, ...]:
    """Calls back to back until those that count have taken so many seconds.

    Args:
        call: makes one and tells the seconds it took.
        seconds: in all; ``FEWEST_CALLS`` are counted however long each takes.

    Returns:
        Seconds of each call behind the first ``DISCARDED_CALLS``.
    """
    for _ in range(DISCARDED_CALLS):
        call()
    calls: list[float] = []
    while len(calls) < FEWEST_CALLS or math.fsum(calls) < seconds:
        calls.append(call())
    return tuple(calls)
