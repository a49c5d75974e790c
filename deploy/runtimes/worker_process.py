"""A process for backends, started when needed, killed when it hangs, and kept while it is well."""

from __future__ import annotations

import atexit
import signal
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from segdeploy.deploy.system.errors import RunError

PACKAGES = Path(__file__).parents[2]
"""Folder a worker starts in, so that it imports the very packages of its parent."""

START_LIMIT_S = 120.0
"""Longest time a new process may take to answer, seconds: its imports are no work of a backend."""

ANSWERED, REFUSED, RAISED = "answered", "refused", "raised"
"""First word of an answer. A value follows; the class and the message of an error of this project;
or the words of any other error."""


class WorkerProcess:
    """A process that runs ``deploy.runtimes.worker``; kept for the next model when it is well."""

    _idle: list[WorkerProcess] = []  # noqa: RUF012  # of all of them together

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "segdeploy.deploy.runtimes.worker", str(theirs.fileno())],
                cwd=PACKAGES,
                stdin=subprocess.PIPE,  # its end tells the worker that this process is gone
                pass_fds=[theirs.fileno()],
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
        process.ask(
            "prepare", str(Path.cwd()), sys.path, limit_s=START_LIMIT_S, doing="when started"
        )
        return process

    def ask(
        self, command: str, *arguments: Any, limit_s: float, doing: str, work_s: float = 0.0
    ) -> Any:
        """Let the worker do something.

        Args:
            command: a method of ``deploy.runtimes.worker.Worker``.
            arguments: for it.
            limit_s: longest time until it answers; then it is killed.
            work_s: what it is asked to take besides.
            doing: where it was, for the message.

        Raises:
            SegdeployError: what the command raised.
            RunError: the process ended, or did not answer.
        """
        self.silent = True
        try:
            self._connection.send((command, *arguments))
            if not self._connection.poll(work_s + limit_s):
                self.kill()
                raise RunError(f"no answer within {limit_s:g} s {doing}")
            status, value = self._connection.recv()
        except (EOFError, OSError) as error:
            raise RunError(f"{self._ending()} {doing}") from error
        self.silent = False
        if status == RAISED:
            raise RunError(f"{value} {doing}")
        if status == REFUSED:
            kind, message = value
            raise kind(message)
        return value

    def release(self) -> None:
        """Keep the process for other work; end it where it is in the middle of something."""
        if self.silent:
            self.kill()
        else:
            self._idle.append(self)

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
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit {code}"


atexit.register(WorkerProcess.kill_idle)
