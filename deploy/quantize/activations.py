"""Which activations an int8 model quantizes, which need observing, and what stays in float with
a layer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx

from segdeploy.deploy.onnx_model.graph import GraphIndex
from segdeploy.deploy.system.errors import InputError, one_line

SELECTS_VALUES = frozenset({"DepthToSpace", "MaxPool", "Resize"})
"""Operators whose outputs never leave their first input's range: they keep its scale."""


MOST_REPETITIONS = 1024
"""Values that a Resize makes of one, and tensors that a Concat joins, at most."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What calibration must see to know the range of every quantized tensor.

    Attributes:
        observed: tensors whose values are counted, in graph order.
        summed: for a Concat's output, the observed tensors it consists of, each as often as a
            Resize in between repeats its values; its histogram is the sum of theirs.
        follows: for an output of DepthToSpace, MaxPool or Resize, the tensor whose range it keeps.
    """

    observed: tuple[str, ...]
    summed: Mapping[str, tuple[str, ...]]
    follows: Mapping[str, str]


def quantized_activations(
    graph: onnx.GraphProto, *, operators: Collection[str], exclude: Collection[str] = ()
) -> tuple[str, ...]:
    """Activations that get a scale: every activation input of a quantized node, in graph order.

    What precedes a fused ReLU feeds no quantized operator, so it never gets one.

    Args:
        graph: a float graph.
        operators: operator types to quantize.
        exclude: names of nodes to keep in float.
    """
    index = GraphIndex(graph)
    wanted = {
        name
        for node in graph.node
        if node.op_type in operators and node.name not in exclude
        for name in activation_inputs(node)
        if name not in index.constants
    }
    return tuple(name for name in index.tensors if name in wanted)


def activation_inputs(node: onnx.NodeProto) -> list[str]:
    """A node's data inputs, without weights, biases, scales and sizes."""
    if node.op_type in ("Add", "Concat"):
        return list(node.input)
    return list(node.input[:1])


def followed_ranges(graph: onnx.GraphProto) -> dict[str, str]:
    """For every output of ``SELECTS_VALUES``, the tensor whose range it keeps, resolved."""
    follows: dict[str, str] = {}
    for node in graph.node:
        if node.op_type in SELECTS_VALUES:
            source = node.input[0]
            follows[node.output[0]] = follows.get(source, source)
    return follows


def unfused_outputs(graph: onnx.GraphProto) -> tuple[str, ...]:
    """Outputs of convolutions that something else than a ReLU reads, as the logits.

    Our int8 models leave the last one in float; other tools ask for its range.
    """
    index = GraphIndex(graph)
    return tuple(
        node.output[0]
        for node in graph.node
        if node.op_type == "Conv" and any(r.op_type != "Relu" for r in index.readers_of(node))
    )


def repetitions(graph: onnx.GraphProto) -> dict[str, int]:
    """How often the output of a Resize holds each value of its input: 4 for 2x on both sides.

    Exact for nearest upsampling by whole factors. Bilinear values lie between those of the input,
    so there it is how much they weigh.
    """
    index = GraphIndex(graph)
    repeated: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in SELECTS_VALUES:
            factor = 1
            scales = index.constant(node.input[2]) if len(node.input) > 2 else None
            if node.op_type == "Resize" and scales is not None:
                scale = float(scales.prod())
                if not 0 < scale <= MOST_REPETITIONS:
                    raise _too_large(node, scale)
                factor = max(1, round(scale))
            repeated[node.output[0]] = factor * repeated.get(node.input[0], 1)
            if repeated[node.output[0]] > MOST_REPETITIONS:
                raise _too_large(node, repeated[node.output[0]])
    return repeated


def _too_large(node: onnx.NodeProto, factor: float) -> InputError:
    return InputError(
        f"node {one_line(node.name, limit=80)!r} resizes to {factor:g} times as many values; "
        f"expected at most {MOST_REPETITIONS}: export the model again"
    )


def plan_observation(graph: onnx.GraphProto, *, operators: Collection[str]) -> Observation:
    """Decide what to observe; everything else follows from it.

    Args:
        graph: a float graph, nodes in topological order.
        operators: operator types that will be quantized.

    Raises:
        InputError: values that repeat without end.
    """
    wanted = quantized_activations(graph, operators=operators)
    follows, repeated = followed_ranges(graph), repetitions(graph)
    index = GraphIndex(graph)
    parts: dict[str, tuple[str, ...]] = {}

    def resolve(name: str) -> tuple[str, ...]:
        source, times = follows.get(name, name), repeated.get(name, 1)
        return (parts[source] if index.made_by(source, "Concat") else (source,)) * times

    for node in graph.node:
        if node.op_type == "Concat":
            found: list[str] = []
            for each in node.input:
                found += resolve(each)
                if len(found) > MOST_REPETITIONS:
                    raise InputError(
                        f"node {one_line(node.name, limit=80)!r} joins values of more than "
                        f"{MOST_REPETITIONS} tensors; expected a few: export the model again"
                    )
            parts[node.output[0]] = tuple(found)
    needed = {part for name in wanted for part in resolve(name)}
    needed |= set(unfused_outputs(graph))
    return Observation(
        observed=tuple(name for name in index.tensors if name in needed),
        summed={name: parts[name] for name in wanted if name in parts},
        follows={name: follows[name] for name in wanted if name in follows},
    )


def float_region(
    graph: onnx.GraphProto, layers: Collection[str], *, operators: Collection[str]
) -> tuple[str, ...]:
    """Convolutions to keep in float, and what lies in front of them alone.

    An Add or Concat whose result only such convolutions read would round for nothing, so it stays
    in float with them.

    Args:
        graph: a float graph, nodes in topological order.
        layers: names of convolutions.
        operators: operator types that are quantized.

    Returns:
        Names of nodes for ``--exclude``, in graph order.
    """
    if not layers:
        return ()
    reading: dict[str, set[str]] = {value.name: {""} for value in graph.output}
    chosen: list[str] = []
    for node in reversed(graph.node):
        readers = {reader for name in node.output for reader in reading.get(name, ())}
        if node.op_type == "Conv":
            inside = node.name in layers
            readers = {node.name}
        else:
            inside = node.op_type in operators and bool(readers) and readers <= set(layers)
        if inside:
            chosen.append(node.name)
        for name in node.input:
            reading.setdefault(name, set()).update(readers)
    return tuple(reversed(chosen))
