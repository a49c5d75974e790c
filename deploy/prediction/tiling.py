"""Where overlapping tiles lie along one axis, and what each counts for in every pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def tile_starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    """First pixel of each tile: the fewest that overlap by at least ``overlap``, evenly spread.

    Example:
        >>> tile_starts(100, 40, 10)  # three tiles 30 apart reach 100 exactly
        (0, 30, 60)
        >>> tile_starts(90, 40, 10)
        (0, 25, 50)

    Args:
        length: pixels of the axis, at least ``tile``.
        tile: pixels of a tile.
        overlap: pixels that neighbours share, at least; below ``tile``.
    """
    steps = -(-(length - tile) // (tile - overlap))
    return tuple(round(step * (length - tile) / steps) if steps else 0 for step in range(steps + 1))


def tile_weights(
    length: int, tile: int, starts: tuple[int, ...]
) -> tuple[NDArray[np.float32], ...]:
    """What each tile counts for in each of its pixels: in every pixel of the axis they sum to one.

    A tile's weight falls linearly towards each neighbour over the pixels they share, and is whole
    at the ends of the axis.

    Example:
        >>> [weights.tolist() for weights in tile_weights(6, 4, (0, 2))]
        [[1.0, 1.0, 0.75, 0.25], [0.25, 0.75, 1.0, 1.0]]

    Args:
        length: pixels of the axis.
        tile: pixels of a tile.
        starts: as ``tile_starts`` gives them; together the tiles cover the axis.

    Returns:
        One float32 array of ``tile`` weights for each tile.
    """
    inside = np.arange(tile) + 0.5
    total = np.zeros(length)
    raw = []
    for index, start in enumerate(starts):
        weights = np.ones(tile)
        if index > 0 and (shared := starts[index - 1] + tile - start) > 0:
            weights = np.minimum(weights, inside / shared)
        if index + 1 < len(starts) and (shared := start + tile - starts[index + 1]) > 0:
            weights = np.minimum(weights, inside[::-1] / shared)
        total[start : start + tile] += weights
        raw.append(weights)
    return tuple(
        (weights / total[start : start + tile]).astype(np.float32)
        for start, weights in zip(starts, raw, strict=True)
    )
