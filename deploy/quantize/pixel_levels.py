"""The input's integers are the image's own 8-bit levels: its quantization loses nothing.

An image holds 256 levels, and so does an 8-bit tensor. A range of -1 to 1 still does not put one on
the other: zero lies halfway between two levels (127.5 with a mean of 0.5), so every pixel lies
halfway between two integers. Some runtimes round such halves to the even integer, which merges
levels by twos, others all in one direction, which moves the whole image. Half a level is added
before rounding instead, and taken off again in the biases of the convolutions that read the image.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx

from segdeploy.calibration.qparams import QuantParams, QuantType
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.graph import GraphIndex
from segdeploy.deploy.targets.profiles import TargetProfile

LEVELS = 256


@dataclass(frozen=True, kw_only=True)
class PixelLevels:
    """How to put the pixels of an input on integers.

    Attributes:
        params: one step for each pixel level.
        shift: added to the input before it is rounded; real numbers, at most half a step.
    """

    params: QuantParams
    shift: np.float32


def pixel_levels(preprocess: Preprocess, profile: TargetProfile) -> PixelLevels | None:
    """Integers for the values that a contract makes of 8-bit pixels.

    Example:
        (x / 255 - 0.5) / 0.5 is 0 at level 127.5; the integer that stands for 0 is 128.

        >>> from segdeploy.deploy.targets.profiles import ORT_X86
        >>> levels = pixel_levels(Preprocess(), ORT_X86)
        >>> step = levels.params.scale
        >>> round(1 / float(step), 4), int(levels.params.zero_point), float(levels.shift / step)
        (127.5, 128, -0.5)

    Args:
        preprocess: the input contract.
        profile: its integers.

    Returns:
        ``None`` where no one scale fits: the contract takes other levels than 8-bit ones as they
        are, the channels differ in mean or std, or zero is more than half a level away from what
        the profile's zero point allows. A convolution pads with the zero point, which must stand
        for 0.
    """
    if not preprocess.eight_bit:
        return None
    zeros = {mean / preprocess.scale for mean in preprocess.mean}
    steps = {preprocess.scale / std for std in preprocess.std}
    if len(zeros) > 1 or len(steps) > 1 or preprocess.scale <= 0:
        return None
    (zero,), (step,) = zeros, steps
    signed = profile.activation_type is QuantType.S8
    lowest = -LEVELS // 2 if signed else 0
    if profile.activation_symmetric:
        centre = LEVELS // 2 if signed else 0
    else:
        centre = min(max(math.floor(zero + 0.5), 0), LEVELS - 1)
    if abs(zero - centre) > 0.5:
        return None
    params = QuantParams(
        scale=np.array(step, np.float32),
        zero_point=np.array(centre + lowest, profile.activation_type.numpy),
        dtype=profile.activation_type,
        quant_min=lowest,
        quant_max=lowest + LEVELS - 1,
    )
    return PixelLevels(params=params, shift=np.float32(step * (zero - centre)))


def takes_pixels(graph: onnx.GraphProto, quantized: Collection[str]) -> str | None:
    """The graph's input, where only quantized convolutions read it; else ``None``.

    Args:
        graph: a float graph.
        quantized: names of the nodes that will be quantized.
    """
    (name,) = [value.name for value in graph.input][:1] or [""]
    readers = GraphIndex(graph).readers.get(name, [])
    fit = all(node.op_type == "Conv" and node.name in quantized for node in readers)
    return name if readers and fit else None
