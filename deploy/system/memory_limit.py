"""``--max-memory``: a command that outgrows its limit ends with one line, not with the machine."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import psutil

from segdeploy.deploy.system.errors import MemoryLimitError, RunError

PERIOD_S = 0.1
"""Time between two looks at the memory, seconds."""

LOOKS = 10
"""Looks until it is asked again which processes there are: that takes 8 ms, a look 0.1 ms."""

GRACE_S = 2.0
"""How long an interrupted command may take to come back before the process ends, seconds."""

_stage = ""


def working_on(stage: str) -> None:
    """Remember what the command does now, for the message."""
    global _stage
    _stage = stage


def used_bytes() -> int:
    """Resident memory of this process and all it started; what they share counts once.

    That is what each has alone, and the largest of what they have in common with others. Where the
    system does not tell what is shared, it counts in each of them.
    """
    return _together(_parts_exactly(process) for process in _tree())


@contextmanager
def memory_limited(limit: int | None, *, to_lower: Sequence[str] = ()) -> Iterator[None]:
    """Watch the memory of everything inside, and end it when it is too much.

    The main thread is interrupted as by Ctrl-C. Where it does not come back in ``GRACE_S``, because
    it is inside a long call of a library, the process ends at once with the same message and code.

    Args:
        limit: bytes; ``None`` watches nothing.
        to_lower: flags of the command that would make it smaller, for the message.

    Raises:
        MemoryLimitError: it was.
    """
    if limit is None:
        yield
        return
    watch = _Watch(limit, to_lower)
    try:
        with watch:
            yield
    except BaseException:  # what the interruption became on its way
        if watch.message is None:
            raise
    if watch.message is not None:
        end_children()
        raise MemoryLimitError(watch.message)


def out_of_memory(error: MemoryError) -> RunError:
    """The error of a command that the system gave no more memory."""
    words = " ".join(str(error).split())
    return RunError(
        f"the system has no more memory{' for ' + _stage if _stage else ''}"
        f"{' (' + words + ')' if words else ''}; lower --batch, --num-samples or --threads, or "
        "free some"
    )


def end_children() -> None:
    """End everything that this process started."""
    for child in _tree()[1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


class _Watch:
    """A thread that looks at the memory until the work is done or too much is used."""

    def __init__(self, limit: int, to_lower: Sequence[str]) -> None:
        self.message: str | None = None
        self._limit, self._to_lower = limit, to_lower
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        looks = 0
        processes: list[psutil.Process] = []
        while not self._done.wait(PERIOD_S):
            if looks % LOOKS == 0:
                processes = _tree()
            looks += 1
            if _together(map(_parts, processes)) <= self._limit:
                continue
            used = used_bytes()  # slower; knows the memory that a fork shares until it is written
            if used > self._limit:
                self.message = self._said(used)
                self._stop()
                return

    def _stop(self) -> None:
        """Interrupt the main thread; end the process where that does not come back.

        Everything that is written is whole or absent, so that nothing is lost by the end.
        """
        main = threading.main_thread().ident
        if callable(signal.getsignal(signal.SIGINT)) and main is not None:
            signal.pthread_kill(main, signal.SIGINT)
        if not self._done.wait(GRACE_S):
            os.write(2, f"segdeploy: error: {self.message}\n".encode())
            end_children()
            os._exit(RunError.exit_code)

    def _said(self, used: int) -> str:
        where = f" in {_stage}" if _stage else ""
        lower = f"lower {' or '.join(self._to_lower)}, or " if self._to_lower else ""
        return (
            f"out of memory: {_mib(used)} used{where}, --max-memory allows {_mib(self._limit)}; "
            f"{lower}raise the limit. What was finished is kept"
        )

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()


def _tree() -> list[psutil.Process]:
    """This process and all below it."""
    here = psutil.Process()
    with contextlib.suppress(psutil.Error):
        return [here, *here.children(recursive=True)]
    return [here]


def _together(parts: Iterable[tuple[int, int]]) -> int:
    """Own bytes of all processes, and the largest of their shared bytes."""
    listed = list(parts)
    return sum(own for own, _ in listed) + max((shared for _, shared in listed), default=0)


def _parts(process: psutil.Process) -> tuple[int, int]:
    """Resident memory of a process: its own, and that of files and of memory it shares."""
    with contextlib.suppress(psutil.Error):
        info = process.memory_info()
        shared = getattr(info, "shared", 0)
        return info.rss - shared, shared
    return 0, 0


def _parts_exactly(process: psutil.Process) -> tuple[int, int]:
    """The same, with pages that a fork shares among what is shared."""
    with contextlib.suppress(psutil.Error):
        info = process.memory_full_info()
        own = getattr(info, "uss", info.rss)
        return own, max(0, info.rss - own)
    return _parts(process)


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
