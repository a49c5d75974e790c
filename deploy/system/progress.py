"""Progress bars on standard error: of a terminal or a notebook, silent where it is neither."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

ItemProgress = Callable[[Iterable[T]], Iterable[T]]
"""Wraps the items of a piece of work, for a bar; ``iter`` shows none."""

LabelledProgress = Callable[[Iterable[T], str], Iterable[T]]
"""The same, told what is being done."""

ShareProgress = Callable[[float], None]
"""Told the share of a piece of work that is done, 0 to 1."""


def _hidden() -> bool | None:
    """What tqdm takes: ``None`` hides a bar where standard error is no terminal.

    A notebook's is none either, and shows a bar all the same.
    """
    return False if type(sys.stderr).__module__.startswith("ipykernel.") else None


def bar(items: Iterable[T], label: str, *, unit: str) -> Iterable[T]:
    """A bar with rate and remaining time over items."""
    wrapped: Iterable[T] = tqdm(items, desc=label, unit=unit, leave=False, disable=_hidden())
    return wrapped


@contextmanager
def count_bar(label: str, *, total: int, unit: str) -> Iterator[Callable[[], None]]:
    """A bar for work whose every piece reports that it is done."""
    with tqdm(total=total, desc=label, unit=unit, leave=False, disable=_hidden()) as shown:

        def report() -> None:
            shown.update()

        yield report


@contextmanager
def share_bar(label: str) -> Iterator[ShareProgress]:
    """A bar for work that reports the share done, 0 to 1."""
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=1.0, desc=label, leave=False, disable=_hidden(), bar_format=form) as shown:

        def report(share: float) -> None:
            shown.update(share - shown.n)

        yield report
