"""What tests let other processes do: good work, and what real work does on a bad day."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from segdeploy.calibration.errors import CalibrationError
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.system.memory import peak_bytes

FOREVER_S = 600.0
ERRORS = {kind.__name__: kind for kind in (InputError, UsageError, CalibrationError, KeyError)}


def process_and_folder() -> tuple[int, str, list[str]]:
    """Where this runs, and where it looks for modules."""
    return os.getpid(), str(Path.cwd()), sys.path


def variable(name: str) -> str | None:
    """One of the environment."""
    return os.environ.get(name)


def peak() -> int:
    """The peak of this process's memory."""
    return peak_bytes()


def length(content: bytes) -> int:
    """Of what was sent."""
    return len(content)


def refuse(kind: str) -> None:
    """Raise an error by its name."""
    raise ERRORS[kind]("no luck")


def unpicklable() -> object:
    """What cannot be sent back."""
    return lambda: None


def say(text: str) -> str:
    """Print to both streams, by Python, by the system and by a child, and answer."""
    print(text, flush=True)
    os.write(1, text.encode())
    subprocess.run(["echo", text], check=True)
    print(text, file=sys.stderr)
    return "answered"


def leave(code: int | str) -> None:
    """End the process; words go to standard error."""
    sys.exit(code)


def kill() -> None:
    """End the process as the system does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def hang(file: str | None = None) -> None:
    """Never answer; first say in a file which process does not."""
    if file is not None:
        Path(file).write_text(str(os.getpid()))
    time.sleep(FOREVER_S)


def hang_at_the_end() -> str:
    """Answer, and do not end when nothing more is asked."""
    import atexit

    atexit.register(time.sleep, FOREVER_S)
    return "answered"


def steps(seconds: float, count: int, *, progress: Callable[[float], None]) -> int:
    """Take as many steps, each so long."""
    for step in range(count):
        time.sleep(seconds)
        progress((step + 1) / count)
    return count


def report_once_and_hang(*, progress: Callable[[float], None]) -> None:
    """Report, and then never again."""
    progress(0.5)
    time.sleep(FOREVER_S)


def instead(task: Callable[[], object], *arguments: object) -> object:
    """Do something else than what was asked."""
    return task()
