"""conv(x + h) = conv(x) + conv(h): a recurrent step adds after its convolution, not before.

R2U-Net applies one convolution to x, then to x + h with h its own last output. As a sum of two
convolutions the first of which is already there, a step convolves h alone: the same work, and a
channel of h that is silent can be left out of it (``dead_channels``).
"""

from __future__ import annotations

import onnx
from onnx import helper

from segdeploy.deploy.onnx_model.graph import GraphIndex, Rewritten, rebuilt
from segdeploy.deploy.onnx_model.shapes import Shapes, infer_shapes, one_image


def recurrent_sum(model: onnx.ModelProto) -> Rewritten:
    """Turn ``Conv(Add(x, h), W, b)`` into ``Add(Conv(h, W), Conv(x, W, b))``.

    Only where ``Conv(x, W, b)`` is computed anyway, with the same attributes, and x and h are of
    one shape: a convolution's padding would not be spread like a broadcast. Exact but for the order
    of additions.
    """
    index = GraphIndex(model.graph)
    shapes = infer_shapes(model, [one_image(value) for value in model.graph.input])
    first: dict[tuple[str, ...], str] = {}
    nodes: list[onnx.NodeProto] = []
    sites = 0
    for node in model.graph.node:
        split = _split(node, index, first, shapes) if node.op_type == "Conv" else None
        if split is None:
            nodes.append(node)
            if node.op_type == "Conv":
                first.setdefault(_signature(node, node.input[0]), node.output[0])
        else:
            nodes += split
            sites += 1
    return Rewritten(model=rebuilt(model, nodes) if sites else model, sites=sites)


def _split(
    node: onnx.NodeProto,
    index: GraphIndex,
    first: dict[tuple[str, ...], str],
    shapes: Shapes,
) -> list[onnx.NodeProto] | None:
    """The two nodes in a recurrent convolution's place; ``None`` where it is not one."""
    summed = index.made_by(node.input[0], "Add")
    if summed is None or len({shapes.get(name) for name in summed.input}) != 1:
        return None
    if shapes.get(summed.output[0]) is None:
        return None
    for x, hidden in (tuple(summed.input), tuple(summed.input)[::-1]):
        base = first.get(_signature(node, x))
        if base is not None and hidden not in index.constants:
            partial = f"{node.output[0]}/hidden"
            convolution = helper.make_node(
                "Conv", [hidden, node.input[1]], [partial], name=node.name
            )
            convolution.attribute.extend(node.attribute)
            total = helper.make_node(
                "Add", [partial, base], [node.output[0]], name=f"{node.name}/Add"
            )
            return [convolution, total]
    return None


def _signature(node: onnx.NodeProto, source: str) -> tuple[str, ...]:
    """What two convolutions of ``source`` must share to be the same."""
    settings = sorted(a.SerializeToString(deterministic=True).hex() for a in node.attribute)
    return (source, *node.input[1:], *settings)
