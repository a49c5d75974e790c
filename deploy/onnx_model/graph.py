"""What every rewrite needs of a graph: its constants, who makes a tensor, who reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """A model after a rewrite, and how many places of it changed; 0 leaves it as it was."""

    model: onnx.ModelProto
    sites: int


class GraphIndex:
    """Look-ups over a graph that stays as it is.

    Attributes:
        constants: initialiser name to tensor.
        producer: tensor name to the node that makes it.
        readers: tensor name to the nodes that read it, in graph order.
        outputs: names of the graph's outputs.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants: Mapping[str, onnx.TensorProto] = {t.name: t for t in graph.initializer}
        self.producer: Mapping[str, onnx.NodeProto] = {
            name: node for node in graph.node for name in node.output
        }
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = frozenset(value.name for value in graph.output)

    def value(self, name: str) -> NDArray[np.float32]:
        """A constant as an array."""
        return numpy_helper.to_array(self.constants[name])

    def made_by(self, name: str, operator: str) -> onnx.NodeProto | None:
        """The node behind a tensor, if it is of that type."""
        node = self.producer.get(name)
        return node if node is not None and node.op_type == operator else None

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor; ``None`` where several do or the graph returns it."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    """A node's attributes by name; text as ``str``."""
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


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
