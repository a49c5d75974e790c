"""Where a number beside a point of a chart covers nothing: boxes in, a place out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

LABEL_RADII = (11, 15, 20, 26, 34, 44, 56)
"""How far from its point a number may lie, in typographic points, the nearest first."""
LABEL_ANGLES = (90, -90, 0, 180, 45, 135, -45, -135)
GAP = 1.0
"""Pixels kept free around a number."""

Box = tuple[float, float, float, float]
"""Left, low, right, high."""


def free_place(
    centre: tuple[float, float],
    size: tuple[float, float],
    taken: Sequence[Box],
    inside: Box,
    *,
    unit: float,
) -> tuple[tuple[float, float], Box]:
    """The place nearest to a point where a number covers nothing; the last tried if none is free.

    Example:
        >>> marker = (-6.0, -6.0, 6.0, 6.0)
        >>> free_place((0, 0), (40, 10), [marker], (-50, -50, 99, 99), unit=1.0)
        ((11.0, 0.0), (10.0, -6.0, 52.0, 6.0))

    Args:
        centre: of the point, pixels.
        size: of the number, width and height in pixels.
        taken: boxes to keep clear of, pixels.
        inside: where the number has to stay, pixels.
        unit: pixels of one typographic point.

    Returns:
        The offset from the point in typographic points, and the box with its gap.
    """
    width, height = size
    for dx, dy in _offsets():
        x, y = centre[0] + dx * unit, centre[1] + dy * unit
        left = x - {"left": 0.0, "center": width / 2, "right": width}[facing_side(dx)]
        box = (
            left - GAP,
            y - height / 2 - GAP,
            left + width + GAP,
            y + height / 2 + GAP,
        )
        within = box[0] >= inside[0] and box[1] >= inside[1]
        within = within and box[2] <= inside[2] and box[3] <= inside[3]
        if within and not any(_overlap(box, other) for other in taken):
            break
    return (dx, dy), box


def _offsets() -> Iterator[tuple[float, float]]:
    """Places around a point, in typographic points, the nearest first."""
    for radius in LABEL_RADII:
        for degrees in LABEL_ANGLES:
            turn = math.radians(degrees)
            yield round(radius * math.cos(turn), 6), round(radius * math.sin(turn), 6)


def facing_side(dx: float) -> Literal["left", "center", "right"]:
    """The side of a label that faces its point."""
    return "center" if abs(dx) < 1 else "left" if dx > 0 else "right"


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
