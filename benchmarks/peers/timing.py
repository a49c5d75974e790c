"""Time open contenders in turn: the figures of each, and what round-by-round ratios need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.speed.latency import Candidate, measure
from segdeploy.benchmarks.speed.throughput import measure_throughput
from segdeploy.deploy.runtimes.base import Execution, Hint, Runtime
from segdeploy.deploy.system.progress import ShareProgress


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How all contenders run at a time.

    Attributes:
        key: in the result.
        title: in the table.
        execution: of every contender, but for its precision.
    """

    key: str
    title: str
    execution: Execution


def settings_of(*, threads: int, batch: int) -> tuple[Setting, ...]:
    """Latency of one image; throughput with a stream for each thread, at batch 1 and ``batch``."""
    latency = Setting(
        key="latency", title="p50 ms, batch 1, 1 stream", execution=Execution(threads=threads)
    )
    throughput = [
        Setting(
            key=f"throughput_{size}",
            title=f"images/s, batch {size}, {threads} stream{'s' if threads > 1 else ''}",
            execution=Execution(threads=threads, batch=size, streams=threads, hint=Hint.THROUGHPUT),
        )
        for size in dict.fromkeys((1, batch))
    ]
    return (latency, *throughput)


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One contender with one setting.

    Attributes:
        figures: the columns of the result, raw samples included.
        per_image_s: seconds for an image in each round.
    """

    figures: Mapping[str, Any]
    per_image_s: tuple[float, ...]


def time_in_turn(
    runtimes: Sequence[Runtime],
    setting: Setting,
    images: NDArray[np.float32],
    *,
    warmup: int,
    duration_s: float,
    progress: ShareProgress,
) -> list[Timed]:
    """Time open runtimes, taking turns.

    Args:
        runtimes: opened with the setting's execution.
        setting: latency or throughput.
        images: float32 (N, 3, H, W), repeated to fill a batch.
        warmup: untimed calls of each.
        duration_s: seconds for each, about.
        progress: told the share done, 0 to 1.

    Returns:
        One for each runtime, in their order.

    Raises:
        RunError: a runtime failed.
    """
    feed = np.ascontiguousarray(images[np.arange(setting.execution.batch) % len(images)])
    candidates = [_candidate(runtime, feed) for runtime in runtimes]
    if setting.execution.hint is Hint.THROUGHPUT:
        return _throughput(candidates, warmup=warmup, duration_s=duration_s, progress=progress)
    results = measure(candidates, warmup=warmup, duration_s=duration_s, progress=progress)
    return [
        Timed(
            figures=result.columns(),
            per_image_s=tuple(sample / result.batch for sample in result.latencies_s),
        )
        for result in results
    ]


def _throughput(
    candidates: Sequence[Candidate], *, warmup: int, duration_s: float, progress: ShareProgress
) -> list[Timed]:
    results = measure_throughput(
        candidates, warmup=warmup, duration_s=duration_s, progress=progress
    )
    return [
        Timed(
            figures=result.columns(),
            per_image_s=tuple(
                stamps[-1] / (len(stamps) * result.batch) for stamps in result.completions_s
            ),
        )
        for result in results
    ]


def _candidate(runtime: Runtime, feed: NDArray[np.float32]) -> Candidate:
    return Candidate(
        name=runtime.name,
        runtime=runtime,
        feeds={runtime.inputs[0].name: feed},
        precision_requested=runtime.execution.precision,
    )
