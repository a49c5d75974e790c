"""The timed part of a measurement: one call, or a while with every stream busy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from segdeploy.deploy.runtimes.base import Feeds, Runtime

Clock = Callable[[], float]
"""Seconds, monotonic."""


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
