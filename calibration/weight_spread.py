"""How uneven the output channels of a weight are, and what one scale for all would cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segdeploy.calibration.noise import Noise
from segdeploy.calibration.qparams import QuantType, dequantize, from_range, quantize
from segdeploy.calibration.weights import per_channel_weight


@dataclass(frozen=True, kw_only=True)
class WeightSpread:
    """One weight in 8 bits, with one scale for each output channel and with one for all.

    Attributes:
        range_spread: largest over smallest channel peak, channels of zeros left out; ``None``
            where every channel is zero.
        per_channel_db: SQNR with one scale for each output channel; ``None`` where it is exact.
        per_tensor_db: SQNR with one scale for the whole weight; ``None`` where it is exact.
    """

    range_spread: float | None
    per_channel_db: float | None
    per_tensor_db: float | None


def weight_spread(weight: NDArray[np.float32], *, axis: int = 0) -> WeightSpread:
    """Measure one weight.

    Example:
        >>> weight = np.array([[1.0, -0.33], [0.01, 0.0033]], np.float32)
        >>> found = weight_spread(weight)
        >>> round(found.range_spread), found.per_channel_db > found.per_tensor_db
        (100, True)

    Args:
        weight: float32, any shape.
        axis: of the output channels.

    Raises:
        CalibrationError: not float32, empty, or not finite.
    """
    each = per_channel_weight(weight, axis=axis)
    peaks = np.abs(weight).max(axis=tuple(d for d in range(weight.ndim) if d != axis))
    peak = float(peaks.max())
    whole = from_range(-peak, peak, dtype=QuantType.S8, symmetric=True)
    used = peaks[peaks > 0]
    return WeightSpread(
        range_spread=float(used.max() / used.min()) if used.size else None,
        per_channel_db=Noise.between(weight, dequantize(quantize(weight, each), each)).sqnr_db,
        per_tensor_db=Noise.between(weight, dequantize(quantize(weight, whole), whole)).sqnr_db,
    )
