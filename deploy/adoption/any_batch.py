"""Sizes as constants: what a graph computes of them, and the batch it holds from its export."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from onnx import helper

from segdeploy.deploy.adoption.newer_opset import opset_of
from segdeploy.deploy.onnx_model.cost_formulas import Shape
from segdeploy.deploy.onnx_model.graph import GraphIndex, attributes, constant, rebuilt
from segdeploy.deploy.onnx_model.shapes import infer_shapes, one_image

RESIZE_AXES_OPSET = 18
"""The first whose Resize takes the sizes of some axes alone."""

SPATIAL = (2, 3)


def for_any_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with sizes of one image where a Resize or a Reshape states or computes all sizes.

    An exporter that saw one image writes a batch of 1 into them; one that was told of open axes
    writes nodes that compute each size while the network runs. Both become constants that leave
    the batch open. Whether the model then takes any batch is for the caller to try.

    Args:
        model: of our ends, at one height and width; not changed.

    Raises:
        InputError: it contradicts its own shapes.
    """
    index = GraphIndex(model.graph)
    shapes = infer_shapes(model, [one_image(model.graph.input[0])])
    change = {"Resize": _resized, "Reshape": _reshaped}
    nodes, stored = [], list[onnx.TensorProto]()
    for node in model.graph.node:
        made = None
        ends = shapes.get(node.input[0]) if node.input else None, shapes.get(node.output[0])
        if node.op_type in change and node.input[0] in index.changing:
            made = change[node.op_type](node, index, ends, opset_of(model))
        if made is not None:
            node, tensor = made
            stored.append(tensor)
        nodes.append(node)
    return rebuilt(model, nodes, stored)


Ends = tuple[Shape | None, Shape | None]
Changed = tuple[onnx.NodeProto, onnx.TensorProto] | None


def _resized(node: onnx.NodeProto, index: GraphIndex, ends: Ends, opset: int) -> Changed:
    """A Resize of height and width by factors, or where these are no floats by their sizes."""
    taken, given = ends
    inputs = [*node.input, "", "", ""][:4]
    how = attributes(node)
    stretches = how.pop("keep_aspect_ratio_policy", "stretch") == "stretch"
    known = taken is not None and given is not None and len(taken) == len(given) == 4
    if not known or not inputs[3] or "axes" in how or not stretches:
        return None
    assert taken is not None
    assert given is not None
    if taken[:2] != given[:2] or how.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return None
    name = f"{node.output[0]}/sizes"
    factors = [Fraction(given[axis], taken[axis]) for axis in SPATIAL]
    if all(Fraction(float(np.float32(float(factor)))) == factor for factor in factors):
        scales = np.array([1, 1, *map(float, factors)], np.float32)
        return _again(node, [inputs[0], "", name], how), constant(name, scales)
    if opset < RESIZE_AXES_OPSET:
        return None
    how["axes"] = list(SPATIAL)
    sizes = np.array([given[axis] for axis in SPATIAL], np.int64)
    return _again(node, [inputs[0], "", "", name], how), constant(name, sizes)


def _reshaped(node: onnx.NodeProto, index: GraphIndex, ends: Ends, opset: int) -> Changed:
    """A Reshape whose first axis follows from the batch."""
    taken, given = ends
    how = attributes(node)
    if not taken or not given or how.get("allowzero"):
        return None
    stated = index.constant(node.input[1])
    if stated is not None and stated[0] < 1:
        return None
    name = f"{node.output[0]}/shape"
    first = 0 if taken[0] == given[0] else -1
    return _again(node, [node.input[0], name], how), constant(name, np.array([first, *given[1:]]))


def _again(node: onnx.NodeProto, inputs: Sequence[str], how: dict[str, Any]) -> onnx.NodeProto:
    return helper.make_node(node.op_type, inputs, list(node.output), name=node.name, **how)
