"""A runtime in a process of its own, so that one that crashes or hangs takes nothing with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from segdeploy.deploy.onnx_model.artifact import Artifact, TensorSpec
from segdeploy.deploy.runtimes import held
from segdeploy.deploy.runtimes.base import BATCHES_AHEAD, Feeds, Results, Runtime
from segdeploy.deploy.runtimes.executed import Executed
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.registry import (
    RuntimeName,
    availability,
    import_backend,
    open_runtime,
)
from segdeploy.deploy.runtimes.timing import DISCARDED_CALLS, FEWEST_CALLS
from segdeploy.deploy.system.errors import RunError
from segdeploy.deploy.system.worker_process import START_LIMIT_S, WorkerProcess

T = TypeVar("T")

TIME_LIMIT_S = 60.0
"""Longest time for loading a model or for one call, seconds."""

LOADING, IN_INFERENCE = "while loading", "in inference"

CAN_ISOLATE = os.name == "posix"
"""Elsewhere a runtime is opened in this process."""


def open_isolated(
    name: RuntimeName,
    artifact: Artifact,
    *,
    execution: Execution,
    time_limit_s: float = TIME_LIMIT_S,
) -> Runtime:
    """Load a model file in another process; results are those of ``open_runtime``, bit for bit.

    Args:
        name: the runtime.
        artifact: the ONNX file.
        execution: how to run it.
        time_limit_s: longest time for loading, and for each call.

    Raises:
        InputError: the runtime is not installed, or does not accept the file.
        UsageError: the runtime cannot compute in the precision asked for.
        RunError: it crashed or did not answer in time; its process is gone.
    """
    opener = partial(open_runtime, name, artifact, execution=execution)
    if not CAN_ISOLATE or not availability(name).ready:
        return opener()
    return IsolatedRuntime(opener, imports=partial(import_backend, name), time_limit_s=time_limit_s)


def call_isolated(function: Callable[[], T], *, limit_s: float, doing: str) -> T:
    """Call a function in another process.

    Args:
        function: what pickle can take, as must be what it returns.
        limit_s: longest time it may take.
        doing: what it does, for the message, e.g. ``in profiling``.

    Raises:
        SegdeployError: the function's own.
        RunError: it raised anything else, crashed, or did not answer in time.
    """
    if not CAN_ISOLATE:
        return function()
    process = WorkerProcess.take()
    try:
        return process.ask(function, limit_s=limit_s, doing=doing)
    finally:
        process.release()


class IsolatedRuntime:
    """The contract of ``deploy.runtimes.base``, kept by a runtime in another process.

    Args:
        opener: gives the runtime when called in that process; what pickle can take.
        imports: called there before, without the limit.
        time_limit_s: longest time for loading, and for each call.

    Raises:
        SegdeployError: the opener's own.
        RunError: it raised anything else, crashed, or did not answer in time.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    execution: Execution

    def __init__(
        self,
        opener: Callable[[], Runtime],
        *,
        imports: Callable[[], None] | None = None,
        time_limit_s: float,
    ) -> None:
        self._limit_s = time_limit_s
        self._kept: Feeds | None = None
        self._process = WorkerProcess.take()
        try:
            for import_ in (held.begin, imports):
                if import_:
                    self._ask(import_, limit_s=START_LIMIT_S, doing="while importing")
            said = self._ask(held.hold, opener, doing=LOADING)
        except BaseException:
            self._process.release()
            raise
        self.name, self.inputs, self.outputs, self.execution = said

    @cached_property
    def executed(self) -> Executed:
        """What really runs, read where it runs."""
        return self._ask(held.executed, doing="when asked what it executes")

    def infer(self, feeds: Feeds) -> Results:
        """Run one batch; see the contract in ``deploy.runtimes.base``."""
        return self._fitting(feeds, self._ask(held.infer, feeds))

    def infer_many(self, batches: Iterable[Feeds]) -> Iterator[Results]:
        """Run many batches, as many at a time as the contract lets it take ahead."""
        waiting = iter(batches)
        while several := list(islice(waiting, BATCHES_AHEAD * self.execution.streams)):
            limit_s = self._limit_s * len(several)
            for feeds, found in zip(
                several, self._ask(held.infer_many, several, limit_s=limit_s), strict=True
            ):
                yield self._fitting(feeds, found)

    def call_seconds(self, feeds: Feeds) -> float:
        """Wall time of one call, taken in the other process; see ``deploy.runtimes.timing``."""
        self._keep(feeds)
        return self._ask(held.call_seconds)

    def block_seconds(self, feeds: Feeds, seconds: float) -> tuple[float, ...]:
        """Calls back to back in the other process; see ``deploy.runtimes.timing``."""
        self._keep(feeds)
        calls = FEWEST_CALLS + DISCARDED_CALLS
        limit_s = self._limit_s * calls + seconds
        return self._ask(held.block_seconds, seconds, limit_s=limit_s)

    def completions(self, feeds: Feeds, seconds: float) -> tuple[float, ...]:
        """When results came, taken in the other process; see ``deploy.runtimes.timing``."""
        self._keep(feeds)
        return self._ask(held.completions, seconds, work_s=seconds)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if not self._process.silent:
                self._ask(held.close, doing="when closed")
        finally:
            self._process.release()

    def _keep(self, feeds: Feeds) -> None:
        if self._kept is not feeds:
            self._ask(held.keep, feeds)
            self._kept = feeds

    def _ask(
        self,
        function: Callable[..., T],
        *arguments: Any,
        limit_s: float | None = None,
        work_s: float = 0.0,
        doing: str = IN_INFERENCE,
    ) -> T:
        limit_s = self._limit_s if limit_s is None else limit_s
        return self._process.ask(function, *arguments, limit_s=limit_s, doing=doing, work_s=work_s)

    def _fitting(self, feeds: Feeds, results: Results) -> Results:
        """Refuse results that are not what the model's outputs state.

        Raises:
            RunError: another name, type or shape.
        """
        batch = len(next(iter(feeds.values())))
        if sorted(results) != sorted(spec.name for spec in self.outputs):
            raise RunError(
                f"returned {sorted(results)} {IN_INFERENCE}; the model's outputs are "
                f"{[spec.name for spec in self.outputs]}"
            )
        for spec in self.outputs:
            found = results[spec.name]
            expected = (batch, *spec.shape[1:])
            fits = len(found.shape) == len(expected) and all(
                side == length
                for side, length in zip(found.shape, expected, strict=True)
                if isinstance(length, int)
            )
            if not fits or found.dtype != np.dtype(spec.dtype):
                raise RunError(
                    f"returned {spec.name!r} as {found.dtype} {found.shape} {IN_INFERENCE}; "
                    f"expected {spec.dtype} {expected}"
                )
        return results
