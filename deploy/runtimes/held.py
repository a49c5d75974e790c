"""The one runtime that a worker process holds for ``deploy.runtimes.isolated``.

Each function is called in that process. What is held there is its own: a process that asks another
to hold a runtime holds none itself.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from segdeploy.deploy.onnx_model.artifact import TensorSpec
from segdeploy.deploy.runtimes import timing
from segdeploy.deploy.runtimes.base import Feeds, Results, Runtime
from segdeploy.deploy.runtimes.executed import Executed
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.system.errors import RunError
from segdeploy.deploy.system.memory import return_freed_memory

Said = tuple[str, tuple[TensorSpec, ...], tuple[TensorSpec, ...], Execution]
"""What a runtime says of itself: name, inputs, outputs, execution."""


@dataclass
class _Held:
    """A runtime, and the batch that its calls are timed on."""

    runtime: Runtime | None = None
    feeds: Feeds = field(default_factory=dict)

    @property
    def opened(self) -> Runtime:
        if self.runtime is None:
            raise RunError("no runtime is open")
        return self.runtime


_held = _Held()


def begin() -> None:
    """Make the process one for backends: collect no garbage while they work, as while timing."""
    gc.disable()


def hold(opener: Callable[[], Runtime]) -> Said:
    """Open a runtime and keep it; what it says of itself."""
    runtime = opener()
    _held.runtime = runtime.__enter__()
    return runtime.name, runtime.inputs, runtime.outputs, runtime.execution


def executed() -> Executed:
    """What the runtime executes."""
    return _held.opened.executed


def infer(feeds: Feeds) -> Results:
    """One batch."""
    return _held.opened.infer(feeds)


def infer_many(batches: Sequence[Feeds]) -> list[Results]:
    """Several batches, on every stream."""
    return list(_held.opened.infer_many(batches))


def keep(feeds: Feeds) -> None:
    """Keep a batch for the calls that are timed."""
    _held.feeds = feeds


def call_seconds() -> float:
    """Time one call on the batch that is kept."""
    return timing.call_seconds(_held.opened, _held.feeds)


def block_seconds(seconds: float) -> tuple[float, ...]:
    """Time calls of the batch that is kept, back to back."""
    return timing.block_seconds(_held.opened, _held.feeds, seconds)


def completions(seconds: float) -> tuple[float, ...]:
    """Time requests of the batch that is kept for a while."""
    return timing.completions(_held.opened, _held.feeds, seconds)


def close() -> None:
    """Free the runtime; another one can be opened then."""
    _held.opened.__exit__(None, None, None)
    _held.runtime, _held.feeds = None, {}
    return_freed_memory()
