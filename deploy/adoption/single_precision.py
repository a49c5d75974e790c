"""A graph of fp16 in float32: the form that calibration, rewrites and int8 start from."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from segdeploy.deploy.onnx_model.guard import stored_tensors

TYPE_ATTRIBUTES = frozenset({"dtype", "to"})
"""Attributes that name the type of what a node makes."""


def holds_half(model: onnx.ModelProto) -> bool:
    """Whether any tensor that the graph stores, takes, casts to or gives is fp16."""
    graph = model.graph
    ends = (value.type.tensor_type.elem_type for value in (*graph.input, *graph.output))
    stored = (tensor.data_type for tensor in stored_tensors(graph.initializer, graph.node))
    made = (attribute.i for attribute in _types(graph.node))
    return any(TensorProto.FLOAT16 in found for found in (set(ends), set(stored), set(made)))


def widen(model: onnx.ModelProto) -> None:
    """Compute in float32 what the graph computes in fp16, in place.

    Every fp16 value is one of float32, so that weights stay what they are; results lose their
    rounding to fp16.

    Args:
        model: changed.
    """
    graph = model.graph
    for tensor in stored_tensors(graph.initializer, graph.node):
        if tensor.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for attribute in _types(graph.node):
        if attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]


def _types(nodes: Iterable[onnx.NodeProto]) -> list[onnx.AttributeProto]:
    return [a for node in nodes for a in node.attribute if a.name in TYPE_ATTRIBUTES]
