"""Backends that do to their process what real ones do on a bad day."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator

import numpy as np

from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.runtimes.base import Executed, Execution, Feeds, Results
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.system.errors import RunError

FOREVER_S = 600.0

LIMIT_S = 1.0
"""Time limit where something hangs, seconds; other tests give backends all the time they need."""

REASONS = {
    "segv at load": "ended by SIGSEGV while loading",
    "abort at load": "ended by SIGABRT while loading",
    "exit at load": "ended with exit 3 while loading",
    "hang at load": f"no answer within {LIMIT_S:g} s while loading",
    "memory at load": "MemoryError (no room) while loading",
    "segv": "ended by SIGSEGV in inference",
    "abort": "ended by SIGABRT in inference",
    "exit": "ended with exit 3 in inference",
    "hang": f"no answer within {LIMIT_S:g} s in inference",
    "memory": "MemoryError (no room) in inference",
    "refuse": "device lost",
    "shape": "returned 'probability' as float32 (1, 1, 4, 4) in inference; expected float32 "
    "(1, 1, 32, 32)",
    "type": "returned 'probability' as float64 (1, 1, 32, 32) in inference; expected float32 "
    "(1, 1, 32, 32)",
    "names": "returned ['other'] in inference; the model's outputs are ['probability']",
}
"""What is said of each; ``DOES_NOT_HARM`` is not among them."""

DOES_NOT_HARM = "noise"
"""Prints to standard output, and answers."""


def misbehave(how: str) -> None:
    """Crash, hang, end or raise."""
    if how == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == "abort":
        os.abort()
    elif how == "exit":
        os._exit(3)
    elif how == "hang":
        os.write(2, b"hanging\n")
        time.sleep(FOREVER_S)
    elif how == "memory":
        raise MemoryError("no room")
    elif how == "refuse":
        raise RunError("device lost")


class Broken:
    """A model that takes the first channel for the probability, until its ``good``th call is over.

    ``how`` is a key of ``REASONS``.
    """

    name = "broken"

    def __init__(self, how: str, artifact: Artifact, execution: Execution, good: int) -> None:
        if how == DOES_NOT_HARM:
            os.write(1, b"\x00garbage\n")
            sys.stdout.write("more garbage\n")
            sys.stdout.flush()
        if how.endswith(" at load"):
            misbehave(how.removesuffix(" at load"))
        self.how, self.good = how, good
        self.inputs, self.outputs = artifact.inputs, artifact.outputs
        self.execution = execution
        self.executed = Executed(layers=(), requested=artifact.precision)

    def infer(self, feeds: Feeds) -> Results:
        """Answer while calls are good, then do what it is told."""
        self.good -= 1
        found = np.clip(feeds["image"][:, :1], 0, 1).astype(np.float32)
        if self.good >= 0:
            return {"probability": found}
        misbehave(self.how)
        return {
            "shape": {"probability": found[..., :4, :4]},
            "type": {"probability": found.astype(np.float64)},
            "names": {"other": found},
        }.get(self.how, {"probability": found})

    def infer_many(self, batches: Iterable[Feeds]) -> Iterator[Results]:
        """One after the other."""
        return map(self.infer, batches)

    def __enter__(self) -> Broken:
        return self

    def __exit__(self, *error: object) -> None: ...


def open_broken(
    how: str, good: int, which: str, name: RuntimeName, artifact: Artifact, *, execution: Execution
) -> object:
    """A broken backend for the runtime called ``which``; the others are what they are."""
    if name.value == which:
        return Broken(how, artifact, execution, good)
    return open_runtime(name, artifact, execution=execution)
