"""A model that decides by itself: the class of each pixel, for devices that return it."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from segdeploy.deploy.onnx_model.file import load_model, metadata, output_in, set_metadata
from segdeploy.deploy.onnx_model.graph import GraphIndex
from segdeploy.deploy.onnx_model.interface import METADATA_KEY
from segdeploy.deploy.onnx_model.normalise import unused
from segdeploy.deploy.system.errors import InputError

ENDING = ".argmax.onnx"
CLASSES = "classes"
"""Its output, unless the network has a tensor of that name."""

INTERFACE = "tensor-classes"


def with_argmax(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that gives the first of the largest channels, int64 (batch, height, width).

    As importers know ArgMax: of opset 11 and later, behind the probabilities.

    Args:
        model: not changed; one output, (batch, channels, height, width).
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    (result,) = changed.graph.output
    name = unused(
        CLASSES, {*GraphIndex(changed.graph).tensors, *(n.name for n in model.graph.node)}
    )
    batch, _, height, width = result.type.tensor_type.shape.dim
    classes = onnx.ValueInfoProto(name=name)
    classes.type.tensor_type.elem_type = TensorProto.INT64
    classes.type.tensor_type.shape.dim.extend([batch, height, width])
    changed.graph.node.append(
        helper.make_node("ArgMax", [result.name], [name], name=name, axis=1, keepdims=0)
    )
    del changed.graph.output[:]
    changed.graph.output.append(classes)
    set_metadata(changed, metadata(model) | {METADATA_KEY: INTERFACE})
    onnx.checker.check_model(changed, full_check=True)
    return changed


def verify_argmax(path: Path, source: onnx.ModelProto) -> None:
    """Refuse a file that is not the model it was made from with its decision behind it.

    Raises:
        InputError: naming it.
    """
    found = load_model(path)
    if found.SerializeToString(deterministic=True) != with_argmax(source).SerializeToString(
        deterministic=True
    ):
        classes = output_in(source, source=str(path)).channels
        raise InputError(f"{path} is not the model beside it with an ArgMax of {classes} classes")
