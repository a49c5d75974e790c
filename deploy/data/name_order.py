"""The one order of file names: as people count, 2 before 10.

Whoever writes a list of files by their names, and whoever sorts files to read such a list, sorts
here; two orders put one image's output beside another image.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_DIGITS = re.compile(r"([0-9]+)")

Key = tuple[tuple[tuple[int, int, str], ...], str]


def counted(name: str) -> Key:
    """A key to sort names by: runs of digits as numbers, everything else as text.

    ``img2`` comes before ``img10``, digits before letters; names that differ in leading zeros
    alone are told apart by text, so that there is one order of any set of names.

    Args:
        name: of a file, with or without its suffix.
    """
    parts = enumerate(_DIGITS.split(name))
    told = ((0, int(part), "") if place % 2 else (1, 0, part) for place, part in parts if part)
    return tuple(told), name


def telling_numbers(names: Sequence[str]) -> list[int] | None:
    """The number in each name that tells it from the others, where nothing else does.

    ``out_9`` and ``out_10`` give 9 and 10, ``7_0`` and ``8_0`` give 7 and 8. ``a1`` and ``b2``
    give ``None``, as do ``img1_2`` and ``img2_1``, in which two numbers differ, and ``1`` and
    ``01``, which are one number.

    Args:
        names: without their suffixes; of one alone it is the first number.
    """
    parts = [_DIGITS.split(name) for name in names]
    if len({tuple(each[::2]) for each in parts}) != 1:
        return None
    columns = [
        [int(digits) for digits in column]
        for column in zip(*(each[1::2] for each in parts), strict=True)
    ]
    telling = [column for column in columns if len(set(column)) > 1] or columns[:1]
    if len(telling) != 1 or len(set(telling[0])) != len(names):
        return None
    return telling[0]
