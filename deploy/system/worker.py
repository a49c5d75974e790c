"""The other side of ``deploy.system.worker_process``: does what it is asked, one thing at a time.

What work does to its process - a crash, a hang, output of its own - stays in here. The caller sees
a connection that answers, that ends, or that is silent for too long.
"""

from __future__ import annotations

import multiprocessing.connection
import os
import pickle
import signal
from collections.abc import Callable
from enum import Enum
from typing import Any

from segdeploy.deploy.system.errors import SegdeployError
from segdeploy.deploy.system.progress import ShareProgress

Call = tuple[Callable[..., Any], tuple[Any, ...], bool]
"""A function, its arguments, and whether it is to be given ``progress`` besides."""


class Word(Enum):
    """First word of a message; what follows it."""

    AT_WORK = "at work"
    """The share done, 0 to 1."""

    ANSWERED = "answered"
    """The value."""

    REFUSED = "refused"
    """Class and message of an error of this project."""

    RAISED = "raised"
    """What was raised instead, in words."""


def main(number: int) -> None:
    """Serve on the connection of a number until the caller closes it, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its workers
    if os.name == "posix":
        end_with_parent()
    os.dup2(2, 1)  # what a library prints is no answer
    kind = "PipeConnection" if os.name == "nt" else "Connection"
    serve(getattr(multiprocessing.connection, kind)(number))


def serve(connection: multiprocessing.connection.Connection) -> None:
    """Answer until the caller closes the connection."""

    def progress(share: float) -> None:
        connection.send((Word.AT_WORK, share))

    while True:
        try:
            asked = connection.recv_bytes()
        except EOFError:
            return
        connection.send_bytes(answer(asked, progress))


def answer(asked: bytes, progress: ShareProgress) -> bytes:
    """Do what a message asks for.

    Args:
        asked: a ``Call``, pickled; what it names is imported now.
        progress: for a function that tells the share done.

    Returns:
        A word and what follows it, pickled.
    """
    try:
        function, arguments, tells = pickle.loads(asked)
        value = function(*arguments, progress=progress) if tells else function(*arguments)
        return pickle.dumps((Word.ANSWERED, value), pickle.HIGHEST_PROTOCOL)
    except SegdeployError as error:
        found: Any = (Word.REFUSED, (type(error), str(error)))
    except Exception as error:  # a library may raise anything: the caller decides what it means
        words = " ".join(str(error).split())
        found = (Word.RAISED, f"{type(error).__name__}{' (' + words + ')' if words else ''}")
    return pickle.dumps(found)


def end_with_parent() -> None:
    """Let the system end this process when its parent is gone, whatever code it is in then.

    Standard input is a pipe on which nothing is ever written; its other end closes with the parent,
    which the system tells by SIGIO.
    """
    import fcntl  # POSIX alone has it

    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
