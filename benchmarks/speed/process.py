"""Work in a process of its own, so that its time and its memory are its own."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import IO, Any

from segdeploy.deploy.runtimes.worker_process import PACKAGES, START_LIMIT_S
from segdeploy.deploy.system.errors import InputError, RunError, SegdeployError, UsageError

Progress = Callable[[float], None]
"""Told the share done, 0 to 1."""

STATUS = Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a process ended.

    Attributes:
        code: exit code; negative for the signal that ended it.
        reason: its last words on standard error, or what ended it.
        seconds: from starting the process to its end, imports included.
    """

    code: int
    reason: str
    seconds: float


def run_process(
    command: Sequence[str],
    *,
    told: str = "",
    folder: Path | None = None,
    heard: Callable[[str], None] = lambda line: None,
    silence_s: float | None = None,
) -> Finished:
    """Run a command to its end; it does not outlive an interrupted caller.

    Args:
        command: program and arguments.
        told: its standard input.
        folder: where it runs; ``None`` is here.
        heard: given each line of its standard output, as it comes.
        silence_s: longest time between lines; then it is killed. ``None`` waits for ever. The
            first line may take ``START_LIMIT_S``.
    """
    started = perf_counter()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            errors="replace",
        ) as process,
    ):
        watch = _Watch(process, silence_s)
        try:
            with watch:
                _tell(process.stdin, told)
                for line in process.stdout or ():
                    watch.heard()
                    heard(line)
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        seconds = perf_counter() - started
        errors.seek(0)
        last_words = errors.read().strip().splitlines() or [f"exit code {code}"]
    reason = f"ended by {signal.Signals(-code).name}" if code < 0 else last_words[-1]
    if watch.ended_it:
        reason = f"no answer within {silence_s:g} s"
    return Finished(code=code, reason=reason, seconds=seconds)


class _Watch:
    """Kills a process that says nothing for too long.

    Args:
        process: the one that is watched.
        silence_s: longest time between lines; ``None`` watches nothing.
    """

    def __init__(self, process: subprocess.Popen[str], silence_s: float | None) -> None:
        self._process = process
        self._silence_s = silence_s
        self._said = threading.Condition()
        self._first_s = max(START_LIMIT_S, silence_s or 0.0)
        self._lines = 0
        self._over = silence_s is None
        self.ended_it = False
        self._thread = threading.Thread(target=self._wait, daemon=True)

    def heard(self) -> None:
        """A line came."""
        with self._said:
            self._lines += 1
            self._said.notify()

    def _wait(self) -> None:
        with self._said:
            while not self._over:
                lines = self._lines
                self._said.wait(self._silence_s if lines else self._first_s)
                if not self._over and self._lines == lines:
                    self.ended_it = self._over = True
                    self._process.kill()

    def __enter__(self) -> _Watch:
        if not self._over:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._said:
            self._over = True
            self._said.notify()


def call_worker(
    module: str,
    request: dict[str, Any],
    *,
    progress: Progress = lambda share: None,
    silence_s: float | None = None,
) -> dict[str, Any]:
    """Let a module's ``serve`` do a piece of work in a fresh process.

    Args:
        module: its full name, e.g. ``benchmarks.speed.cold_start``.
        request: what JSON can hold; paths are absolute.
        progress: told the share done, as the worker reports it.
        silence_s: longest time between two reports; then the worker is killed.

    Returns:
        The worker's reply.

    Raises:
        UsageError, InputError, RunError: the worker's own, with its message.
        RunError: the worker broke off, or said nothing for too long.
    """
    replies: list[dict[str, Any]] = []

    def heard(line: str) -> None:
        said = _message(line)
        if "share" in said:
            progress(said["share"])
        if "reply" in said:
            replies.append(said["reply"])

    finished = run_process(
        [sys.executable, "-m", module],
        told=json.dumps(request),
        folder=PACKAGES,
        heard=heard,
        silence_s=silence_s,
    )
    for kind in (UsageError, InputError):
        if finished.code == kind.exit_code:
            raise kind(finished.reason)
    if finished.code or not replies:
        raise RunError(f"a process that measured alone failed: {finished.reason}")
    return replies[-1]


def serve(work: Callable[[dict[str, Any], Progress], dict[str, Any]]) -> int:
    """Do in this process what ``call_worker`` asked for; the whole ``main`` of a worker.

    Returns:
        The exit code, as the command line has it.
    """
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a library prints is no answer
    try:
        reply = work(json.load(sys.stdin), lambda share: _say(answers, {"share": share}))
    except SegdeployError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return error.exit_code
    _say(answers, {"reply": reply})
    return 0


def peak_bytes() -> int:
    """The largest resident memory of this process so far.

    On Linux ``ru_maxrss`` starts at the peak of the process that started this one, so the kernel's
    own high-water mark of this program's memory is read instead.

    Raises:
        RunError: the system does not tell.
    """
    if STATUS.is_file():
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key == "VmHWM":
                return int(value.split()[0]) * 1024
    try:
        import resource
    except ImportError as error:
        raise RunError("this system does not tell a process's peak memory") from error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _tell(stream: IO[str] | None, told: str) -> None:
    if stream is not None:
        with contextlib.suppress(BrokenPipeError), stream:  # it may end without listening
            stream.write(told)


def _say(stream: IO[str], message: dict[str, Any]) -> None:
    stream.write(json.dumps(message, allow_nan=False) + "\n")
    stream.flush()


def _message(line: str) -> dict[str, Any]:
    """What a worker's line says; nothing where a library printed it."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
