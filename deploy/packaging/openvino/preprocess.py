"""The input contract inside an OpenVINO model, to the last bit, and the decision behind it.

OpenVINO's own resize rounds other than this project's, and a runtime may contract or reorder the
arithmetic of mean and std. What is built in here has nothing left to round differently: positions
are whole numbers, the weights of the resize and the 256 normalised values of a channel stand in
tables. (On the 120 test images of DSB2018, PrePostProcessor's linear resize differs by one grey
level in 0.6 % of the pixels, this one in none.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset8 as ops
from openvino import opset11
from openvino.preprocess import ColorFormat, PrePostProcessor

from segdeploy.deploy.data.preprocess import BGR, RGB, Preprocess

HEIGHT_AXIS, WIDTH_AXIS = 1, 2
CHANNEL_AXIS = 1
"""Of probabilities, which have their channels first."""
LEVELS = 256

Node = Any
"""A node or the output of one: OpenVINO's Python package has no types."""


def embed(model: openvino.Model, preprocess: Preprocess) -> openvino.Model:
    """Make a model take 8-bit images, colours as RGB; its outputs stay.

    The input keeps its name and becomes uint8 (N, H, W, channels): of any height and width where
    the contract's resize can be built in, of the contract's size where it asks for more than
    bilinear stretching: antialiasing is Pillow's fixed-point filter.

    Args:
        model: one normalised image (N, channels, height, width) in; changed.
        preprocess: its contract, of 8-bit levels as they are.
    """
    batch = model.input(0).get_partial_shape()[0]
    sides = [-1, -1] if preprocess.plain_resize else list(preprocess.size)
    steps = PrePostProcessor(model)
    source = steps.input()
    source.tensor().set_element_type(openvino.Type.u8)
    source.tensor().set_layout(openvino.Layout("NHWC"))
    if preprocess.channel_order in (RGB, BGR):
        source.tensor().set_color_format(ColorFormat.RGB)
    source.tensor().set_shape(openvino.PartialShape([batch, *sides, preprocess.channels]))
    source.model().set_layout(openvino.Layout("NCHW"))
    if preprocess.plain_resize:
        source.preprocess().custom(lambda image: resized(image, preprocess.size))
    if preprocess.channel_order == BGR:
        source.preprocess().convert_color(ColorFormat.BGR)
    source.preprocess().convert_layout(openvino.Layout("NCHW"))
    source.preprocess().custom(lambda image: normalised(image, preprocess))
    return steps.build()


def decide(model: openvino.Model) -> openvino.Model:
    """Make a model give the class of each pixel: the first of the largest of its channels.

    The output keeps its name and becomes uint8 (N, height, width).

    Args:
        model: probabilities (N, channels, height, width) out; changed.
    """
    steps = PrePostProcessor(model)
    steps.output().postprocess().custom(largest)
    return steps.build()


def largest(values: Node) -> Node:
    """Index of the first largest channel; (N, channels, ...) to uint8 (N, ...)."""
    top = opset11.topk(values, _whole(1), CHANNEL_AXIS, "max", "value", stable=True)
    return ops.convert(ops.squeeze(top.output(1), _whole(CHANNEL_AXIS)), "u8").output(0)


def resized(image: Node, size: tuple[int, int]) -> Node:
    """``deploy.data.preprocess.resize`` without antialiasing, of any size.

    Args:
        image: uint8 (N, H, W, channels).
        size: (height, width).

    Returns:
        uint8 (N, height, width, channels).
    """
    rows = _blended(image, axis=HEIGHT_AXIS, target=size[0], weight_axes=[1, 2])
    blended = _blended(rows, axis=WIDTH_AXIS, target=size[1], weight_axes=[1])
    return ops.convert(ops.round(blended, "half_to_even"), "u8").output(0)


def normalised(image: Node, preprocess: Preprocess) -> Node:
    """``Preprocess.normalise`` of ordered channels, by look-up.

    It comes last, so that the network is compiled as it is behind a tensor. With a transposition
    in between OpenVINO 2026.4 moves an int8 network's quantizer of the image into the table, and
    rounds values half-way between two steps otherwise.

    Args:
        image: uint8 (N, channels, height, width), in the contract's order.
        preprocess: the contract.

    Returns:
        float32 (N, channels, height, width).
    """
    rows = np.arange(preprocess.channels, dtype=np.int32)
    first = ops.constant(rows.reshape(1, -1, 1, 1) * LEVELS)
    entry = ops.add(ops.convert(image, "i32"), first)
    table = ops.constant(normalised_levels(preprocess).reshape(-1))
    return ops.gather(table, entry, _whole(0)).output(0)


def normalised_levels(preprocess: Preprocess) -> NDArray[np.float32]:
    """What the 256 values of a pixel become, float32 (channels, 256), a row a channel.

    Example:
        >>> normalised_levels(Preprocess())[:, [0, 255]].tolist()
        [[-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]]
    """
    levels = np.arange(LEVELS, dtype=np.uint8)[None, :, None].repeat(preprocess.channels, axis=2)
    return preprocess.normalise(levels)[:, 0, :]


def weights(target: int) -> NDArray[np.float32]:
    """Every weight that half-pixel centres can give: k / (2 target).

    The centre of target pixel i, (i + 0.5) length / target - 0.5, is a whole number of such steps:
    ((2 i + 1) length - target) / (2 target).

    Example:
        >>> weights(2).tolist()
        [0.0, 0.25, 0.5, 0.75]
    """
    return (np.arange(2 * target) / (2 * target)).astype(np.float32)


def _blended(image: Node, *, axis: int, target: int, weight_axes: list[int]) -> Node:
    """One axis of the resize: two taps for each target position, float32."""
    length = ops.gather(ops.shape_of(image), _whole([axis]), _whole(0))
    last = ops.subtract(length, _whole(1))
    odd = 2 * np.arange(target) + 1
    steps = ops.subtract(ops.multiply(_whole(odd), length), _whole(target))
    steps = ops.minimum(ops.maximum(steps, _whole(0)), ops.multiply(last, _whole(2 * target)))
    first = ops.divide(steps, _whole(2 * target))
    rest = ops.subtract(steps, ops.multiply(first, _whole(2 * target)))
    second = ops.minimum(ops.add(first, _whole(1)), last)
    weight = ops.gather(ops.constant(weights(target)), rest, _whole(0))
    start, end = (
        ops.convert(ops.gather(image, taps, _whole(axis)), "f32") for taps in (first, second)
    )
    step = ops.multiply(ops.subtract(end, start), ops.unsqueeze(weight, _whole(weight_axes)))
    return _sum(start, step)


def _sum(left: Node, right: Node) -> Node:
    """Add as a sum over an axis, which no compiler contracts with the product before."""
    terms = [ops.unsqueeze(term, _whole(0)) for term in (left, right)]
    return ops.reduce_sum(ops.concat(terms, 0), _whole(0))


def _whole(value: object) -> Node:
    return ops.constant(np.asarray(value, np.int64))
