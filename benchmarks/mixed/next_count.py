"""How many of the worst layers must stay in float: which number to try next."""

from __future__ import annotations

from collections.abc import Mapping


def fewest_within(tried: Mapping[int, bool]) -> int | None:
    """The smallest number of float layers that kept the budget; ``None`` where none did."""
    return min((count for count, within in tried.items() if within), default=None)


def next_count(tried: Mapping[int, bool], total: int) -> int | None:
    """The number of float layers to try next.

    Starts without any, doubles until the budget is kept, then bisects between that number and the
    largest below it that lost too much. A few layers carry most of the loss, so a small number is
    found in few trials.

    Example:
        Seven layers are needed of 31.

        >>> tried = {}
        >>> while (count := next_count(tried, 31)) is not None:
        ...     tried[count] = count >= 7
        >>> list(tried), fewest_within(tried)
        ([0, 1, 2, 4, 8, 6, 7], 7)

    Args:
        tried: for each number tried, whether the budget was kept.
        total: layers there are.

    Returns:
        ``None`` when the number is found, or even all layers in float lose too much.
    """
    within = fewest_within(tried)
    lost = max((count for count in tried if within is None or count < within), default=-1)
    if within is None:
        return None if lost == total else min(total, max(0, 2 * lost if lost > 0 else lost + 1))
    return None if within == lost + 1 else (lost + within) // 2
