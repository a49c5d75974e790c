"""A float graph as a list of calls, a convolution together with its ReLU."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from segdeploy.deploy.onnx_model.graph import layer_name
from segdeploy.deploy.sensitivity.pairs import sole_relu
from segdeploy.deploy.sensitivity.parts import GraphView
from segdeploy.deploy.system.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is run in one call.

    Attributes:
        node: in the float graph; the convolution where a ReLU comes with it.
        inputs: activations it reads, each once.
        places: where they stand among the node's inputs.
        output: tensor it makes.
    """

    node: onnx.NodeProto
    inputs: tuple[str, ...]
    places: tuple[int, ...]
    output: str

    def key(self) -> bytes:
        """Equal for steps that one session can run."""
        same = onnx.NodeProto()
        same.CopyFrom(self.node)
        same.name = same.doc_string = ""
        for place in self.places:
            same.input[place] = ""
        fused = self.output != self.node.output[0]
        del same.output[:]
        key: bytes = same.SerializeToString(deterministic=True)
        return key + bytes([fused])


def steps_of(view: GraphView) -> tuple[Step, ...]:
    """The nodes in order; a convolution and the ReLU that alone reads it are one step.

    Raises:
        InputError: a node with several outputs that are read.
    """
    found: list[Step] = []
    done: set[str] = set()
    for node in view.nodes:
        if node.output[0] in done:
            continue
        if sum(1 for name in node.output if name in view.readers) > 1:
            raise InputError(
                f"{layer_name(node)} ({node.op_type}) has several outputs, which is not supported"
            )
        relu = sole_relu(view, node) if node.op_type == "Conv" else None
        done.update((relu or node).output)
        places: dict[str, int] = {}
        for place, name in enumerate(node.input):
            if name in view.changing:
                places.setdefault(name, place)
        found.append(
            Step(
                node=node,
                inputs=tuple(places),
                places=tuple(places.values()),
                output=(relu or node).output[0],
            )
        )
    return tuple(found)


def behind_the_last_convolution(view: GraphView) -> frozenset[str]:
    """Tensors that lead to no further convolution."""
    leading: set[str] = set()
    for node in reversed(view.nodes):
        if node.op_type == "Conv" or not leading.isdisjoint(node.output):
            leading.update(node.input)
    return view.changing - leading
