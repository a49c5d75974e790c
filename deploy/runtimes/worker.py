"""A process that holds one runtime at a time and does what ``deploy.runtimes.isolated`` asks.

What a backend does to its process - a crash, a hang, output of its own - stays in here. The caller
sees a connection that answers, that ends, or that is silent for too long.
"""

from __future__ import annotations

import fcntl
import gc
import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from segdeploy.deploy.runtimes.base import Feeds, Results, Runtime
from segdeploy.deploy.runtimes.executed import Executed
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.timing import call_seconds, completions
from segdeploy.deploy.runtimes.worker_process import ANSWERED, RAISED, REFUSED
from segdeploy.deploy.system.errors import RunError, SegdeployError
from segdeploy.deploy.system.memory import return_freed_memory


class Worker:
    """The commands; each public method is one, called with what the caller sent."""

    def __init__(self) -> None:
        self._runtime: Runtime | None = None
        self._feeds: Feeds = {}

    def prepare(self, folder: str, search: list[str]) -> None:
        """Be where the caller is, so that relative paths mean the same."""
        os.chdir(folder)
        sys.path[:] = search

    def call(self, function: bytes) -> Any:
        """Call a pickled function without arguments."""
        return pickle.loads(function)()

    def open(self, opener: bytes) -> tuple[str, Sequence[Any], Sequence[Any], Execution]:
        """Hold the runtime that a pickled function gives; what it says of itself."""
        runtime: Runtime = pickle.loads(opener)()
        self._runtime = runtime.__enter__()
        return runtime.name, runtime.inputs, runtime.outputs, runtime.execution

    def executed(self) -> Executed:
        """What the runtime executes."""
        return self._opened.executed

    def infer(self, feeds: Feeds) -> Results:
        """One batch."""
        return self._opened.infer(feeds)

    def infer_many(self, batches: Sequence[Feeds]) -> list[Results]:
        """Several batches, on every stream."""
        return list(self._opened.infer_many(batches))

    def keep(self, feeds: Feeds) -> None:
        """Keep a batch for the calls that are timed."""
        self._feeds = feeds

    def call_seconds(self) -> float:
        """Time one call on the batch that is kept."""
        return call_seconds(self._opened, self._feeds)

    def completions(self, seconds: float) -> tuple[float, ...]:
        """Time requests of the batch that is kept for a while."""
        return completions(self._opened, self._feeds, seconds)

    def close(self) -> None:
        """Free the runtime; another one can be opened then."""
        self._opened.__exit__(None, None, None)
        self._runtime, self._feeds = None, {}
        return_freed_memory()

    @property
    def _opened(self) -> Runtime:
        if self._runtime is None:
            raise RunError("no runtime is open")
        return self._runtime


def serve(connection: Connection) -> None:
    """Answer until the caller closes the connection."""
    worker = Worker()
    while True:
        try:
            command, *arguments = connection.recv()
        except EOFError:
            return
        connection.send(_answer(getattr(worker, command), arguments))


def _answer(command: Callable[..., Any], arguments: Sequence[Any]) -> tuple[str, Any]:
    try:
        return ANSWERED, command(*arguments)
    except SegdeployError as error:
        return REFUSED, (type(error), str(error))
    except Exception as error:  # a backend may raise anything: the caller decides what it means
        words = " ".join(str(error).split())
        return RAISED, f"{type(error).__name__}{' (' + words + ')' if words else ''}"


def end_with_parent() -> None:
    """Let the system end this process when its parent is gone, whatever code it is in then.

    Standard input is a pipe on which nothing is ever written; its other end closes with the parent,
    which the system tells by SIGIO.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)


def main() -> None:
    """Serve on the socket whose number is the only argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its workers
    end_with_parent()
    os.dup2(2, 1)  # what a backend prints is no result
    gc.disable()  # as while timing; closing a runtime collects
    serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
