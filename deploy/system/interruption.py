"""Ctrl-C and SIGTERM end a command the same way: cleanly, once, and without a traceback.

The first signal raises ``Interrupted`` in the main thread. While the command puts things in order,
a second one, from an impatient finger, changes nothing; a third ends the process at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar

SIGNALS = (signal.SIGINT, signal.SIGTERM)
CHILD_ENDED = tuple(n for n in signal.Signals if n.name == "SIGCHLD")
"""Windows has no such signal."""

PATIENCE = 2
"""Signals, the first included, that leave the command time to put things in order."""

RETRY_S = 0.05
"""After an interruption that was lost in a finalizer, where Python drops exceptions."""


class Interrupted(KeyboardInterrupt):
    """Somebody asks this command to end.

    Attributes:
        begun: the output is this command's own, so that the same command without ``--overwrite``
            goes on.
    """

    begun: bool = False


class Interruption:
    """What signals asked for so far.

    Attributes:
        current: of the command that runs; ``None`` where signals are not listened to.
        number: of the first signal; ``None`` where none came.
        held: see ``held_back``.
    """

    current: ClassVar[Interruption | None] = None

    def __init__(self) -> None:
        self.number: int | None = None
        self.held = False
        self._waiting: int | None = None
        self._count = 0
        self._over = False

    def heard(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self._count += 1
        if self._count > PATIENCE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if self.held:
            self._waiting = number
        elif self.number is None and not self._over:
            self.number = number
            # Ending workers must not raise torch's complaint about them amid the tidying up.
            for child in CHILD_ENDED:
                signal.signal(child, lambda number, frame: None)
            raise Interrupted

    def let_go(self) -> None:
        """End ``held_back``: what came meanwhile arrives."""
        self.held, waiting, self._waiting = False, self._waiting, None
        if waiting is not None:
            self._count -= 1
            self.heard(waiting, None)

    def lost(self, unraisable: Any) -> None:
        """Where an exception could not be raised: try again with ours, print any other."""
        if self._over or not issubclass(unraisable.exc_type, Interrupted):
            sys.__unraisablehook__(unraisable)
            return
        again = threading.Timer(RETRY_S, self._repeat, (self.number,))
        again.daemon = True
        self.number, self._count = None, 0
        again.start()

    def over(self) -> None:
        """The command is on its way out: nothing is left to interrupt."""
        self._over = True

    def _repeat(self, number: int) -> None:
        if not self._over and self.number is None:
            os.kill(os.getpid(), number)


@contextmanager
def interruptible(*, to_the_end: bool) -> Iterator[Interruption]:
    """Turn the first SIGINT or SIGTERM into ``Interrupted``; only in the main thread.

    Args:
        to_the_end: the process ends with this command, so late signals are not handed back to
            handlers that would print a traceback.
    """
    found = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield found  # handlers belong to the main thread
        return
    hook, sys.unraisablehook = sys.unraisablehook, found.lost
    before = {number: signal.getsignal(number) for number in (*SIGNALS, *CHILD_ENDED)}
    for number in SIGNALS:
        signal.signal(number, found.heard)
    outer, Interruption.current = Interruption.current, found
    try:
        yield found
    finally:
        found.over()
        sys.unraisablehook, Interruption.current = hook, outer
        if not to_the_end:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def begun() -> Iterator[None]:
    """Inside, an interrupted command goes on without ``--overwrite``."""
    try:
        yield
    except Interrupted as error:
        error.begun = True
        raise


@contextmanager
def held_back() -> Iterator[None]:
    """Inside, processes are started, which must not be left half done; a signal waits for the end.

    Not by ``pthread_sigmask``: the system would hand the signal to another thread.
    """
    found = Interruption.current
    if found is None:
        yield
        return
    found.held = True
    try:
        yield
    finally:
        found.let_go()


def left_to_parent(worker: int = 0) -> None:
    """Called in a worker process: Ctrl-C, which reaches all, is for the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.excepthook = _unless_parent_left


def _unless_parent_left(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """A thread that hands data over finds nobody there any more: nothing to print."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
