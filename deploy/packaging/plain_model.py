"""A model for importers of years ago: opset 11, fixed batch, the same function bit for bit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import TensorProto, defs, helper

from segdeploy.deploy.onnx_model.graph import GraphIndex, attributes
from segdeploy.deploy.onnx_model.shapes import Shapes, infer_shapes
from segdeploy.deploy.packaging.argmax import ENDING as ARGMAX_ENDING
from segdeploy.deploy.packaging.base import PackagedModel
from segdeploy.deploy.packaging.forms import with_batch
from segdeploy.deploy.system.errors import InputError

OPSET, IR_VERSION = 11, 6
"""What `torch.onnx.export(opset_version=11)` wrote, and the vendors' importers were built on."""

SHARES = frozenset(("LogSoftmax", "Softmax"))
"""Operators that in opset 11 take all axes from theirs on as one."""

EMPTY_ROI = "plain/no_roi"
"""The region of a Resize, which opset 11 demands."""


def plain_model(source: PackagedModel, *, batch: int) -> onnx.ModelProto:
    """A copy in opset 11 with a fixed batch; names and metadata stay.

    What later opsets added is taken away where it says what opset 11 does anyway, an input that
    was an attribute becomes one again, and a Softmax over channels runs over the last axis.

    Args:
        source: a float32 model.
        batch: images a call.

    Raises:
        InputError: an operator or an attribute that opset 11 lacks, or a fixed shape that is
            another one.
    """
    model = with_batch(source.model(), batch)
    source.image_shape(batch)  # refuses a graph of another fixed shape
    path = source.artifact.path
    shapes = infer_shapes(model, list(model.graph.input))
    index = GraphIndex(model.graph)
    nodes = [lower for node in model.graph.node for lower in _lowered(node, index, shapes, path)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _drop_unread(model.graph, index)
    if any(EMPTY_ROI in node.input for node in model.graph.node):
        model.graph.initializer.append(helper.make_tensor(EMPTY_ROI, TensorProto.FLOAT, [0], []))
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", OPSET))
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


def only_model(folder: Path) -> PackagedModel:
    """The one model of a package that gives probabilities.

    Raises:
        InputError: there is none, or several.
    """
    paths = [p for p in sorted(folder.glob("*.onnx")) if not p.name.endswith(ARGMAX_ENDING)]
    if len(paths) != 1:
        raise InputError(f"{folder} holds {len(paths)} ONNX files; expected one")
    return PackagedModel.open(paths[0])


def _lowered(
    node: onnx.NodeProto, index: GraphIndex, shapes: Shapes, path: Path
) -> Iterable[onnx.NodeProto]:
    """A node's form in opset 11: mostly one node, changed in place.

    Raises:
        InputError: it has none.
    """
    try:
        old = defs.get_schema(node.op_type, OPSET, node.domain)
        new = defs.get_schema(node.op_type, defs.onnx_opset_version(), node.domain)
    except defs.SchemaError:
        old = None
    if old is None or node.domain not in ("", "ai.onnx"):
        raise InputError(
            f"{path} has the operator {node.op_type} ({node.name}), which has no form in opset "
            f"{OPSET} here; package the file of `segdeploy simplify`"
        )
    if "axes" in old.attributes or node.op_type == "Split":
        _take_in(node, index, path)
    if len(node.input) > len(old.inputs) and old.inputs[-1].option != VARIADIC:
        raise _lacking(node, f"{len(node.input)} inputs", path)
    kept = []
    for attribute in node.attribute:
        if attribute.name in old.attributes:
            kept.append(attribute)
            continue
        found = helper.get_attribute_value(attribute)
        usual = new.attributes[attribute.name].default_value
        if usual.type == 0 or found != helper.get_attribute_value(usual):
            raise _lacking(node, f"{attribute.name} {found!r}", path)
    del node.attribute[:]
    node.attribute.extend(kept)
    _require_old_values(node, path)
    if node.op_type == "Resize" and len(node.input) > 1 and not node.input[1]:
        node.input[1] = EMPTY_ROI
    if node.op_type in SHARES:
        return _over_the_last_axis(node, len(shapes[node.input[0]]))
    return [node]


VARIADIC = defs.OpSchema.FormalParameterOption.Variadic

NEWER_VALUES = {
    "Pad": ("mode", (b"wrap",)),
    "Resize": ("coordinate_transformation_mode", (b"half_pixel_symmetric",)),
}
"""Values that an attribute of opset 11 got later."""


def _require_old_values(node: onnx.NodeProto, path: Path) -> None:
    name, newer = NEWER_VALUES.get(node.op_type, ("", ()))
    found = attributes(node).get(name)
    if found in newer:
        raise _lacking(node, f"{name} {found!r}", path)


def _take_in(node: onnx.NodeProto, index: GraphIndex, path: Path) -> None:
    """Make an attribute of the second input, as Squeeze, Split and reductions had it.

    Raises:
        InputError: it is no constant.
    """
    if len(node.input) < 2 or not node.input[1]:
        return
    value = index.constant(node.input[1])
    if value is None:
        raise _lacking(node, "axes that are computed", path)
    del node.input[1]
    name = "split" if node.op_type == "Split" else "axes"
    node.attribute.append(helper.make_attribute(name, value.astype(int).ravel().tolist()))


def _over_the_last_axis(node: onnx.NodeProto, rank: int) -> list[onnx.NodeProto]:
    """A Softmax of one axis, which in opset 11 has to be the last."""
    axis = attributes(node).get("axis", -1) % rank
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", rank - 1))
    if axis == rank - 1:
        return [node]
    order = list(range(rank))
    order[axis], order[-1] = order[-1], order[axis]
    (source,), (result,) = node.input, node.output
    last, back = f"{node.name}/last", f"{node.name}/back"
    node.input[0], node.output[0] = last, back
    return [
        helper.make_node("Transpose", [source], [last], name=last, perm=order),
        node,
        helper.make_node("Transpose", [back], [result], name=f"{back}/transpose", perm=order),
    ]


def _drop_unread(graph: onnx.GraphProto, before: GraphIndex) -> None:
    """Drop constants that were inputs and are attributes now."""
    read = {name for node in graph.node for name in node.input} | before.outputs
    idle = [t for t in graph.initializer if t.name in before.readers and t.name not in read]
    for tensor in idle:
        graph.initializer.remove(tensor)


def _lacking(node: onnx.NodeProto, found: str, path: Path) -> InputError:
    return InputError(
        f"{path}: {node.op_type} {node.name} has {found}, which opset {OPSET} lacks; export the "
        "model again"
    )
