"""The base of every error of this project, the one this package raises, and one-line messages."""

from __future__ import annotations

LONGEST_MESSAGE = 2000
"""Characters; the middle of a longer message is left out: a file's content must not flood it."""

_KEPT_AT_THE_END = 500


class OneLineError(Exception):
    """An error whose message is one line of printable text, whatever stood in a file it quotes."""

    def __str__(self) -> str:
        return printable_line(super().__str__())


class SegdeployError(OneLineError):
    """Base of every error this project raises on purpose; never shown with a traceback.

    ``exit_code`` is that of a command which it ends.
    """

    exit_code = 4


class CalibrationError(SegdeployError, ValueError):
    """What was given cannot be calibrated, read or quantized; the message says what and why."""

    exit_code = 3


def printable_line(text: str) -> str:
    r"""Escape what is not printable, line breaks and lone surrogates too, and bound the length.

    Example:
        >>> print(printable_line("tensor a\nb"))
        tensor a\nb
    """
    if len(text) > LONGEST_MESSAGE:
        start = LONGEST_MESSAGE - _KEPT_AT_THE_END
        text = f"{text[:start]} [...] {text[-_KEPT_AT_THE_END:]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
