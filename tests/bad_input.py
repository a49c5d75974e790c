"""Run the command line on bad input, and the laws that every refusal keeps.

A refusal exits with its code, says one line on standard error, shows no traceback, leaves the
folder as it was, and takes neither long nor much memory, whatever the file claims to hold.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from segdeploy.cli.main import main

TIME_LIMIT_S = 60.0
MEMORY_LIMIT = 512 << 20
"""Bytes that reading a small bad file may add to what the process holds at most."""

ADDRESS_SPACE_LIMIT = 8 << 30
"""Bytes a command may reserve: a regression fails its test instead of ending the machine."""

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")

Main = Callable[[Sequence[str]], int]
Entry = tuple[str, int, bytes | None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command did.

    Attributes:
        code: its exit code.
        lines: what stands on standard error, native libraries' words included.
        changed: files and folders that are new, gone or different, relative to the folder.
        seconds: how long it took.
        added_bytes: by how much the resident memory grew at its highest; 0 where the system does
            not tell.
    """

    code: int
    lines: tuple[str, ...]
    changed: tuple[str, ...]
    seconds: float
    added_bytes: int


def nothing(path: Path) -> None:
    """Nothing is there."""


def loop(path: Path) -> None:
    """Two links that lead to each other."""
    path.symlink_to(path.with_name("other"))
    path.with_name("other").symlink_to(path)


def device(path: Path) -> None:
    """A link to a device that never ends."""
    path.symlink_to("/dev/zero")


def run_command(argv: Sequence[object], folder: Path, *, command: Main = main) -> Outcome:
    """Run a command in this process.

    Args:
        argv: its arguments.
        folder: everything it may read or write lies below.
        command: called with the arguments; returns the exit code.
    """
    before, started = snapshot(folder), time.perf_counter()
    with _limited_memory(), _errors() as text, _peak() as added:
        try:
            code = command([str(argument) for argument in argv])
        except SystemExit as left:  # argparse leaves this way
            code = int(left.code or 0)
    seconds, after = time.perf_counter() - started, snapshot(folder)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    return Outcome(
        code=code,
        lines=tuple(line for line in text() if line.strip()),
        changed=tuple(sorted(changed)),
        seconds=seconds,
        added_bytes=added(),
    )


def assert_refused(outcome: Outcome, *, code: int, message: str) -> None:
    """The laws of a refusal.

    Args:
        outcome: of the command.
        code: the exit code it must have.
        message: a pattern that its one line must match.
    """
    shown = "\n".join(outcome.lines)
    assert outcome.code == code, f"exit code {outcome.code}: {shown}"
    assert not re.search("Traceback|panicked", shown), shown
    errors = [line for line in outcome.lines if re.match(r"\w+: error: ", line)]
    assert len(errors) == 1, shown
    assert outcome.lines[-1] == errors[0], f"more was said after the error: {shown}"
    assert re.search(message, errors[0]), f"{errors[0]!r} does not say {message!r}"
    assert len(errors[0]) < 1500, f"an error of {len(errors[0])} characters"
    assert not outcome.changed, f"left behind or changed: {outcome.changed}"
    assert outcome.seconds < TIME_LIMIT_S
    assert outcome.added_bytes < MEMORY_LIMIT, f"took {outcome.added_bytes >> 20} MiB"


def snapshot(folder: Path) -> dict[str, Entry]:
    """Kind, size and content of everything below a folder; nothing special is opened."""
    found: dict[str, Entry] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        small = stat.S_ISREG(status.st_mode) and status.st_size < 64 << 20
        content = path.read_bytes() if small else None
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        found[str(path.relative_to(folder))] = (stat.filemode(status.st_mode), size, content)
    return found


@contextlib.contextmanager
def _errors() -> Iterator[Callable[[], list[str]]]:
    """Everything written to standard error, by Python or below it; ready on exit."""
    lines: list[str] = []
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        stream = io.TextIOWrapper(os.fdopen(os.dup(2), "wb"), write_through=True, errors="replace")
        try:
            with contextlib.redirect_stderr(stream):
                yield lambda: lines
        finally:
            stream.close()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


@contextlib.contextmanager
def _peak() -> Iterator[Callable[[], int]]:
    """By how much the resident memory grew at its highest; ready on exit."""
    added = 0
    known = STATUS.is_file() and os.access(CLEAR_REFS, os.W_OK)
    if known:
        CLEAR_REFS.write_text("5", encoding="ascii")  # the peak so far is forgotten
    before = _status_bytes("VmHWM") if known else 0
    try:
        yield lambda: added
    finally:
        added = _status_bytes("VmHWM") - before if known else 0


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    """An absurd allocation fails at once."""
    if not STATUS.is_file():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status_bytes("VmSize") + ADDRESS_SPACE_LIMIT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _status_bytes(key: str) -> int:
    text = STATUS.read_text(encoding="utf-8")
    found = re.search(rf"^{key}:\s+(\d+) kB$", text, re.MULTILINE)
    assert found, f"{STATUS} has no {key}"
    return int(found[1]) * 1024
