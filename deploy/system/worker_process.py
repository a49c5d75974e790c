"""Work in a process of its own: started when needed, asked, timed, and killed when it hangs.

``WorkerProcess.take`` gives one that is kept for other work while it is well; ``call_alone`` starts
a fresh one, whose time and memory are those of its work. Both import what this process would,
wherever they are started: nothing is looked for in the working folder unless this process does.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from typing import IO, Any, TypeVar

from segdeploy.deploy.system.errors import RunError
from segdeploy.deploy.system.progress import ShareProgress
from segdeploy.deploy.system.worker import Word

T = TypeVar("T")

START_LIMIT_S = 120.0
"""Longest time a new process may take to answer, seconds: its imports are no work of a backend."""

END_LIMIT_S = 20.0
"""Longest time a process may take to end once nothing is asked of it any more, seconds."""

ALONE = "in a process of its own"

BEGIN = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from segdeploy.deploy.system.worker import main; main(int(sys.argv[1]))"
)
"""Run with the connection's number and this process's import path: a module run by ``-m`` would
look into the working folder first, and Python 3.10 cannot be told not to."""


class WorkerProcess:
    """A process that runs ``deploy.system.worker``.

    Attributes:
        silent: it was asked and has not answered.

    Args:
        errors: file for its standard error; ``None`` leaves it with this process's.
    """

    _idle: list[WorkerProcess] = []  # noqa: RUF012  # of all of them together

    def __init__(self, *, errors: IO[str] | None = None) -> None:
        self._connection, theirs = Pipe()
        self._errors = errors
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", BEGIN, str(theirs.fileno()), *sys.path],
                stdin=subprocess.PIPE,  # its end tells the worker that this process is gone
                stderr=errors,
                **_inheriting(theirs.fileno()),
            )
        self.silent = False

    @classmethod
    def take(cls) -> WorkerProcess:
        """One that waits for work, or a new one; it is where this process is."""
        while cls._idle:
            process = cls._idle.pop()
            if process._process.poll() is None:
                break
        else:
            process = cls()
        process.ask(_stand, str(Path.cwd()), sys.path, limit_s=START_LIMIT_S, doing="when started")
        return process

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def ask(
        self,
        function: Callable[..., T],
        *arguments: Any,
        limit_s: float | None,
        doing: str,
        work_s: float = 0.0,
        progress: ShareProgress | None = None,
    ) -> T:
        """Let the worker call a function.

        Args:
            function: of a module; it and the arguments are what pickle can take, as must be what
                it returns.
            arguments: for it.
            limit_s: longest time until it answers, or between two reports of progress; then it is
                killed. ``None`` waits for ever.
            doing: where it was, for the message.
            work_s: what it is asked to take besides.
            progress: told the share done, 0 to 1, as the function reports it, which takes
                ``progress`` then. The first report may take ``START_LIMIT_S``.

        Raises:
            SegdeployError: what the function raised, with its class and message.
            RunError: it raised anything else, the process ended, or it did not answer.
        """
        call = pickle.dumps((function, arguments, progress is not None), pickle.HIGHEST_PROTOCOL)
        self.silent = True
        wait_s = limit_s
        if limit_s is not None:
            wait_s = max(limit_s, START_LIMIT_S) if progress else limit_s + work_s
        try:
            self._connection.send_bytes(call)
            while True:
                if not self._connection.poll(wait_s):
                    self.kill()
                    raise RunError(f"no answer within {limit_s:g} s {doing}")
                word, value = self._connection.recv()
                if word is not Word.AT_WORK:
                    break
                wait_s = limit_s
                if progress is not None:
                    progress(value)
        except (EOFError, OSError) as error:
            raise RunError(f"{self._ending()} {doing}") from error
        self.silent = False
        if word is Word.RAISED:
            raise RunError(f"{value} {doing}")
        if word is Word.REFUSED:
            kind, message = value
            raise kind(message)
        found: T = value
        return found

    def release(self) -> None:
        """Keep the process for other work; end it where it is in the middle of something."""
        if self.silent:
            self.kill()
        else:
            self._idle.append(self)

    def end(self) -> None:
        """Let the process end by itself; kill it where it is in the middle of something."""
        try:
            if not self.silent:
                self._connection.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(END_LIMIT_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._connection.close()
        if self._process.stdin:
            self._process.stdin.close()

    @classmethod
    def kill_idle(cls) -> None:
        """End those that wait for work."""
        while cls._idle:
            cls._idle.pop().kill()

    def _ending(self) -> str:
        """How the process ended by itself."""
        code = self._process.wait()
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"
        last_words: list[str] = []
        if self._errors is not None:
            self._errors.seek(0)
            last_words = self._errors.read().strip().splitlines()
        return last_words[-1] if last_words else f"ended with exit {code}"


def call_alone(
    function: Callable[..., T],
    *arguments: Any,
    progress: ShareProgress | None = None,
    silence_s: float | None = None,
) -> T:
    """Call a function in a fresh process that does nothing else.

    Args:
        function: of a module; it and the arguments are what pickle can take, as must be what it
            returns.
        arguments: for it.
        progress: told the share done, 0 to 1; the function takes ``progress`` then.
        silence_s: longest time between two reports of progress; then the process is killed. The
            first may take ``START_LIMIT_S``. ``None`` waits for ever.

    Raises:
        SegdeployError: the function's own, with its class and message.
        RunError: it raised anything else, broke off, or said nothing for too long.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = WorkerProcess(errors=errors)
        try:
            return process.ask(
                function, *arguments, limit_s=silence_s, doing=ALONE, progress=progress
            )
        finally:
            process.end()


def _stand(folder: str, search: list[str]) -> None:
    """Be where the caller is, so that relative paths mean the same."""
    os.chdir(folder)
    sys.path[:] = search


def _inheriting(number: int) -> dict[str, Any]:
    """How a child is given the connection of a number."""
    if os.name == "posix":
        return {"pass_fds": [number]}
    os.set_handle_inheritable(number, True)  # type: ignore[attr-defined]  # of Windows alone
    return {"close_fds": False}


atexit.register(WorkerProcess.kill_idle)
