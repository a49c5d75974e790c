"""One index over a graph: its constants, who makes a tensor, who reads it; and graphs made anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from segdeploy.deploy.onnx_model.normalise import constant_of


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """A model after a rewrite, and how many places of it changed; 0 leaves it as it was."""

    model: onnx.ModelProto
    sites: int


class GraphIndex:
    """Look-ups over a graph that stays as it is.

    Attributes:
        graph: the graph.
        constants: initialiser name to tensor.
        producer: tensor name to the node that makes it.
        readers: tensor name to the nodes that read it, in graph order; twice where it reads twice.
        inputs: names of the graph's inputs without a stored value, in order.
        outputs: names of the graph's outputs.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants: Mapping[str, onnx.TensorProto] = {t.name: t for t in graph.initializer}
        self.producer: Mapping[str, onnx.NodeProto] = {
            name: node for node in graph.node for name in node.output
        }
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.inputs = tuple(v.name for v in graph.input if v.name not in self.constants)
        self.outputs = frozenset(value.name for value in graph.output)

    @cached_property
    def tensors(self) -> tuple[str, ...]:
        """Every activation: the graph's inputs, then what its nodes make, in graph order."""
        return (*self.inputs, *self.producer)

    @cached_property
    def stored(self) -> Mapping[str, onnx.TensorProto]:
        """``constants``, and what the nodes of type Constant hold."""
        held = filter(None, map(constant_of, self.graph.node))
        return {**self.constants, **{tensor.name: tensor for tensor in held}}

    @cached_property
    def changing(self) -> frozenset[str]:
        """Tensors that depend on an input; the graph's nodes are in topological order."""
        found = set(self.inputs)
        for node in self.graph.node:
            if not found.isdisjoint(node.input):
                found.update(filter(None, node.output))
        return frozenset(found)

    @cached_property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        """The nodes that depend on an input, in graph order."""
        return tuple(n for n in self.graph.node if not self.changing.isdisjoint(n.input))

    def value(self, name: str) -> NDArray[Any]:
        """An initialiser as an array.

        Raises:
            KeyError: it is none.
        """
        return numpy_helper.to_array(self.constants[name])

    def constant(self, name: str) -> NDArray[Any] | None:
        """An initialiser as an array; ``None`` for any other tensor."""
        return self.value(name) if name in self.constants else None

    def made_by(self, name: str, operator: str) -> onnx.NodeProto | None:
        """The node behind a tensor, if it is of that type."""
        node = self.producer.get(name)
        return node if node is not None and node.op_type == operator else None

    def readers_of(self, node: onnx.NodeProto) -> Sequence[onnx.NodeProto]:
        """The nodes that read a node's first output."""
        return self.readers.get(node.output[0], ())

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor; ``None`` where several do or the graph returns it."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def between(self, inputs: Iterable[str], outputs: Iterable[str]) -> list[onnx.NodeProto]:
        """The nodes that compute ``outputs`` from ``inputs`` and constants, in graph order."""
        given, wanted, seen = set(inputs), list(outputs), set[str]()
        while wanted:
            name = wanted.pop()
            node = self.producer.get(name)
            if name in given or node is None or node.output[0] in seen:
                continue
            seen.add(node.output[0])
            wanted += [source for source in node.input if source]
        return [node for node in self.graph.node if node.output[0] in seen]


def layer_name(node: onnx.NodeProto) -> str:
    """The node's name; its first output's where it has none."""
    return str(node.name or node.output[0])


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name; text as ``str``, whatever its bytes."""
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {
        k: v.decode("utf-8", "replace") if isinstance(v, bytes) else v for k, v in values.items()
    }


def rebuilt(
    model: onnx.ModelProto,
    nodes: Iterable[onnx.NodeProto],
    new_constants: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    """A copy of a model with other nodes; nodes and constants that nothing needs are left out.

    Args:
        model: gives everything but the nodes; not changed.
        nodes: in topological order.
        new_constants: initialisers beside the model's own.
    """
    kept: list[onnx.NodeProto] = []
    needed = {value.name for value in model.graph.output}
    for node in reversed(list(nodes)):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(node.input)
    graph = onnx.GraphProto(
        name=model.graph.name,
        node=kept[::-1],
        input=model.graph.input,
        output=model.graph.output,
        initializer=[
            tensor for tensor in [*model.graph.initializer, *new_constants] if tensor.name in needed
        ],
    )
    result = onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        metadata_props=model.metadata_props,
        graph=graph,
    )
    onnx.checker.check_model(result)
    return result


def constant(name: str, value: NDArray[np.generic]) -> onnx.TensorProto:
    """An initialiser; float64 arithmetic ends here, in float32."""
    if value.dtype == np.float64:
        value = value.astype(np.float32)
    return numpy_helper.from_array(np.ascontiguousarray(value), name)
