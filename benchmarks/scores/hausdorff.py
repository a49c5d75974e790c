"""How far two foregrounds lie apart: the Hausdorff distance between sets of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

PERCENTILE = 95
"""Of the robust variant of the distance."""


@dataclass(frozen=True, kw_only=True)
class Apart:
    """Distances between two sets of pixels, in pixels.

    Attributes:
        largest: the Hausdorff distance.
        percentile95: the same with the 95th percentile in place of each side's largest distance.
    """

    largest: float
    percentile95: float


def hausdorff(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> Apart | None:
    """The symmetric Hausdorff distance between the foregrounds of two masks.

    For each foreground pixel of a side, the Euclidean distance to the nearest foreground pixel of
    the other; the larger of both sides' largest distances. The sets are the coordinates of the
    foreground pixels: a mask handed over as it is would be read as one point for each row.

    Example:
        Pixels at columns 0 and 4 beside one at column 1: the pixel at 4 is 3 away. The 95th
        percentile of the distances 1 and 3 is 1 + 0.95 * 2.

        >>> one = np.array([[True, False, False, False, True]])
        >>> other = np.array([[False, True, False, False, False]])
        >>> apart = hausdorff(one, other)
        >>> apart.largest, round(apart.percentile95, 3)
        (3.0, 2.9)

    Args:
        one: bool (H, W).
        other: bool (H, W).

    Returns:
        0 where both are empty; ``None`` where one is, as no distance leads to an empty set.

    Source: Huttenlocher, Klanderman and Rucklidge, "Comparing Images Using the Hausdorff
    Distance", PAMI 1993.
    """
    if not one.any() or not other.any():
        return None if one.any() or other.any() else Apart(largest=0.0, percentile95=0.0)
    sides = (_distances(one, other), _distances(other, one))
    return Apart(
        largest=max(float(side.max()) for side in sides),
        percentile95=max(float(np.percentile(side, PERCENTILE)) for side in sides),
    )


def _distances(start: NDArray[np.bool_], goal: NDArray[np.bool_]) -> NDArray[np.float64]:
    """From each pixel of ``start`` to the nearest of ``goal``, which is not empty."""
    to_goal: NDArray[np.float64] = distance_transform_edt(~goal)
    return to_goal[start]
