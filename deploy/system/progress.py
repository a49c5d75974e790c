"""Progress bars on standard error: of a terminal or a notebook, silent where it is neither."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

ItemProgress = Callable[[Iterable[T]], Iterable[T]]
"""Wraps the items of a piece of work, for a bar; ``iter`` shows none."""

LabelledProgress = Callable[[Iterable[T], str], Iterable[T]]
"""The same, told what is being done."""

PieceProgress = Callable[[], None]
"""Told that one more piece of work is done."""

ShareProgress = Callable[[float], None]
"""Told the share of a piece of work that is done, 0 to 1."""


def _shown(items: Iterable[T] | None, label: str, **form: Any) -> Any:
    """Tqdm's bar, loaded when one is due: many name the types above, few show a bar.

    It hides where standard error is no terminal. A notebook's is none, and shows a bar all the
    same. Where the ``segdeploy`` logger was told to be quiet, no bar is shown anywhere.
    """
    from tqdm import tqdm

    return tqdm(items, desc=label, leave=False, disable=_hidden(), **form)


def _hidden() -> bool | None:
    """What tqdm takes: ``None`` hides a bar where standard error is no terminal."""
    if logging.getLogger("segdeploy").level > logging.INFO:
        return True
    return False if type(sys.stderr).__module__.startswith("ipykernel.") else None


def bar(items: Iterable[T], label: str, *, unit: str) -> Iterable[T]:
    """A bar with rate and remaining time over items."""
    wrapped: Iterable[T] = _shown(items, label, unit=unit)
    return wrapped


@contextmanager
def count_bar(label: str, *, total: int, unit: str) -> Iterator[PieceProgress]:
    """A bar for work whose every piece reports that it is done."""
    with _shown(None, label, total=total, unit=unit) as shown:

        def report() -> None:
            shown.update()

        yield report


@contextmanager
def share_bar(label: str) -> Iterator[ShareProgress]:
    """A bar for work that reports the share done, 0 to 1."""
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with _shown(None, label, total=1.0, bar_format=form) as shown:

        def report(share: float) -> None:
            shown.update(share - shown.n)

        yield report
