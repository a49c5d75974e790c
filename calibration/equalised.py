"""How far to scale each channel between two layers, so that both round it alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST_POWER = 12
"""Of two: no channel is scaled by more than 4096, so no value leaves float32's normal range."""


def channel_powers(
    activations: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Powers of two by which channels are divided in front of a layer and multiplied in it.

    One scale serves all channels of an activation, and one all inputs of an output channel: what is
    small beside its neighbours loses its bits. The root of the two sizes brings both to the same;
    a power of two near it changes no bit of what the network computes in float.

    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
    ICCV 2019, with the activations' own sizes: the first layer's rows have a scale each here.

    Example:
        The first channel is 64 times as large as the second, its weights 4 times as small. The
        third is always 0.

        >>> channel_powers(np.array([64.0, 1.0, 0.0]), np.array([0.25, 1.0, 3.0]))
        array([ 2, -2,  0])

    Args:
        activations: (C,), the largest magnitude of each channel.
        weights: (C,), the largest magnitude of the weights that read it.
    """
    alive = (activations > 0) & (weights > 0)
    ratio = np.where(alive, activations, 1.0) / np.where(alive, weights, 1.0)
    powers = np.log2(ratio) / 2
    if alive.any():
        powers = powers - np.median(powers[alive])
    wanted = np.clip(np.rint(powers), -LARGEST_POWER, LARGEST_POWER)
    return np.where(alive, wanted, 0).astype(np.int64)
