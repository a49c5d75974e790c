"""Which of the runtimes that are ready here runs given model files fastest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import fsum

from segdeploy.benchmarks.speed.entries import DISPLAY_NAMES
from segdeploy.benchmarks.speed.latency import BenchmarkResult, measure
from segdeploy.benchmarks.speed.random_feeds import fixed_batch, random_feeds, size_to_feed
from segdeploy.benchmarks.speed.timing_noise import ratio_interval
from segdeploy.benchmarks.speed.turns import Candidate, by_place
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.runtimes.base import Execution, Runtime
from segdeploy.deploy.runtimes.isolated import TIME_LIMIT_S, open_isolated
from segdeploy.deploy.runtimes.registry import RuntimeName, availability
from segdeploy.deploy.system.errors import InputError, RunError, SegdeployError

WARMUP = 3
DURATION_S = 0.5
"""Seconds of timing for each runtime and file: enough to tell runtimes apart, no benchmark."""


@dataclass(frozen=True, kw_only=True)
class Fastest:
    """What was measured.

    Attributes:
        p50_ms: for each runtime that runs all files, the median time of one call, in ms, summed
            over the files.
        refused: for each other runtime that is ready, why it does not.
        alike: those whose time could not be told from that of the fastest.

    Raises:
        ValueError: no runtime runs the files.

    Example:
        >>> times = {RuntimeName.ONNXRUNTIME: 14.25, RuntimeName.OPENVINO: 12.5}
        >>> found = Fastest(p50_ms=times, refused={})
        >>> found.runtime.value, found.words
        ('openvino', 'OpenVINO 12.50 ms, ONNX Runtime 14.25 ms')
    """

    p50_ms: dict[RuntimeName, float]
    refused: dict[RuntimeName, str]
    alike: tuple[RuntimeName, ...] = ()

    def __post_init__(self) -> None:
        if not self.p50_ms:
            raise ValueError("no runtime was measured")

    @property
    def runtime(self) -> RuntimeName:
        """The fastest."""
        return min(self.p50_ms, key=lambda name: self.p50_ms[name])

    @property
    def words(self) -> str:
        """The figures, the fastest first."""
        order = sorted(self.p50_ms, key=lambda name: self.p50_ms[name])
        said = [
            f"{DISPLAY_NAMES[name]} {self.p50_ms[name]:.2f} ms"
            + (" (within noise)" if name in self.alike else "")
            for name in order
        ]
        said += [f"{DISPLAY_NAMES[name]} left out: {why}" for name, why in self.refused.items()]
        return ", ".join(said)


def fastest(
    artifacts: Sequence[Artifact],
    *,
    execution: Execution,
    duration_s: float = DURATION_S,
    time_limit_s: float = TIME_LIMIT_S,
) -> Fastest:
    """Time every runtime that is ready on every file, interleaved in one run.

    Args:
        artifacts: model files; all of them count.
        execution: how they will run.
        duration_s: seconds for each runtime and file.
        time_limit_s: longest time for loading a file, and for each call.

    Raises:
        InputError: no runtime runs all files; with each one's reason.
    """
    refused: dict[RuntimeName, str] = {}
    candidates: list[Candidate] = []
    names: list[RuntimeName] = []
    with ExitStack() as stack:
        for name in (name for name in RuntimeName if availability(name).ready):
            try:
                opened = [
                    stack.enter_context(
                        open_isolated(
                            name, artifact, execution=execution, time_limit_s=time_limit_s
                        )
                    )
                    for artifact in artifacts
                ]
            except SegdeployError as error:
                refused[name] = str(error)
                continue
            candidates += map(_candidate, artifacts, opened)
            names += [name] * len(opened)
        timed = _timed(candidates, names, duration_s=duration_s, refused=refused)
    if not timed:
        reasons = "; ".join(f"{name.value}: {why}" for name, why in refused.items())
        raise InputError(f"--runtime auto finds no runtime for the models ({reasons})")
    p50_ms = {name: sum(result.p50_ms for result in results) for name, results in timed.items()}
    found = Fastest(p50_ms=p50_ms, refused=refused)
    return replace(found, alike=_alike(found.runtime, timed))


def _candidate(artifact: Artifact, runtime: Runtime) -> Candidate:
    return Candidate(
        name=artifact.path.name,
        runtime=runtime,
        feeds=random_feeds(
            artifact.inputs,
            fixed_batch(artifact) or runtime.execution.batch,
            size=size_to_feed(artifact),
        ),
        precision_requested=artifact.precision,
    )


def _timed(
    candidates: Sequence[Candidate],
    names: Sequence[RuntimeName],
    *,
    duration_s: float,
    refused: dict[RuntimeName, str],
) -> dict[RuntimeName, list[BenchmarkResult]]:
    """The times of each runtime on its files; one that fails is entered as refused."""
    if not candidates:
        return {}
    failed: dict[int, RunError] = {}
    results = measure(
        candidates, warmup=WARMUP, duration_s=duration_s, on_failure=failed.__setitem__
    )
    refused |= {names[place]: str(error) for place, error in failed.items()}
    timed: dict[RuntimeName, list[BenchmarkResult]] = {}
    for place, result in by_place(results, failed).items():
        if names[place] not in refused:
            timed.setdefault(names[place], []).append(result)
    return timed


def _alike(
    best: RuntimeName, timed: Mapping[RuntimeName, Sequence[BenchmarkResult]]
) -> tuple[RuntimeName, ...]:
    """The runtimes whose rounds, summed over the files, do not tell them from the best."""
    rounds = {
        name: [fsum(lap) for lap in zip(*(result.latencies_s for result in results), strict=True)]
        for name, results in timed.items()
    }
    intervals = {
        name: ratio_interval(rounds[best], laps)
        for name, laps in rounds.items()
        if name is not best
    }
    return tuple(name for name, ends in intervals.items() if ends and ends[0] <= 1.0)
