"""Which of the runtimes that are ready here runs given model files fastest."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.entries import DISPLAY_NAMES
from benchmarks.latency import measure
from benchmarks.random_feeds import random_feeds
from benchmarks.turns import Candidate, by_place
from deploy.artifact import Artifact
from deploy.errors import InputError, RunError, SegdeployError
from deploy.runtimes.base import Execution, Runtime
from deploy.runtimes.isolated import TIME_LIMIT_S, open_isolated
from deploy.runtimes.registry import RuntimeName, availability

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
        said = [f"{DISPLAY_NAMES[name]} {self.p50_ms[name]:.2f} ms" for name in order]
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
        p50_ms = _summed(candidates, names, duration_s=duration_s, refused=refused)
    if not p50_ms:
        reasons = "; ".join(f"{name.value}: {why}" for name, why in refused.items())
        raise InputError(f"--runtime auto finds no runtime for the models ({reasons})")
    return Fastest(p50_ms=p50_ms, refused=refused)


def _candidate(artifact: Artifact, runtime: Runtime) -> Candidate:
    return Candidate(
        name=artifact.path.name,
        runtime=runtime,
        feeds=random_feeds(artifact.inputs, runtime.execution.batch),
        precision_requested=artifact.precision,
    )


def _summed(
    candidates: Sequence[Candidate],
    names: Sequence[RuntimeName],
    *,
    duration_s: float,
    refused: dict[RuntimeName, str],
) -> dict[RuntimeName, float]:
    """The time of each runtime over its files; one that fails is entered as refused."""
    if not candidates:
        return {}
    failed: dict[int, RunError] = {}
    results = measure(
        candidates, warmup=WARMUP, duration_s=duration_s, on_failure=failed.__setitem__
    )
    refused |= {names[place]: str(error) for place, error in failed.items()}
    p50_ms = dict.fromkeys((name for name in names if name not in refused), 0.0)
    for place, result in by_place(results, failed).items():
        if names[place] in p50_ms:
            p50_ms[names[place]] += result.p50_ms
    return p50_ms
