"""From ranges to scales and zero points, and the arithmetic of quantizing with them.

Conventions, those of ONNX QuantizeLinear: ``q = clip(round(x / scale) + zero_point)``, halves to
the even number, float32 arithmetic; ``x = (q - zero_point) * scale``. Zero is always exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.calibration.errors import CalibrationError

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""The smallest normal float32; a scale below it would be subnormal, and slow or flushed to 0."""


class QuantType(str, Enum):
    """Integers a tensor can be stored in."""

    U8 = "u8"
    S8 = "s8"
    S32 = "s32"

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy type."""
        names = {QuantType.U8: np.uint8, QuantType.S8: np.int8, QuantType.S32: np.int32}
        return np.dtype(names[self])


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantParams:
    """How real numbers map to integers.

    Attributes:
        scale: float32, () or one for each channel (C,); normal and above zero.
        zero_point: the integer that stands for 0, of the type's numpy type and scale's shape.
        dtype: the integers' type.
        quant_min: smallest integer used.
        quant_max: largest integer used.
        axis: of the channels; ``None`` for one scale for the whole tensor.

    Raises:
        CalibrationError: a scale that is zero, subnormal, NaN or Inf, a zero point outside the
            integers used, or shapes that do not match ``axis``.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[Any]
    dtype: QuantType
    quant_min: int
    quant_max: int
    axis: int | None = None

    def __post_init__(self) -> None:
        if self.scale.dtype != np.float32 or self.zero_point.dtype != self.dtype.numpy:
            raise CalibrationError(
                f"scale is {self.scale.dtype} and zero_point {self.zero_point.dtype}; "
                f"expected float32 and {self.dtype.numpy}"
            )
        expected_ndim = 0 if self.axis is None else 1
        if self.scale.ndim != expected_ndim or self.scale.shape != self.zero_point.shape:
            raise CalibrationError(
                f"scale has shape {self.scale.shape} and zero_point {self.zero_point.shape} "
                f"with axis {self.axis}"
            )
        if not (np.isfinite(self.scale) & (self.scale >= SMALLEST_SCALE)).all():
            raise CalibrationError("every scale must be finite and at least the smallest float32")
        points = self.zero_point.astype(np.int64)
        if ((points < self.quant_min) | (points > self.quant_max)).any():
            raise CalibrationError(f"zero points must lie in {self.quant_min}..{self.quant_max}")
        self.scale.flags.writeable = False
        self.zero_point.flags.writeable = False

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QuantParams):
            return NotImplemented
        return (
            (self.dtype, self.quant_min, self.quant_max, self.axis)
            == (other.dtype, other.quant_min, other.quant_max, other.axis)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )

    def __hash__(self) -> int:
        return hash((self.dtype, self.axis, self.scale.tobytes(), self.zero_point.tobytes()))


def from_range(
    range_min: float,
    range_max: float,
    *,
    dtype: QuantType,
    symmetric: bool,
    reduce_range: bool = False,
) -> QuantParams:
    """Scale and zero point of an 8-bit tensor whose values lie in a range.

    The range is widened to include zero. Symmetric: s8 uses -127..127 with zero point 0; u8 has
    zero point 0 and the full 0..255 for a range without negative values, otherwise zero point
    128 (64 reduced) and the step of s8. Asymmetric: all integers of the type, zero point rounded.
    Reduced (7 bits, for CPUs whose 16-bit sums of products saturate): u8 0..127, s8 -64..64, or
    -64..63 where asymmetric. A range of zero width gets scale 1 and zero point 0; a scale below
    the smallest normal float32 is raised to it.

    Example:
        >>> params = from_range(-1.0, 3.0, dtype=QuantType.U8, symmetric=False)
        >>> params.scale, params.zero_point  # 4 / 255; 1 / scale = 63.75
        (array(0.01568628, dtype=float32), array(64, dtype=uint8))
        >>> params = from_range(-1.0, 3.0, dtype=QuantType.S8, symmetric=True)
        >>> params.scale, params.zero_point  # 3 / 127
        (array(0.02362205, dtype=float32), array(0, dtype=int8))

    Raises:
        CalibrationError: ends not finite or out of order, or s32, whose scale is a product.
    """
    if not (math.isfinite(range_min) and math.isfinite(range_max) and range_min <= range_max):
        raise CalibrationError(f"{range_min} to {range_max} is not a range")
    if dtype is QuantType.S32:
        raise CalibrationError(
            "s32 has no range of its own; its scale is a product, see bias_params()"
        )
    low, high = min(float(range_min), 0.0), max(float(range_max), 0.0)
    quant_min, quant_max, centre = _integers(dtype, symmetric, reduce_range, negative=low < 0)
    if low == high:
        scale, point = 1.0, 0
    elif symmetric:
        scale, point = max(-low, high) / (quant_max - centre), centre
    else:
        scale = max((high - low) / (quant_max - quant_min), SMALLEST_SCALE)
        point = min(max(round(quant_min - low / scale), quant_min), quant_max)
    return QuantParams(
        scale=np.array(max(scale, SMALLEST_SCALE), np.float32),
        zero_point=np.array(point, dtype.numpy),
        dtype=dtype,
        quant_min=quant_min,
        quant_max=quant_max,
    )


def quantize(values: NDArray[np.float32], params: QuantParams) -> NDArray[Any]:
    """Real numbers to integers: round to the nearest, halves to even, then clip.

    Example:
        >>> params = from_range(-1.0, 3.0, dtype=QuantType.U8, symmetric=False)
        >>> quantize(np.array([-9, -1, 0, 1, 3], np.float32), params)  # 1 / scale = 63.75
        array([  0,   0,  64, 128, 255], dtype=uint8)

    Args:
        values: float32, any shape.
        params: with an ``axis``, one scale for each entry along that axis of ``values``.

    Returns:
        Integers of ``params.dtype``, the shape of ``values``. s32 divides in float64, because
        float32 cannot tell its integers apart.
    """
    precision = np.float64 if params.dtype is QuantType.S32 else np.float32
    scale = _aligned(params.scale, values.ndim, params.axis).astype(precision)
    point = _aligned(params.zero_point, values.ndim, params.axis).astype(np.float64)
    with np.errstate(over="ignore"):  # a quotient beyond float32 is Inf, and clipped below
        quotient = values.astype(precision) / scale
    shifted = np.rint(quotient).astype(np.float64) + point
    return np.clip(shifted, params.quant_min, params.quant_max).astype(params.dtype.numpy)


def dequantize(integers: NDArray[Any], params: QuantParams) -> NDArray[np.float32]:
    """Integers back to real numbers.

    Example:
        >>> params = from_range(-1.0, 3.0, dtype=QuantType.U8, symmetric=False)
        >>> dequantize(np.array([0, 64, 255], np.uint8), params)
        array([-1.0039216,  0.       ,  2.9960785], dtype=float32)
    """
    scale = _aligned(params.scale, integers.ndim, params.axis)
    point = _aligned(params.zero_point, integers.ndim, params.axis).astype(np.int64)
    return np.asarray((integers.astype(np.int64) - point).astype(np.float32) * scale, np.float32)


def _integers(
    dtype: QuantType, symmetric: bool, reduce_range: bool, *, negative: bool
) -> tuple[int, int, int]:
    """Smallest and largest integer used, and the zero point of a symmetric scheme."""
    if dtype is QuantType.U8:
        low, high = (0, 127) if reduce_range else (0, 255)
        return low, high, (high + 1) // 2 if negative else 0
    if symmetric:
        return (-64, 64, 0) if reduce_range else (-127, 127, 0)
    return (-64, 63, 0) if reduce_range else (-128, 127, 0)


def _aligned(values: NDArray[Any], ndim: int, axis: int | None) -> NDArray[Any]:
    """Per-channel values shaped to broadcast along ``axis`` of ``ndim`` dimensions."""
    if axis is None:
        return values
    return values.reshape([-1 if d == axis else 1 for d in range(ndim)])
