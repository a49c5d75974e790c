"""A float graph as a list of calls, a layer together with its ReLU."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from segdeploy.deploy.onnx_model.shapes import float_tensors
from segdeploy.deploy.quantize.activations import weight_of
from segdeploy.deploy.sensitivity.pairs import sole_relu
from segdeploy.deploy.sensitivity.parts import GraphView

SIZES = frozenset({"Shape", "Size"})
"""Operators that read of a tensor how large it is."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is run in one call.

    Attributes:
        node: in the float graph; the layer where a ReLU comes with it.
        inputs: activations it reads, each once; also through nodes that compute no activation, as
            those that compute a size, which belong to the step.
        places: where they stand among the node's inputs; ``None`` where a node is between.
        output: tensor it makes.
    """

    node: onnx.NodeProto
    inputs: tuple[str, ...]
    places: tuple[int | None, ...]
    output: str

    def key(self) -> bytes:
        """Equal for steps that one session can run; its own where other nodes belong to it."""
        same = onnx.NodeProto()
        same.CopyFrom(self.node)
        same.name = same.doc_string = ""
        direct = [place for place in self.places if place is not None]
        if len(direct) < len(self.places) or len(self.node.output) > 1:
            return self.output.encode()
        for place in direct:
            same.input[place] = ""
        fused = self.output != self.node.output[0]
        del same.output[:]
        key: bytes = same.SerializeToString(deterministic=True)
        return key + bytes([fused])


def steps_of(view: GraphView) -> tuple[Step, ...]:
    """What makes each activation, in order: float values that depend on those of the image.

    A layer and the ReLU that alone reads it are one step.
    """
    activations = _activations(view)
    found: list[Step] = []
    done: set[str] = set()
    for node in view.nodes:
        relu = sole_relu(view, node) if weight_of(node, view) is not None else None
        for output in node.output:
            if output in done or output not in activations:
                continue
            if output not in view.readers and output not in view.outputs:
                continue
            made = output if relu is None else relu.output[0]
            done.update((output, made))
            places: dict[str, int | None] = {}
            for place, name in enumerate(node.input):
                if name in activations:
                    places.setdefault(name, place)
            for name in node.input:
                for source in _sources(view, name, activations):
                    places.setdefault(source, None)
            found.append(
                Step(node=node, inputs=tuple(places), places=tuple(places.values()), output=made)
            )
    return tuple(found)


def _activations(view: GraphView) -> frozenset[str]:
    """Float tensors whose values depend on those of the image, not on its size alone."""
    found = {view.input}
    for node in view.nodes:
        if node.op_type not in SIZES and not found.isdisjoint(node.input):
            found.update(filter(None, node.output))
    return frozenset(found & float_tensors(view.model))


def _sources(view: GraphView, name: str, activations: frozenset[str]) -> list[str]:
    """The activations from which a tensor is computed."""
    found: list[str] = []
    waiting, seen = [name], set[str]()
    while waiting:
        each = waiting.pop()
        if each in seen or each not in view.changing:
            continue
        seen.add(each)
        if each in activations:
            found.append(each)
        else:
            waiting += reversed(view.producer[each].input)
    return found


def behind_the_last_convolution(view: GraphView) -> frozenset[str]:
    """Tensors that lead to no further layer."""
    leading: set[str] = set()
    for node in reversed(view.nodes):
        if weight_of(node, view) is not None or not leading.isdisjoint(node.output):
            leading.update(node.input)
    return view.changing - leading
