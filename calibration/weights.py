"""Weights in s8, one scale for each output channel; biases in int32 on the product of scales.

Rounding of weights is chosen so that errors cancel within a kernel and a channel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.qparams import SMALLEST_SCALE, QuantParams, QuantType

INT32_LIMIT = 2**31 - 1

MOST_STEPS = 255
"""Of an activation from its zero point: kernels add weights times this to a bias, in int32."""


def largest_weight(*, reduce_range: bool) -> int:
    """The largest magnitude of a weight's integers: of 8 bits, or of 7."""
    return 64 if reduce_range else 127


def per_channel_weight(
    weight: NDArray[np.float32],
    *,
    axis: int,
    reduce_range: bool = False,
    min_scale: NDArray[np.float64] | None = None,
) -> QuantParams:
    """Symmetric s8 parameters of a weight, one scale for each output channel.

    Integers -127..127, reduced -64..64; zero point 0. A channel of zeros gets the largest scale
    of the others (1 where all are zero): any scale is exact for it, and a bias quantized with
    the product of scales then stays as fine as its neighbours'.

    Example:
        >>> from segdeploy.calibration.qparams import quantize
        >>> weight = np.array([[1.27, -0.5], [0.0, 0.0]], np.float32)
        >>> params = per_channel_weight(weight, axis=0)
        >>> params.scale
        array([0.01, 0.01], dtype=float32)
        >>> quantize(weight, params)
        array([[127, -50],
               [  0,   0]], dtype=int8)

    Args:
        weight: float32, any shape.
        axis: of the output channels; negative counts from the end.
        reduce_range: use 7 bits.
        min_scale: (C,), scales are raised to it; ``smallest_weight_scale`` keeps a bias in int32.

    Raises:
        CalibrationError: not float32, empty, NaN or Inf, or no such axis.
    """
    if weight.dtype != np.float32 or weight.size == 0 or not np.isfinite(weight).all():
        raise CalibrationError(
            f"weight {weight.dtype} {weight.shape} must be float32, not empty and finite"
        )
    if not -weight.ndim <= axis < weight.ndim:
        raise CalibrationError(f"axis {axis} does not exist in a weight of shape {weight.shape}")
    axis %= weight.ndim
    limit = largest_weight(reduce_range=reduce_range)
    peaks = np.abs(weight).max(axis=tuple(d for d in range(weight.ndim) if d != axis))
    scales = peaks.astype(np.float64) / limit
    scales[peaks == 0] = scales.max() if scales.max() > 0 else 1.0
    if min_scale is not None:
        scales = np.maximum(scales, min_scale)
    scale = np.maximum(scales, SMALLEST_SCALE).astype(np.float32)
    return QuantParams(
        scale=scale,
        zero_point=np.zeros(scale.shape, np.int8),
        dtype=QuantType.S8,
        quant_min=-limit,
        quant_max=limit,
        axis=axis,
    )


def quantize_weight(weight: NDArray[np.float32], params: QuantParams) -> NDArray[np.int8]:
    """A convolution's weight to integers whose rounding errors cancel.

    The values a kernel reads are neighbours and much alike, so what it adds to the output is close
    to the sum of its errors times their mean. Rounding to the nearest leaves that sum to chance.
    Here it is brought to at most half a step for each kernel, then for each output channel, by
    rounding those values the other way that lie nearest to halfway. No data is needed.

    Example:
        Each weight alone would be rounded down; together they would lose 1.2 steps.

        >>> weight = np.array([[[[0.4, 0.4, 0.4]]], [[[127.0, 0.0, 0.0]]]], np.float32)
        >>> params = per_channel_weight(np.full((2, 1), 127, np.float32), axis=0)  # scales of 1
        >>> quantize_weight(weight, params)[0, 0, 0]
        array([1, 0, 0], dtype=int8)

    Source: Guo et al., "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian
    Approximation", ICLR 2022, for the idea that errors of a kernel and of a channel should cancel.

    Args:
        weight: float32 (O, I, ...).
        params: with one scale for each output channel, axis 0.

    Returns:
        int8, the shape of ``weight``; no value is more than one step away from its own.
    """
    scale = params.scale.astype(np.float64).reshape(-1, 1, 1)
    exact = weight.astype(np.float64).reshape(*weight.shape[:2], -1) / scale
    rounded = np.rint(exact)
    error = rounded - exact
    turned = _turned(error, np.rint(error.sum(axis=-1)))
    rounded, error = rounded + turned, error + turned
    kernels = error.sum(axis=-1)
    rounded += _turned(error, -_turned(kernels, np.rint(kernels.sum(axis=-1))))
    clipped = np.clip(rounded, params.quant_min, params.quant_max)
    return clipped.astype(np.int8).reshape(weight.shape)


def _turned(error: NDArray[np.float64], excess: NDArray[np.float64]) -> NDArray[np.float64]:
    """One step back for the largest errors of the sign of ``excess``, as many as it says.

    Args:
        error: (..., K), in steps.
        excess: (...), whole steps to take off the sum of each row.

    Returns:
        (..., K) of -1, 0 and 1.
    """
    sign = np.sign(excess)[..., None]
    order = np.argsort(-error * sign, axis=-1, kind="stable")
    place = np.argsort(order, axis=-1, kind="stable")
    return np.asarray(np.where(place < np.abs(excess)[..., None], -sign, 0.0))


def bias_params(
    values: NDArray[np.float32],
    *,
    input_scale: NDArray[np.float32],
    weight_scale: NDArray[np.float32],
    integers: NDArray[np.int8] | None = None,
) -> QuantParams:
    """Parameters of a bias: scale ``input_scale * weight_scale``, zero point 0.

    The product is taken in float32, as runtimes do. The bias is never clipped in silence, and its
    sum with the products of ``integers`` never wraps.

    Example:
        >>> params = bias_params(
        ...     np.array([0.3], np.float32),
        ...     input_scale=np.float32(0.02),
        ...     weight_scale=np.array([0.01], np.float32),
        ... )
        >>> params.scale, params.axis  # 0.3 becomes 1500
        (array([0.0002], dtype=float32), 0)

    Args:
        values: float32 (C,).
        input_scale: float32 ().
        weight_scale: float32 (C,), or () for one scale for the whole weight.
        integers: int8 (C, ...), the weight whose products with activations are added to the bias;
            ``None`` where nothing is.

    Raises:
        CalibrationError: a bias that does not fit in int32 on this scale beside the products, or a
            product of scales too small for float32.
    """
    product = np.asarray(np.float32(input_scale) * np.asarray(weight_scale, np.float32))
    if product.min() < SMALLEST_SCALE:
        raise CalibrationError(
            f"the product of input scale {float(input_scale)} and the smallest weight scale "
            f"{float(np.min(weight_scale))} is too small for float32; "
            "raise the weight scale with smallest_weight_scale()"
        )
    steps = np.rint(np.abs(values.astype(np.float64) / product))
    room = INT32_LIMIT - (np.zeros(len(values)) if integers is None else largest_products(integers))
    if not (steps <= room).all():
        channel = int(np.argmax(~(steps <= room)))
        raise CalibrationError(
            f"the bias {float(values[channel])} of channel {channel} needs {steps[channel]:.3g} "
            f"steps, more than int32 holds ({INT32_LIMIT}) beside its products "
            f"({INT32_LIMIT - room[channel]:.3g}); "
            "raise the weight scale with smallest_weight_scale()"
        )
    return QuantParams(
        scale=product,
        zero_point=np.zeros(product.shape, np.int32),
        dtype=QuantType.S32,
        quant_min=-INT32_LIMIT,
        quant_max=INT32_LIMIT,
        axis=0 if product.ndim else None,
    )


def largest_products(integers: NDArray[np.int8]) -> NDArray[np.float64]:
    """The largest magnitude that products with activations add to each output channel, in steps.

    Example:
        >>> largest_products(np.array([[1, -2], [0, 0]], np.int8))
        array([765.,   0.])

    Args:
        integers: (C, ...), a weight.
    """
    flat = np.abs(integers.reshape(len(integers), -1).astype(np.float64))
    return np.asarray(MOST_STEPS * flat.sum(axis=1))


def smallest_weight_scale(
    values: NDArray[np.float32],
    *,
    input_scale: NDArray[np.float32],
    weight: NDArray[np.float32] | None = None,
) -> NDArray[np.float64]:
    """The smallest weight scale of each channel with which bias and products fit in int32.

    Pass it to ``per_channel_weight(min_scale=...)``. One part in a million is added, so that
    rounding to float32 cannot undo it, and to every activation one step, for a bias that is
    changed by less than that later.

    Args:
        values: float32 (C,), finite.
        input_scale: float32 ().
        weight: float32 (C, ...), whose products with activations are added to the bias; ``None``
            where nothing is. A step for each of its values is for their rounding.

    Returns:
        float64 (C,), also large enough that the product of scales is a normal float32.
    """
    scale, size = float(input_scale), np.abs(values.astype(np.float64))
    room = float(INT32_LIMIT)
    if weight is not None:
        flat = np.abs(weight.reshape(len(weight), -1).astype(np.float64))
        size = size + (MOST_STEPS + 1) * scale * flat.sum(axis=1)
        room = max(room - (MOST_STEPS + 1) * flat.shape[1], 1.0)
    needed = np.maximum(size / room, SMALLEST_SCALE)
    return np.asarray(needed / scale * (1 + 1e-6), np.float64)
