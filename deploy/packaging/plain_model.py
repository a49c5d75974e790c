"""A model for importers of years ago: opset 11, fixed batch, the same function bit for bit."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from segdeploy.deploy.packaging.base import PackagedModel
from segdeploy.deploy.packaging.forms import with_batch
from segdeploy.deploy.system.errors import InputError

OPSET, IR_VERSION = 11, 6
"""What `torch.onnx.export(opset_version=11)` wrote, and the vendors' importers were built on."""

UNCHANGED = frozenset(
    {
        "Add",
        "Concat",
        "Conv",
        "DepthToSpace",
        "Identity",
        "MaxPool",
        "Mul",
        "Relu",
        "Resize",
        "Sigmoid",
    }
)
"""Operators that mean the same in opset 11, Resize with the changes made here."""

NEWER_RESIZE = {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"}
"""Attributes of Resize that came later, and the value that says what opset 11 does anyway."""


def plain_model(source: PackagedModel, *, batch: int) -> onnx.ModelProto:
    """A copy in opset 11 with a fixed batch; names and metadata stay.

    Args:
        source: a float32 model.
        batch: images a call.

    Raises:
        InputError: an operator or an attribute that opset 11 lacks, or a fixed shape that is
            another one.
    """
    model = with_batch(source.model(), batch)
    source.image_shape(batch)  # refuses a graph of another fixed shape
    empty_roi = "plain/no_roi"
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in UNCHANGED:
            raise InputError(
                f"{source.artifact.path} has the operator {node.op_type} ({node.name}), which has "
                f"no form in opset {OPSET} here; package the file of `segdeploy simplify`"
            )
        if node.op_type == "Resize":
            _lower_resize(node, empty_roi, str(source.artifact.path))
    if any(empty_roi in node.input for node in model.graph.node):
        model.graph.initializer.append(helper.make_tensor(empty_roi, TensorProto.FLOAT, [0], []))
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", OPSET))
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


def only_model(folder: Path) -> PackagedModel:
    """The one model of a package.

    Raises:
        InputError: there is none, or several.
    """
    paths = sorted(folder.glob("*.onnx"))
    if len(paths) != 1:
        raise InputError(f"{folder} holds {len(paths)} ONNX files; expected one")
    return PackagedModel.open(paths[0])


def _lower_resize(node: onnx.NodeProto, empty_roi: str, path: str) -> None:
    """Take away what opset 18 added, and give the region input that opset 11 demands."""
    kept = []
    for attribute in node.attribute:
        expected = NEWER_RESIZE.get(attribute.name)
        found = helper.get_attribute_value(attribute)
        if attribute.name == "axes" or (expected is not None and found != expected):
            raise InputError(
                f"{path}: Resize {node.name} has {attribute.name} {found!r}, which opset {OPSET} "
                "lacks; export the model again"
            )
        if expected is None:
            kept.append(attribute)
    if len(node.input) > 1 and not node.input[1]:
        node.input[1] = empty_roi
    del node.attribute[:]
    node.attribute.extend(kept)
