"""Errors a user can act on. The command line turns each into one message and an exit code."""

from __future__ import annotations

from segdeploy.calibration.errors import SegdeployError as SegdeployError


class UsageError(SegdeployError):
    """The command or its flags make no sense together."""

    exit_code = 2


class InputError(SegdeployError):
    """A file, folder, checkpoint or model could not be loaded or does not fit."""

    exit_code = 3


class RunError(SegdeployError):
    """A stage started and failed."""

    exit_code = 4


class MemoryLimitError(RunError):
    """The command outgrew ``--max-memory``."""


def one_line(text: object, *, limit: int = 300) -> str:
    r"""Words of unknown origin as one line that is fit for a terminal.

    For what a library says and for names out of files: line breaks become spaces, control
    characters question marks, and what is too long is cut.

    Example:
        >>> one_line("invalid model\n  at node \x1b[2J", limit=24)
        'invalid model at node...'

    Args:
        text: an exception, or text.
        limit: characters at most.
    """
    words = " ".join(str(text)[: 8 * limit].split())
    printable = "".join(letter if letter.isprintable() else "?" for letter in words)
    return printable if len(printable) <= limit else printable[: limit - 3].rstrip() + "..."
