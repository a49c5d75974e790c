"""Which activations an int8 model quantizes, which need observing, and what stays in float with
a layer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from segdeploy.deploy.onnx_model.graph import GraphIndex, attributes
from segdeploy.deploy.onnx_model.shapes import float_tensors
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


def quantized_nodes(
    model: onnx.ModelProto, *, operators: Collection[str], exclude: Collection[str] = ()
) -> tuple[onnx.NodeProto, ...]:
    """Nodes that run on integers: of an operator that does, on float32 tensors alone.

    A convolution whose weight or bias is computed stays in float, and so does what joins or adds
    a constant that is not finite, as the minus infinity of a mask.

    Args:
        model: a float model in the one form of ``deploy.onnx_model.normalise``.
        operators: operator types to quantize.
        exclude: names of nodes to keep in float.
    """
    index, floats = GraphIndex(model.graph), float_tensors(model)
    return tuple(
        node
        for node in model.graph.node
        if node.op_type in operators
        and node.domain in ("", "ai.onnx")
        and node.name not in exclude
        and _fits_integers(node, index, floats)
    )


def _fits_integers(node: onnx.NodeProto, index: GraphIndex, floats: Collection[str]) -> bool:
    data = activation_inputs(node)
    if not all(name in floats for name in data) or all(name in index.constants for name in data):
        return False
    if node.op_type == "Conv":
        return all(name in index.constants for name in node.input[1:] if name)
    held = [index.value(name) for name in data if name in index.constants]
    return all(values.size and bool(np.isfinite(values).all()) for values in held)


def float_convolutions(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of convolutions that cannot be quantized: their weight or bias is computed."""
    quantized = {node.name for node in quantized_nodes(model, operators={"Conv"})}
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    return tuple(name for name in convolutions if name not in quantized)


def quantized_activations(
    model: onnx.ModelProto, *, operators: Collection[str], exclude: Collection[str] = ()
) -> tuple[str, ...]:
    """Activations that get a scale: every activation input of a quantized node, in graph order.

    What precedes a fused ReLU feeds no quantized operator, so it never gets one.

    Args:
        model: a float model.
        operators: operator types to quantize.
        exclude: names of nodes to keep in float.
    """
    index = GraphIndex(model.graph)
    wanted = {
        name
        for node in quantized_nodes(model, operators=operators, exclude=exclude)
        for name in activation_inputs(node)
        if name not in index.constants
    }
    return tuple(name for name in index.tensors if name in wanted)


def joined_constants(
    model: onnx.ModelProto, *, operators: Collection[str], exclude: Collection[str] = ()
) -> tuple[str, ...]:
    """Constants that a quantized Add or Concat reads beside activations, in order of use."""
    constants = GraphIndex(model.graph).constants
    nodes = quantized_nodes(model, operators=operators, exclude=exclude)
    used = [name for node in nodes for name in activation_inputs(node) if name in constants]
    return tuple(dict.fromkeys(used))


def activation_inputs(node: onnx.NodeProto) -> list[str]:
    """A node's data inputs, without weights, biases, scales and sizes."""
    if node.op_type in ("Add", "Concat"):
        return list(node.input)
    return list(node.input[:1])


def keeps_range(node: onnx.NodeProto) -> bool:
    """Whether a node's first output never leaves its first input's range.

    A cubic Resize overshoots, and one that crops may fill with a value of its own.
    """
    if node.op_type == "Resize":
        said = attributes(node)
        cropped = said.get("coordinate_transformation_mode") == "tf_crop_and_resize"
        return said.get("mode", "nearest") in ("linear", "nearest") and not cropped
    return node.op_type in SELECTS_VALUES


def followed_ranges(graph: onnx.GraphProto) -> dict[str, str]:
    """For every output of ``SELECTS_VALUES``, the tensor whose range it keeps, resolved."""
    follows: dict[str, str] = {}
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if keeps_range(node) and node.input[0] not in constants:
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


def repetitions(graph: onnx.GraphProto) -> dict[str, int | None]:
    """How often the output of a Resize holds each value of its input: 4 for 2x on both sides.

    Exact for nearest upsampling by whole factors. Bilinear values lie between those of the input,
    so there it is how much they weigh. ``None`` where no constant tells, but a size does.
    """
    index = GraphIndex(graph)
    repeated: dict[str, int | None] = {}
    for node in graph.node:
        if not keeps_range(node):
            continue
        factor: int | None = 1
        if node.op_type == "Resize":
            scales = index.constant(node.input[2]) if len(node.input) > 2 else None
            if any(node.input[2:]):
                factor = None
            if scales is not None and scales.size:
                scale = float(scales.prod())
                if not 0 < scale <= MOST_REPETITIONS:
                    raise _too_large(node, scale)
                factor = max(1, round(scale))
        before = repeated.get(node.input[0], 1)
        times = None if factor is None or before is None else factor * before
        repeated[node.output[0]] = times
        if times is not None and times > MOST_REPETITIONS:
            raise _too_large(node, times)
    return repeated


def _too_large(node: onnx.NodeProto, factor: float) -> InputError:
    return InputError(
        f"node {one_line(node.name, limit=80)!r} resizes to {factor:g} times as many values; "
        f"expected at most {MOST_REPETITIONS}: export the model again"
    )


def plan_observation(model: onnx.ModelProto, *, operators: Collection[str]) -> Observation:
    """Decide what to observe; everything else follows from it.

    A Concat of a constant, or of a tensor that is resized to a size, is observed itself: how often
    it holds each value does not follow from the graph.

    Args:
        model: a float model, nodes in topological order.
        operators: operator types that will be quantized.

    Raises:
        InputError: values that repeat without end.
    """
    graph = model.graph
    wanted = quantized_activations(model, operators=operators)
    follows, repeated = followed_ranges(graph), repetitions(graph)
    index, floats = GraphIndex(graph), float_tensors(model)
    parts: dict[str, tuple[str, ...]] = {}

    def resolve(name: str) -> tuple[str, ...]:
        source, times = follows.get(name, name), repeated.get(name, 1) or 1
        return parts.get(source, (source,)) * times

    for node in graph.node:
        if node.op_type != "Concat" or not all(name in floats for name in node.input):
            continue
        if any(n in index.constants or repeated.get(n, 1) is None for n in node.input):
            continue
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
    needed |= floats.intersection(unfused_outputs(graph))
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
