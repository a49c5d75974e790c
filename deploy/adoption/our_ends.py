"""Put our ends on a foreign graph: a normalised image in, probabilities out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from segdeploy.deploy.adoption.input_end import PIXELS, InputEnd
from segdeploy.deploy.adoption.output_end import FOREGROUND, Layout, OutputEnd
from segdeploy.deploy.data.output_contract import Activation
from segdeploy.deploy.onnx_model.graph import GraphIndex, rebuilt
from segdeploy.deploy.onnx_model.interface import INPUT_NAME, OUTPUT_NAME
from segdeploy.deploy.onnx_model.normalise import unused

BATCH_AXIS = "batch"
TO_CHANNELS_LAST = (0, 2, 3, 1)
TO_CHANNELS_FIRST = (0, 3, 1, 2)


def with_our_ends(
    model: onnx.ModelProto,
    taken: InputEnd,
    given: OutputEnd,
    *,
    channels: int,
    size: tuple[int, int],
    dynamic_batch: bool,
) -> onnx.ModelProto:
    """A model of float32 (N, C, h, w) to the probabilities of K classes, float32 (N, K, h, w).

    What only other outputs need is left out. Names of layers stay, apart from commas, which
    separate names in our metadata.

    Args:
        model: in the one form of ``normalise``; not changed.
        taken: its input.
        given: its output.
        channels: of the new model's input.
        size: its height and width.
        dynamic_batch: whether N is any number; 1 otherwise.
    """
    source = onnx.ModelProto()
    source.CopyFrom(model)
    graph = source.graph
    renamed = _free_names(graph, taken.name)
    taken = replace(taken, name=renamed.get(taken.name, taken.name))
    given = replace(given, name=renamed.get(given.name, given.name))
    names = _Names(graph)
    first = _front(graph, taken, names)
    last = _end(graph, given, names)
    body = [*graph.node]
    batch: int | str = BATCH_AXIS if dynamic_batch else 1
    ends = {
        INPUT_NAME: (batch, channels, *size),
        OUTPUT_NAME: (batch, given.contract.channels, *size),
    }
    del graph.input[:], graph.output[:], graph.value_info[:]
    for values, (name, shape) in zip((graph.input, graph.output), ends.items(), strict=True):
        values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return rebuilt(source, [*first, *body, *last])


class _Names:
    """New names for nodes, tensors and constants."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.taken = {node.name for node in graph.node} | _tensors(graph)

    def new(self, name: str) -> str:
        found = unused(name, self.taken)
        self.taken.add(found)
        return found

    def constant(self, name: str, *values: int) -> str:
        found = self.new(name)
        stored = numpy_helper.from_array(np.array(values, np.int64), found)
        self.graph.initializer.append(stored)
        return found


def _tensors(graph: onnx.GraphProto) -> set[str]:
    found = {value.name for value in graph.input} | {each.name for each in graph.initializer}
    return found | {name for node in graph.node for name in node.output if name}


def _free_names(graph: onnx.GraphProto, taken: str) -> dict[str, str]:
    """Rename tensors that have our ends' names and are none, and nodes with commas, in place.

    Returns:
        The new name of each tensor that lost its own.
    """
    tensors = _tensors(graph)
    renamed = {
        name: unused(f"{name}@2", tensors)
        for name, end in ((INPUT_NAME, taken), (OUTPUT_NAME, None))  # ours may be behind theirs
        if name in tensors and name != end
    }
    for holder in (*graph.input, *graph.initializer, *graph.output):
        holder.name = renamed.get(holder.name, holder.name)
    names = {node.name for node in graph.node}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        if "," in node.name:
            node.name = unused(node.name.replace(",", "_"), names)
            names.add(node.name)
    return renamed


def _front(graph: onnx.GraphProto, taken: InputEnd, names: _Names) -> list[onnx.NodeProto]:
    """Nodes from our image to what the graph reads; the graph reads theirs, in place."""
    nodes: list[onnx.NodeProto] = []
    made = INPUT_NAME
    if taken.channels_last:
        nodes.append(_node("Transpose", made, names, perm=TO_CHANNELS_LAST))
        made = nodes[-1].output[0]
    readers = [node for node in graph.node if taken.name in node.input]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(taken.dtype))
    # Pixels are whole numbers, of which float32 holds each: no need to go through bytes.
    kept = taken.dtype == PIXELS and all(_casts_to_float(node) for node in readers)
    if element != TensorProto.FLOAT and not kept:
        nodes.append(_node("Cast", made, names, to=element))
        made = nodes[-1].output[0]
    same = {taken.name} | {name for node in readers if kept for name in node.output}
    for node in graph.node:
        node.input[:] = [made if name in same else name for name in node.input]
    return nodes


def _casts_to_float(node: onnx.NodeProto) -> bool:
    return node.op_type == "Cast" and any(
        a.name == "to" and a.i == TensorProto.FLOAT for a in node.attribute
    )


def _end(graph: onnx.GraphProto, given: OutputEnd, names: _Names) -> list[onnx.NodeProto]:
    """Nodes from what the graph gives to our probabilities; the last one makes it, in place."""
    nodes: list[onnx.NodeProto] = []
    made = given.name

    def add(operator: str, *constants: str, **attributes: Any) -> None:
        nonlocal made
        nodes.append(_node(operator, made, names, *constants, **attributes))
        made = nodes[-1].output[0]

    if given.dtype != "float32":
        add("Cast", to=TensorProto.FLOAT)
    if given.layout is Layout.CHANNELS_LAST:
        add("Transpose", perm=TO_CHANNELS_FIRST)
    elif given.layout is Layout.NO_CHANNELS:
        add("Unsqueeze", names.constant(f"{OUTPUT_NAME}/axes", 1))
    if given.kind.appended is Activation.SIGMOID:
        add("Sigmoid")
    elif given.kind.appended is Activation.SOFTMAX:
        add("Softmax", axis=1)
    if given.foreground:
        where = {"from": FOREGROUND, "to": FOREGROUND + 1, "axis": 1}
        add("Slice", *(names.constant(f"{OUTPUT_NAME}/{k}", v) for k, v in where.items()))
    if nodes:
        nodes[-1].output[0] = OUTPUT_NAME
    elif given.name != OUTPUT_NAME:
        _give_name(graph, given.name)
    return nodes


def _give_name(graph: onnx.GraphProto, name: str) -> None:
    """Call a tensor our output; one that is an input or a constant passes an Identity."""
    if name not in GraphIndex(graph).producer:
        graph.node.append(helper.make_node("Identity", [name], [OUTPUT_NAME], name=OUTPUT_NAME))
        return
    for node in graph.node:
        node.input[:] = [OUTPUT_NAME if each == name else each for each in node.input]
        node.output[:] = [OUTPUT_NAME if each == name else each for each in node.output]


def _node(
    operator: str, source: str, names: _Names, *constants: str, **attributes: Any
) -> onnx.NodeProto:
    made = names.new(f"{source}/{operator}")
    return helper.make_node(operator, [source, *constants], [made], name=made, **attributes)
