"""A contract in the form of tools that divide by 255 by themselves."""

from __future__ import annotations

from segdeploy.deploy.data.preprocess import Preprocess

DIGITS = 9
"""Significant digits kept: more than float32 holds, and no trace of 1/255 in binary."""


def unit_range(preprocess: Preprocess) -> tuple[list[float], list[float]]:
    """Mean and std after a division by 255, whatever the contract's own scale is.

    ``(scale x - mean) / std`` is ``(x / 255 - mean / k) / (std / k)`` with ``k = 255 scale``.

    Example:
        >>> unit_range(Preprocess())
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
        >>> unit_range(Preprocess(scale=1.0, mean=(51, 0, 0), std=(255, 255, 255)))
        ([0.2, 0.0, 0.0], [1.0, 1.0, 1.0])
    """
    factor = 255.0 * preprocess.scale
    return (
        [_short(value / factor) for value in preprocess.mean],
        [_short(value / factor) for value in preprocess.std],
    )


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
