"""Dividing images into train, val and test by a seed, and equal images always together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from segdeploy.deploy.data.splits import SPLITS
from segdeploy.deploy.system.errors import UsageError

Ratios = tuple[float, float, float]
"""Shares of train, val and test."""

Counts = tuple[int, int, int]
Sizes = Callable[[int, Ratios], Counts]

TOLERANCE = 1e-6
"""How far shares may be from a sum of 1, and a product of count and share from a whole number."""


def require_shares(ratios: Ratios) -> None:
    """Refuse ratios that are not shares of a whole.

    Raises:
        UsageError: not three, one is negative or no number, or they do not sum to 1.
    """
    if len(ratios) != len(SPLITS) or not (min(ratios) >= 0 and abs(sum(ratios) - 1) <= TOLERANCE):
        raise UsageError(f"ratios {ratios} must be non-negative and sum to 1 (train, val, test)")


def rounded(count: int, ratios: Ratios) -> Counts:
    """Train takes round(count * train), val up to round(count * (train + val)), test the rest.

    Example:
        >>> rounded(2594, (0.7, 0.1, 0.2))  # ends at 1815.8 and 2075.2
        (1816, 259, 519)
    """
    ends = np.rint(np.cumsum(ratios) * count).astype(int)
    train, val = int(ends[0]), int(ends[1] - ends[0])
    return train, val, count - train - val


def floored(count: int, ratios: Ratios) -> Counts:
    """Each split takes floor(count * share); the last with a share above 0 takes the rest too.

    Example:
        >>> floored(2594, (0.7, 0.1, 0.2))  # 1815.8 and 259.4
        (1815, 259, 520)
        >>> floored(19, (0.8, 0.2, 0.0))  # 15.2; nothing for a split without a share
        (15, 4, 0)
    """
    sizes = [math.floor(count * ratio + TOLERANCE) for ratio in ratios]
    last = max(index for index, ratio in enumerate(ratios) if ratio > 0)
    sizes[last] += count - sum(sizes)
    train, val, test = sizes
    return train, val, test


def divide(
    strata: Mapping[str, str],
    *,
    sizes: Sizes,
    seed: int,
    ratios: Ratios,
    twins: Iterable[Sequence[str]] = (),
) -> dict[str, str]:
    """Assign names to splits so that every stratum is divided in the same ratios.

    The names of a stratum, shuffled, each go to the first split that still has room. Twins go
    together, to the first split with room for all of them, so the sizes are kept; only where no
    split has that room left, at the end of a stratum, does the roomiest grow by the rest of them.
    Depends on names, strata, twins and seed alone, not on the order they come in.

    Args:
        strata: name to stratum.
        sizes: how many of n names each split takes.
        seed: of the shuffle.
        ratios: shares of train, val and test.
        twins: groups of names of one stratum that must share a split; no name in two groups.
    """
    generator = np.random.default_rng(seed)
    group_of = {name: tuple(group) for group in twins for name in group}
    splits: dict[str, str] = {}
    for stratum in sorted(set(strata.values())):
        names = sorted(name for name in strata if strata[name] == stratum)
        shuffled = [names[i] for i in generator.permutation(len(names))]
        room = dict(zip(SPLITS, sizes(len(names), ratios), strict=True))
        for name in shuffled:
            if name in splits:
                continue
            group = group_of.get(name, (name,))
            fitting = [split for split in SPLITS if room[split] >= len(group)]
            chosen = fitting[0] if fitting else max(SPLITS, key=lambda split: room[split])
            room[chosen] -= len(group)
            splits.update(dict.fromkeys(group, chosen))
    return splits
