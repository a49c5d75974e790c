"""Which heights and widths a graph takes: the number that they must divide by."""

from __future__ import annotations

import onnx

from segdeploy.deploy.onnx_model.shapes import infer_shapes, one_image
from segdeploy.deploy.system.errors import InputError

CANDIDATES = tuple(1 << power for power in range(9))
"""What networks of poolings and strides by two need."""

ODD = (3, 5)
"""Height and width in multiples: no side divides by more than what is tried."""


def needed_multiple(model: onnx.ModelProto, *, channels_last: bool = False) -> int | None:
    """What height and width of a graph's input must divide by.

    Told by shape inference: the smallest number whose odd multiples the graph takes without
    contradicting itself and gives back as the size of its output.

    Args:
        model: not modified; its height and width may be fixed.
        channels_last: the layout of its first input and output.

    Returns:
        1 to 256; ``None`` where no such number is found, as in a graph with its size written into
        it.
    """
    return next(
        (number for number in CANDIDATES if _takes(model, number, channels_last=channels_last)),
        None,
    )


def _takes(model: onnx.ModelProto, number: int, *, channels_last: bool) -> bool:
    size = tuple(number * factor for factor in ODD)
    image = one_image(model.graph.input[0])
    axes = image.type.tensor_type.shape.dim
    sides = slice(1, 3) if channels_last else slice(2, 4)
    for axis, length in zip(axes[sides], size, strict=True):
        axis.dim_value = length
    try:
        found = infer_shapes(model, [image], strict=True)
        output = found[model.graph.output[0].name]
    except InputError:
        return False
    return size in (output[1:3], output[2:4], output[-2:])
