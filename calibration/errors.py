"""The one error this package raises on purpose, and what keeps a message on one line."""

from __future__ import annotations

LONGEST_MESSAGE = 2000
"""Characters; the middle of a longer message is left out: a file's content must not flood it."""

_KEPT_AT_THE_END = 500


class OneLineError(Exception):
    """An error whose message is one line of printable text, whatever stood in a file it quotes."""

    def __str__(self) -> str:
        return printable_line(super().__str__())


class CalibrationError(OneLineError, ValueError):
    """What was given cannot be calibrated, read or quantized; the message says what and why."""


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
