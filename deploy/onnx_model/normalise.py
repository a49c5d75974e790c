"""One form for graphs of all exporters: constants are initialisers, inputs are data, nodes named.

What a tensor is, constant or activation, is told by ``graph.initializer`` alone afterwards. Other
exporters keep weights in Constant nodes or behind an Identity, list them among the inputs, and
write nodes without names or with equal ones.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from segdeploy.deploy.onnx_model.shapes import float_tensors

INITIALISERS_ALONE = 4
"""The first IR version in which an initialiser need not be listed as an input."""


def normalise(model: onnx.ModelProto) -> None:
    """Bring a graph without subgraphs into the one form, in place; one in it stays as it is.

    Tensors keep their names and the network what it computes. A constant that the graph returns
    stays the node it was.

    Example:
        >>> from onnx import TensorProto, helper
        >>> one = helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])
        >>> nodes = [
        ...     helper.make_node("Constant", [], ["one"], value=one),
        ...     helper.make_node("Add", ["x", "one"], ["y"]),
        ... ]
        >>> ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy"]
        >>> model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]))
        >>> normalise(model)
        >>> [node.name for node in model.graph.node], [t.name for t in model.graph.initializer]
        (['y'], ['one'])

    Args:
        model: changed.
    """
    _store_constants(model.graph)
    _leave_inputs(model)
    _name_nodes(model.graph)


def _store_constants(graph: onnx.GraphProto) -> None:
    """Constant nodes become initialisers; what reads an Identity of one reads the constant."""
    outputs = {value.name for value in graph.output}
    stored = {tensor.name for tensor in graph.initializer}
    same_as: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        node.input[:] = [same_as.get(name, name) for name in node.input]
        result = node.output[0] if len(node.output) == 1 else ""
        if not result or result in outputs or node.domain not in ("", "ai.onnx"):
            kept.append(node)
            continue
        tensor = constant_of(node)
        if tensor is not None:
            graph.initializer.append(tensor)
            stored.add(result)
        elif node.op_type == "Identity" and node.input[0] in stored:
            same_as[result] = node.input[0]
        else:
            kept.append(node)
    if len(kept) < len(graph.node):
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(kept)


def constant_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a Constant node holds, under the name of its output.

    ``None`` for any other node, and for a constant of text.
    """
    if node.op_type != "Constant" or len(node.attribute) != 1:
        return None
    attribute, name = node.attribute[0], node.output[0]
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(attribute.t)
        tensor.name = name
        return tensor
    numbers: Mapping[str, NDArray[np.generic]] = {
        "value_float": np.array(attribute.f, np.float32),
        "value_floats": np.array(attribute.floats, np.float32),
        "value_int": np.array(attribute.i, np.int64),
        "value_ints": np.array(attribute.ints, np.int64),
    }
    if attribute.name not in numbers:
        return None
    return numpy_helper.from_array(numbers[attribute.name], name)


def _leave_inputs(model: onnx.ModelProto) -> None:
    """An initialiser is no input that anyone feeds."""
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    if stored:
        model.ir_version = max(model.ir_version, INITIALISERS_ALONE)
    fed = [value for value in graph.input if value.name not in stored]
    if len(fed) < len(graph.input):
        fed = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in fed]
        del graph.input[:]
        graph.input.extend(fed)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Every node gets a name of its own: a nameless one its first output's."""
    given = {node.name for node in graph.node}
    seen: set[str] = {""}
    for node in graph.node:
        if node.name in seen:
            made = [name for name in node.output if name]
            node.name = unused(node.name or (made[0] if made else node.op_type), given)
            given.add(node.name)
        seen.add(node.name)


def drop_idle(model: onnx.ModelProto) -> None:
    """What reads a node that does nothing reads its input instead, in place; the node goes.

    An Identity, a Dropout that is not active, and a Cast of float32 to float32. One whose output
    the graph returns stays.

    Args:
        model: in the one form, for inference.
    """
    graph, floats = model.graph, float_tensors(model)
    outputs = {value.name for value in graph.output}
    same_as: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        node.input[:] = [same_as.get(name, name) for name in node.input]
        if node.output[0] in outputs or any(node.output[1:]) or not _idle(node, floats):
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
        else:
            same_as[node.output[0]] = node.input[0]
    del graph.node[:]
    graph.node.extend(kept)


def _idle(node: onnx.NodeProto, floats: Container[str]) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Cast":
        to = next((a.i for a in node.attribute if a.name == "to"), onnx.TensorProto.UNDEFINED)
        return to == onnx.TensorProto.FLOAT and node.input[0] in floats
    return node.op_type in ("Dropout", "Identity")


def unused(name: str, taken: Container[str]) -> str:
    """A name that is not taken: the name itself, or its second, third and so on use.

    Example:
        >>> unused("conv", {"conv", "conv@2"})
        'conv@3'
    """
    found, use = name, 1
    while found in taken:
        use += 1
        found = f"{name}@{use}"
    return found
