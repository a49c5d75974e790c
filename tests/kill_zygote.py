"""A warmed-up process that forks one child for each command, so that it can be killed cheaply.

Importing torch takes seconds, which is most of a short command. The zygote has imported it and
started no thread and no session; the child goes on as a fresh process would: a process group of
its own, the verb's own imports, ``segdeploy``'s own ``main`` and exit.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
OPERATIONS = ("replace", "rename", "unlink", "remove")
"""Of ``os``: what a command does to names that others see."""


WARM = (
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "onnxscript",
    "torch._dynamo",
    "torch.onnx._internal.exporter._core",
    "torch.utils.data",
    "segdeploy.benchmarks.parity.run",
    "segdeploy.benchmarks.report.files",
    "segdeploy.benchmarks.speed.run",
    "segdeploy.benchmarks.parity.worst_images",
    "segdeploy.cli.main",
    "segdeploy.deploy.stages.export",
    "segdeploy.deploy.packaging.registry",
    "segdeploy.deploy.prediction.run",
    "segdeploy.deploy.data.prepare",
    "segdeploy.deploy.stages.rewrite",
    "segdeploy.deploy.stages.simplify",
    "segdeploy.deploy.stages.to_fp16",
    "segdeploy.deploy.quantize.to_int8",
    "segdeploy.training.loop",
)
"""Imported before the fork. ONNX Runtime starts a thread when it is imported: the child does."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to run.

    Attributes:
        argv: after ``segdeploy``.
        folder: where it runs; what it writes to the terminal goes to ``terminal`` there.
        aim: die before the n-th change of a name below ``folder``, from 1.
        torn: of a file that was to be renamed then, the second half is lost.
        reuse: folder of exports that were made before, and no process for timings.
        patches: "module:name" to a value, for intervals that are too long for a test.
        number: of the signal ``aim`` means.
    """

    argv: list[str]
    folder: str
    terminal: str
    aim: int | None = None
    torn: bool = False
    reuse: str | None = None
    patches: dict[str, Any] = field(default_factory=dict)
    number: int = signal.SIGKILL


class Attempt:
    """A command that is running."""

    def __init__(self, pid: int, zygote: Zygote) -> None:
        self.pid, self._zygote = pid, zygote

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the command and everything it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self, timeout_s: float = 120.0) -> int:
        """The exit code, negative for the signal that ended it."""
        return int(self._zygote.reply(timeout_s)["code"])

    def ended(self, within_s: float) -> bool:
        """Wait; whether it ended by itself meanwhile."""
        return self._zygote.has_reply(within_s)


class Zygote:
    """The warmed-up process, seen from outside. One command at a time."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        env = os.environ | dict.fromkeys(ONE_THREAD, "1") | (environment or {})
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
        )
        self._lines: list[bytes] = []
        self._arrived, self._gone = threading.Condition(), False
        threading.Thread(target=self._listen, daemon=True).start()
        self.reply(120.0)

    def start(self, command: Command) -> Attempt:
        """Run a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(command)).encode() + b"\n")
        self._process.stdin.flush()
        return Attempt(int(self.reply(60.0)["pid"]), self)

    def has_reply(self, within_s: float) -> bool:
        with self._arrived:
            return self._arrived.wait_for(lambda: self._lines or self._gone, within_s) and bool(
                self._lines
            )

    def reply(self, within_s: float) -> dict[str, Any]:
        assert self.has_reply(within_s), "no answer in time"
        with self._arrived:
            answer: dict[str, Any] = json.loads(self._lines.pop(0))
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            with self._arrived:
                self._lines.append(line)
                self._arrived.notify_all()
        with self._arrived:
            self._gone = True
            self._arrived.notify_all()


def serve() -> int:
    """The zygote's own loop; a child leaves it with the exit code of its command."""
    for name in WARM:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    gc.freeze()  # no child need look at what all of them share
    threads = Path("/proc/self/task")
    if threads.is_dir():
        assert len(list(threads.iterdir())) == 1, "a thread would not survive the fork"
    _say({"ready": True})
    for line in sys.stdin.buffer:
        command = Command(**json.loads(line))
        pid = os.fork()
        if pid == 0:
            return _child(command)
        _say({"pid": pid})
        _, status = os.waitpid(pid, 0)
        _say({"code": os.waitstatus_to_exitcode(status)})
    return 0


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _child(command: Command) -> int:
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # until the command itself listens
    terminal = os.open(command.terminal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for stream, opened in enumerate((nothing, terminal, terminal)):
        os.dup2(opened, stream)
    os.closerange(3, 64)
    faulthandler.register(signal.SIGUSR1)  # to see where one hangs
    os.chdir(command.folder)
    os.environ["PWD"] = command.folder
    sys.argv = ["segdeploy", *command.argv]
    from segdeploy.cli.main import main

    if command.reuse:
        _reuse(Path(command.reuse))
    for place, value in command.patches.items():
        module, name = place.split(":")
        setattr(importlib.import_module(module), name, value)
    _count_operations(command)
    return main()


def _count_operations(command: Command) -> None:
    """Note each change of a name; die before the one that is aimed at."""
    lock, done = threading.Lock(), 0

    def counted(operation: Callable[..., object], name: str) -> Callable[..., object]:
        def act(path: Any, *rest: Any, **options: Any) -> object:
            nonlocal done
            inside = not options and Path(command.folder) in Path(path).absolute().parents
            if inside:
                with lock:
                    done += 1
                    if done == command.aim:
                        if command.torn and name == "replace":
                            os.truncate(path, Path(path).stat().st_size // 2)
                        _die(command.number)
            result = operation(path, *rest, **options)
            if inside and command.aim is None:
                with Path(command.terminal + ".operations").open("a") as stream:
                    stream.write(f"{name} {path}\n")
            return result

        return act

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name), name))


def _die(number: int) -> None:
    os.killpg(0, number)
    if number == signal.SIGKILL:
        signal.pause()


def _reuse(folder: Path) -> None:
    """Take exports and simplified graphs from before; do not start processes for timings."""
    import torch
    from conftest import Reuse

    import segdeploy.benchmarks.speed.cold_start
    import segdeploy.deploy.stages.simplify

    reuse = Reuse(folder)
    torch.onnx.export = reuse.export  # type: ignore[assignment]  # a stand-in
    segdeploy.deploy.stages.simplify._run_onnxsim = reuse.simplify
    figures = segdeploy.benchmarks.speed.cold_start.ColdStart(
        load_s=1.0, first_inference_s=1.0, peak_bytes=2, imports_bytes=1
    )
    segdeploy.benchmarks.speed.cold_start.call_alone = lambda *_, **__: figures  # type: ignore[assignment]


if __name__ == "__main__":
    sys.exit(serve())
