"""What the value of a flag may be: a number in a range, an amount of memory."""

from __future__ import annotations

import argparse
import re

MEMORY_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def memory_size(text: str) -> int:
    """Bytes of a size such as ``2G`` or ``512M``; a plain number is bytes.

    Example:
        >>> memory_size("512M"), memory_size("1.5GiB")
        (536870912, 1610612736)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    size = int(float(found[1]) * MEMORY_UNITS[found[2].upper()]) if found else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory; write 512M or 2G")
    return size


def positive_int(text: str) -> int:
    """A whole number from 1."""
    value = _int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or more")
    return value


def count(text: str) -> int:
    """A whole number from 0."""
    value = _int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} must be 0 or more")
    return value


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from error


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error


def positive(text: str) -> float:
    """A number above 0."""
    value = _float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return value


def not_negative(text: str) -> float:
    """A number from 0."""
    value = _float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be 0 or more")
    return value


def percent(text: str) -> float:
    """A share in percent, from 0, with or without its sign.

    Example:
        >>> percent("5%"), percent("2.5")
        (5.0, 2.5)
    """
    return not_negative(text.removesuffix("%").rstrip())


def level(text: str) -> int | float:
    """A level of an image; a whole one stays whole."""
    value = _float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected a level, 0 or more")
    return int(value) if value.is_integer() else value
