"""Convert a float32 graph to half precision, with float32 inputs and outputs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.onnx_model.file import (
    describe,
    load_model,
    metadata,
    require_fp32,
    save_model,
    set_metadata,
)
from segdeploy.deploy.onnx_model.graph import GraphIndex, layer_name
from segdeploy.deploy.system.errors import InputError, RunError, one_line

log = logging.getLogger(__name__)

FLOAT32_INPUTS = {"Resize": frozenset({1, 2})}
"""Inputs that ONNX defines as float32 whatever the data's type: Resize's roi and scales."""

FP16_MAX = float(np.finfo(np.float16).max)

FP16_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
"""The smallest value above 0, 2**-24."""

GUARDED = frozenset(
    {"Add", "Clip", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Pad"}
    | {"Sub", "Where"}
)
"""Operators whose constants keep a value from something: a divisor from 0, a mask from the rest."""


def to_fp16(source: Artifact, output: Path) -> Artifact:
    """Store weights and compute in fp16; cast at the borders so that callers see float32.

    A guard, one value that is added to or compared with others, stays what it is for: it becomes
    neither 0 nor infinite, and a warning names it.

    Args:
        source: a float32 ONNX file.
        output: where to write.

    Raises:
        InputError: the source is not a valid ONNX file, not float32, or has an operator that needs
            more than its weights changed.
        RunError: a weight does not fit fp16's range of +-65504.
        OSError: the output cannot be written.
    """
    require_fp32(source, "fp16 is made")
    model = load_model(source.path)
    graph = model.graph
    keep = {
        name
        for node in graph.node
        for index, name in enumerate(node.input)
        if index in FLOAT32_INPUTS.get(node.op_type, ())
    }
    readers = GraphIndex(graph).readers
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in keep:
            tensor.CopyFrom(_half(tensor, readers.get(tensor.name, [])))
    for node in graph.node:
        if not keep.intersection(node.output):
            _halve_attributes(node, [r for name in node.output for r in readers.get(name, [])])
    _cast_borders(graph)
    del graph.value_info[:]
    own = {"parent_sha256": source.sha256, "precision": Precision.FP16.value}
    set_metadata(model, metadata(model) | own)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{source.path} has no fp16 form here ({reason}); expected a file that "
            "`segdeploy export` or `segdeploy simplify` wrote"
        ) from error
    save_model(model, output)
    return describe(output, model=model)


def _half(tensor: TensorProto, readers: Sequence[onnx.NodeProto]) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    if values.size and (values == values.flat[0]).all():
        values = _kept(tensor.name, values, readers)
        if np.isinf(values.flat[0]) and _guarded(readers):
            return numpy_helper.from_array(values.astype(np.float16), tensor.name)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= FP16_MAX:
        raise RunError(
            f"weight {tensor.name!r} reaches {largest:g}, beyond fp16's {FP16_MAX:g}; "
            "keep this model in fp32 or int8"
        )
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)


def _kept(
    name: str, values: NDArray[np.float32], readers: Sequence[onnx.NodeProto]
) -> NDArray[np.float32]:
    """One value, however often it is repeated, as far into fp16's range as a guard has to be."""
    value = float(values.flat[0])
    size = abs(value)
    vanishes = 0 < size <= FP16_SMALLEST / 2
    guarded = _guarded(readers)
    if not guarded:
        if vanishes:
            used = f", read by {_shown(readers[0])}" if readers else ""
            log.warning("constant %r is %g, which is 0 in fp16%s", name, value, used)
        return values
    if not (vanishes or FP16_MAX < size < np.inf):
        return values
    kept = float(np.copysign(FP16_SMALLEST if vanishes else FP16_MAX, value))
    log.warning(
        "constant %r of %s is %g, which is %s in fp16; it becomes %.3g, fp16's %s",
        name,
        _shown(guarded[0]),
        value,
        "0" if vanishes else "infinite",
        kept,
        "smallest" if vanishes else "largest",
    )
    return np.full_like(values, kept)


def _shown(node: onnx.NodeProto) -> str:
    return one_line(f"{layer_name(node)} ({node.op_type})", limit=80)


def _guarded(readers: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    return [node for node in readers if node.op_type in GUARDED]


def _halve_attributes(node: onnx.NodeProto, readers: Sequence[onnx.NodeProto]) -> None:
    """A Cast to float32 casts to fp16, and a tensor in an attribute is stored in it, in place."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
            stored = attribute.t
            stored.name = stored.name or node.output[0]
            stored.CopyFrom(_half(stored, readers))


def _cast_borders(graph: onnx.GraphProto) -> None:
    """Insert a Cast behind every float32 input and in front of every float32 output, in place."""
    inputs = [v.name for v in graph.input if v.type.tensor_type.elem_type == TensorProto.FLOAT]
    outputs = [v.name for v in graph.output if v.type.tensor_type.elem_type == TensorProto.FLOAT]
    inside = {name: f"{name}/fp16" for name in [*inputs, *outputs]}
    for node in graph.node:
        node.input[:] = [inside.get(name, name) for name in node.input]
        node.output[:] = [inside.get(name, name) for name in node.output]
    first = [
        helper.make_node("Cast", [n], [inside[n]], name=f"{n}/to_fp16", to=TensorProto.FLOAT16)
        for n in inputs
    ]
    last = [
        helper.make_node("Cast", [inside[n]], [n], name=f"{n}/to_fp32", to=TensorProto.FLOAT)
        for n in outputs
    ]
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend([*first, *body, *last])
