"""What the activations of one image take, told from the graph alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod

import onnx

from segdeploy.deploy.onnx_model.shapes import fixed_input, infer_shapes

VALUE_BYTES = 4
"""Of a value while it is computed with: float32, as which narrower types are counted, too."""


@dataclass(frozen=True, kw_only=True)
class ActivationMemory:
    """Bytes of one image's activations.

    Attributes:
        largest: at the node where most are needed at a time, each kept until its last reader ran.
        all: of every activation, as where each is returned.
    """

    largest: int
    all: int


def activation_memory(
    model: onnx.ModelProto, *, size: tuple[int, int] | None = None
) -> ActivationMemory:
    """What one image takes of a model; weights and a runtime's own buffers are not in it.

    Example:
        A ReLU on one channel of 4x4, read once: input and output, 64 bytes each.

        >>> from onnx import TensorProto, helper
        >>> ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, 4, 4]) for n in "xy"]
        >>> graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1],
        ...                           ends[1:])
        >>> activation_memory(helper.make_model(graph))
        ActivationMemory(largest=128, all=128)

    Args:
        model: not modified.
        size: height and width, where the model leaves them open.

    Raises:
        InputError: a size it leaves open and that is not given, or a model that contradicts itself.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    images = [v for v in graph.input if v.name not in weights]
    shapes = infer_shapes(model, [fixed_input(value, size) for value in images])
    made = [value.name for value in images]
    made += [name for node in graph.node for name in node.output if name]
    taken = {name: VALUE_BYTES * prod(shapes.get(name, ())) for name in made}
    waiting = Counter(name for node in graph.node for name in set(node.input) if name in taken)
    waiting.update(value.name for value in graph.output)
    held = sum(taken[value.name] for value in images)
    largest = held
    for node in graph.node:
        held += sum(taken[name] for name in node.output if name)
        largest = max(largest, held)
        for name in set(node.input) & set(taken):
            waiting[name] -= 1
            held -= 0 if waiting[name] else taken[name]
        held -= sum(taken[name] for name in node.output if name and not waiting[name])
    return ActivationMemory(largest=largest, all=sum(taken.values()))
