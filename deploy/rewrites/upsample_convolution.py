"""Nearest upsampling by 2 and a 3x3 convolution, as four 2x2 convolutions of the small map.

Of the nine values that a 3x3 window sees on the upsampled map only four are different, and which
weights meet the same value depends on the parity of row and column alone. So each parity is one 2x2
convolution of the small map whose weights are sums of the 3x3's: 16 products a small pixel and pair
of channels in place of 36. DepthToSpace puts the four results side by side.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from segdeploy.deploy.onnx_model.graph import GraphIndex, Rewritten, attributes, constant, rebuilt

TAPS = {0: ((0,), (1, 2)), 1: ((0, 1), (2,))}
"""For an even and an odd row: which rows of the 3x3 window meet the first and the second small row.
Columns alike.

Row 2i of the large map is surrounded by small rows i-1 | i, i; row 2i+1 by i, i | i+1.
"""


def upsample_convolution(model: onnx.ModelProto) -> Rewritten:
    """Replace nearest 2x Resize, 3x3 Conv (padded by 1) and Relu by four 2x2 Conv and DepthToSpace.

    Only where nothing else reads the tensors in between. Exact but for the order of additions.
    """
    index = GraphIndex(model.graph)
    replaced: dict[str, list[onnx.NodeProto]] = {}
    constants: list[onnx.TensorProto] = []
    for node in model.graph.node:
        site = _site(node, index)
        if site is None:
            continue
        resize, convolution = site
        weights = index.value(convolution.input[1])
        nodes, added = _on_the_small_map(resize, convolution, node, weights)
        constants += added
        replaced |= {resize.output[0]: [], convolution.output[0]: [], node.output[0]: nodes}
    kept = [new for node in model.graph.node for new in replaced.get(node.output[0], [node])]
    sites = len(replaced) // 3
    return Rewritten(model=rebuilt(model, kept, constants) if sites else model, sites=sites)


def parity_weights(weights: NDArray[np.float32], row: int, column: int) -> NDArray[np.float64]:
    """Weights of the 2x2 convolution that gives the large map's pixels of one parity.

    Example:
        >>> w = np.arange(1, 10).reshape(1, 1, 3, 3)
        >>> parity_weights(w, 0, 0)[0, 0]  # [[1, 2 + 3], [4 + 7, 5 + 6 + 8 + 9]]
        array([[ 1.,  5.],
               [11., 28.]])

    Args:
        weights: (out, in, 3, 3).
        row: 0 for even rows, 1 for odd ones.
        column: the same of columns.

    Returns:
        (out, in, 2, 2).
    """
    result = np.zeros((*weights.shape[:2], 2, 2))
    for a, b in itertools.product((0, 1), repeat=2):
        for r, c in itertools.product(TAPS[row][a], TAPS[column][b]):
            result[:, :, a, b] += weights[:, :, r, c]
    return result


def _site(relu: onnx.NodeProto, index: GraphIndex) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """Resize and Conv before a Relu, where the three can be replaced."""
    if relu.op_type != "Relu":
        return None
    convolution = index.made_by(relu.input[0], "Conv")
    if convolution is None or index.only_reader(convolution.output[0]) is None:
        return None
    resize = index.made_by(convolution.input[0], "Resize")
    if resize is None or index.only_reader(resize.output[0]) is None:
        return None
    weight = index.constants.get(convolution.input[1])
    if weight is None or weight.data_type != onnx.TensorProto.FLOAT:
        return None
    settings = attributes(convolution)
    plain = settings.get("group", 1) == 1 and settings.get("strides", [1, 1]) == [1, 1]
    plain = plain and settings.get("dilations", [1, 1]) == [1, 1]
    padded = settings.get("pads") == [1, 1, 1, 1] and settings.get("auto_pad") in (None, "NOTSET")
    three = tuple(weight.dims[2:]) == (3, 3)
    return (resize, convolution) if plain and padded and three and _doubles(resize, index) else None


def _doubles(resize: onnx.NodeProto, index: GraphIndex) -> bool:
    """Whether a Resize repeats every row and column."""
    settings = attributes(resize)
    nearest = settings.get("mode", "nearest") == "nearest"
    mode = settings.get("coordinate_transformation_mode", "half_pixel")
    rounding = settings.get("nearest_mode", "round_prefer_floor")
    repeats = (mode == "asymmetric" and rounding == "floor") or (
        mode == "half_pixel" and rounding in ("round_prefer_floor", "round_prefer_ceil")
    )
    if not nearest or not repeats or len(resize.input) < 3:
        return False
    scales = resize.input[2]
    return scales in index.constants and index.value(scales).tolist() == [1, 1, 2, 2]


def _on_the_small_map(
    resize: onnx.NodeProto,
    convolution: onnx.NodeProto,
    relu: onnx.NodeProto,
    weights: NDArray[np.float32],
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Four convolutions with their Relu, Concat and DepthToSpace; and their weights."""
    nodes, constants, parts = [], [], []
    for row, column in itertools.product((0, 1), repeat=2):
        name = f"{convolution.name}/{row}{column}"
        stored = f"{convolution.input[1]}/{row}{column}"
        constants.append(constant(stored, parity_weights(weights, row, column)))
        nodes += [
            helper.make_node(
                "Conv",
                [resize.input[0], stored, *convolution.input[2:]],
                [name],
                name=name,
                kernel_shape=[2, 2],
                pads=[1 - row, 1 - column, row, column],
            ),
            helper.make_node("Relu", [name], [f"{name}/Relu"], name=f"{name}/Relu"),
        ]
        parts.append(f"{name}/Relu")
    joined = f"{convolution.name}/parities"
    return [
        *nodes,
        helper.make_node("Concat", parts, [joined], name=joined, axis=1),
        helper.make_node(
            "DepthToSpace",
            [joined],
            [relu.output[0]],
            name=f"{convolution.name}/DepthToSpace",
            blocksize=2,
            mode="DCR",
        ),
    ], constants
