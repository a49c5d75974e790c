"""Work on several items at once, results in order, few of them held."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_ahead(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    ahead: int | None = None,
) -> Iterator[Result]:
    """``mapped_ahead`` in threads of its own, which are gone when the last result is taken.

    Example:
        >>> list(run_ahead(abs, [-3, 2, -1], workers=2))
        [3, 2, 1]

    Args:
        work: called by as many threads as there are workers.
        items: taken lazily.
        workers: items worked on at a time.
        ahead: items taken before their results; ``None`` as many as there are workers, so that one
            less is worked on while the caller takes a result.

    Yields:
        Results in the order of the items. Where one raises, or the caller stops, items that were
        not begun never are.
    """
    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        yield from mapped_ahead(pool, work, items, ahead=ahead or workers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def mapped_ahead(
    pool: ThreadPoolExecutor,
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    ahead: int,
) -> Iterator[Result]:
    """Results in the order of the items, which are taken no more than ``ahead`` before them.

    Args:
        pool: whose threads work.
        work: called by them.
        items: taken lazily, by the thread that takes the results.
        ahead: 1 or more.
    """
    pending: deque[Future[Result]] = deque()
    for item in items:
        pending.append(pool.submit(work, item))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
