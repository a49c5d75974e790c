"""Which activations an int8 model quantizes, which need observing, and what stays in float with
a layer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from segdeploy.deploy.onnx_model.graph import GraphIndex
from segdeploy.deploy.onnx_model.shapes import float_tensors
from segdeploy.deploy.quantize.operators import (
    Carries,
    LayerWeight,
    activation_inputs,
    carries,
    is_layer,
    layer_weight,
)
from segdeploy.deploy.system.errors import InputError, one_line
from segdeploy.deploy.targets.kernels import Kernels
from segdeploy.deploy.targets.profiles import EVERY_KERNELS

MOST_REPETITIONS = 1024
"""Values that a Resize makes of one, and tensors that a Concat joins, at most."""


HALVED = frozenset({"Add", "Conv", "Relu"})
"""Operators that leave half a bell behind zeros, or about a whole one: what a KL search expects."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What calibration must see to know the range of every quantized tensor.

    Attributes:
        observed: tensors whose values are counted, in graph order.
        summed: for a Concat's output, the observed tensors it consists of, each as often as a
            Resize in between repeats its values; its histogram is the sum of theirs.
        follows: for an output that carries its input's values, the tensor whose range it keeps.
        checked: tensors for which the KL search was not made: of other operators than those of
            ``HALVED``, and what consists of such.
    """

    observed: tuple[str, ...]
    summed: Mapping[str, tuple[str, ...]]
    follows: Mapping[str, str]
    checked: frozenset[str] = frozenset()


def quantized_nodes(
    model: onnx.ModelProto, *, kernels: Kernels, exclude: Collection[str] = ()
) -> tuple[onnx.NodeProto, ...]:
    """Nodes that run on integers: where the target has a kernel for it, on float32 tensors alone.

    A layer whose weight or bias is computed stays in float, and so does what joins a constant that
    is not finite, as the minus infinity of a mask. Behind the last layer all is float: rounding
    there would cost accuracy and save next to nothing.

    Args:
        model: a float model in the one form of ``deploy.onnx_model.normalise``.
        kernels: of the target.
        exclude: names of nodes to keep in float.
    """
    index, floats = GraphIndex(model.graph), float_tensors(model)
    leading = _leading_to_a_layer(model.graph)
    made = set(index.inputs)  # by kernels on integers, or rounded anyway
    chosen: list[onnx.NodeProto] = []
    for node in model.graph.node:
        before = made.intersection(activation_inputs(node))
        if node.name not in exclude and _fits(node, index, floats, kernels, bool(before)):
            if is_layer(node) or not leading.isdisjoint(node.output):
                chosen.append(node)
                made.update(node.output)
        elif before and node.op_type in kernels.fused:
            made.update(node.output)
    return tuple(chosen)


def _leading_to_a_layer(graph: onnx.GraphProto) -> frozenset[str]:
    """Tensors that some layer reads, however far behind."""
    found: set[str] = set()
    for node in reversed(graph.node):
        if is_layer(node) or not found.isdisjoint(node.output):
            found.update(node.input)
    return frozenset(found)


def _fits(
    node: onnx.NodeProto,
    index: GraphIndex,
    floats: Collection[str],
    kernels: Kernels,
    before: bool,
) -> bool:
    """Whether a kernel on integers takes a node; ``before``: one makes something it reads."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type not in kernels.integers and not (
        before and node.op_type in kernels.after_integers
    ):
        return False
    data = activation_inputs(node)
    if not all(name in floats for name in data) or all(name in index.constants for name in data):
        return False
    if is_layer(node):
        weight = weight_of(node, index)
        return weight is not None and (weight.groups == 1 or node.op_type not in kernels.ungrouped)
    held = [index.value(name) for name in data if name in index.constants]
    if held and (node.op_type in kernels.unjoined or (node.op_type != "Concat" and not before)):
        return False
    if kernels.gates and is_own_gate(node, index):
        return False
    return all(values.size and bool(np.isfinite(values).all()) for values in held)


def weight_of(node: onnx.NodeProto, index: GraphIndex) -> LayerWeight | None:
    """A layer's weight, if it and the bias are stored and have the form that kernels take."""
    found = layer_weight(node)
    if found is None or node.input[found.place] not in index.constants:
        return None
    weight = index.constants[node.input[found.place]]
    product = node.op_type in ("Gemm", "MatMul")
    if (product and len(weight.dims) != 2) or (not product and len(weight.dims) < 3):
        return None
    if found.bias is not None:
        bias = index.constants.get(node.input[found.bias])
        outputs = weight.dims[found.axis] * found.groups
        if bias is None or list(bias.dims) != [outputs]:
            return None
    return found


def is_own_gate(node: onnx.NodeProto, index: GraphIndex) -> bool:
    """Whether a node multiplies a tensor by its own Sigmoid, which is SiLU."""
    if node.op_type != "Mul":
        return False
    first, second = node.input
    gates = ((first, index.made_by(second, "Sigmoid")), (second, index.made_by(first, "Sigmoid")))
    return any(gate is not None and gate.input[0] == gated for gated, gate in gates)


def computed_layers(model: onnx.ModelProto) -> tuple[onnx.NodeProto, ...]:
    """Layers that no target quantizes, because their weight or bias is computed.

    A product of two activations is none.
    """
    index = GraphIndex(model.graph)
    return tuple(
        node
        for node in model.graph.node
        if is_layer(node)
        and any(name not in index.constants for name in node.input[1:] if name)
        and node.op_type != "MatMul"
    )


def quantized_activations(
    model: onnx.ModelProto, *, kernels: Kernels, exclude: Collection[str] = ()
) -> tuple[str, ...]:
    """Activations that get a scale, in graph order: what quantized nodes read.

    What precedes a fused ReLU feeds no quantized operator, so it never gets one. Where a target's
    layers run on integers only with a rounded output, what they and their ReLU make gets one too,
    unless nodes alone read it that are to stay in float.

    Args:
        model: a float model.
        kernels: of the target.
        exclude: names of nodes to keep in float.
    """
    index = GraphIndex(model.graph)
    nodes = quantized_nodes(model, kernels=kernels, exclude=exclude)
    wanted = {
        name for node in nodes for name in activation_inputs(node) if name not in index.constants
    }
    if kernels.rounds_outputs:
        leading = _leading_to_a_layer(model.graph)
        read = {n for node in model.graph.node if node.name not in exclude for n in node.input}
        made = {_behind_fused(node, index, kernels) for node in nodes if is_layer(node)}
        wanted |= made & leading & read
    return tuple(name for name in index.tensors if name in wanted)


def every_activation(
    model: onnx.ModelProto, *, kernels: Sequence[Kernels] = EVERY_KERNELS
) -> tuple[str, ...]:
    """Activations that get a scale for any of several targets, in graph order."""
    wanted = {name for each in kernels for name in quantized_activations(model, kernels=each)}
    return tuple(name for name in GraphIndex(model.graph).tensors if name in wanted)


def _behind_fused(node: onnx.NodeProto, index: GraphIndex, kernels: Kernels) -> str:
    """What a layer's kernel makes, operators that run in it included."""
    reader = index.only_reader(node.output[0])
    while reader is not None and reader.op_type in kernels.fused:
        node, reader = reader, index.only_reader(reader.output[0])
    return str(node.output[0])


def joined_constants(
    model: onnx.ModelProto, *, kernels: Kernels, exclude: Collection[str] = ()
) -> tuple[str, ...]:
    """Constants that a quantized Add, Concat or Mul reads beside activations, in order of use."""
    constants = GraphIndex(model.graph).constants
    nodes = quantized_nodes(model, kernels=kernels, exclude=exclude)
    used = [name for node in nodes for name in activation_inputs(node) if name in constants]
    return tuple(dict.fromkeys(used))


def followed_ranges(graph: onnx.GraphProto) -> dict[str, str]:
    """For every output that carries its input's values, the tensor whose range it keeps."""
    follows: dict[str, str] = {}
    index = GraphIndex(graph)
    for node in graph.node:
        if carries(node, index) is Carries.NOTHING or node.input[0] in index.constants:
            continue
        source = follows.get(node.input[0], node.input[0])
        many = node.output if node.op_type == "Split" else node.output[:1]
        follows |= dict.fromkeys(many, source)
    return follows


def unfused_outputs(graph: onnx.GraphProto) -> tuple[str, ...]:
    """Outputs of layers that something else than a ReLU reads, as the logits.

    Our int8 models leave the last one in float; other tools ask for its range.
    """
    index = GraphIndex(graph)
    return tuple(
        node.output[0]
        for node in graph.node
        if is_layer(node) and any(r.op_type != "Relu" for r in index.readers_of(node))
    )


def repetitions(graph: onnx.GraphProto) -> dict[str, int | None]:
    """How often the output of a Resize holds each value of its input: 4 for 2x on both sides.

    Exact for nearest upsampling by whole factors. Bilinear values lie between those of the input,
    so there it is how much they weigh. ``None`` where no constant tells, but a size does.
    """
    index = GraphIndex(graph)
    repeated: dict[str, int | None] = {}
    for node in graph.node:
        kept = carries(node, index)
        if kept is Carries.NOTHING:
            continue
        factor: int | None = 1 if kept is Carries.ALL else None
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
        many = node.output if node.op_type == "Split" else node.output[:1]
        repeated |= dict.fromkeys(many, times)
        if times is not None and times > MOST_REPETITIONS:
            raise _too_large(node, times)
    return repeated


def _too_large(node: onnx.NodeProto, factor: float) -> InputError:
    return InputError(
        f"node {one_line(node.name, limit=80)!r} resizes to {factor:g} times as many values; "
        f"expected at most {MOST_REPETITIONS}: export the model again"
    )


def plan_observation(
    model: onnx.ModelProto, *, kernels: Sequence[Kernels] = EVERY_KERNELS
) -> Observation:
    """Decide what to observe; everything else follows from it.

    A Concat of a constant, or of a tensor that is resized to a size, is observed itself: how often
    it holds each value does not follow from the graph.

    Args:
        model: a float model, nodes in topological order.
        kernels: of the targets that will be quantized for.

    Raises:
        InputError: values that repeat without end.
    """
    graph = model.graph
    wanted = every_activation(model, kernels=kernels)
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
    made = {name: node.op_type for name, node in index.producer.items()}
    checked = {name for name in needed if made.get(name, "Conv") not in HALVED}
    ranged = [follows.get(name, name) for name in wanted]
    summed = {name: parts[name] for name in ranged if name in parts}
    checked -= summed.keys()
    checked |= {name for name, found in summed.items() if not checked.isdisjoint(found)}
    return Observation(
        observed=tuple(name for name in index.tensors if name in needed),
        summed=summed,
        checked=frozenset(checked),
        follows={name: follows[name] for name in wanted if name in follows},
    )


def float_region(
    graph: onnx.GraphProto, layers: Collection[str], *, kernels: Kernels
) -> tuple[str, ...]:
    """Layers to keep in float, and what lies in front of them alone.

    An Add or Concat whose result only such layers read would round for nothing, so it stays in
    float with them.

    Args:
        graph: a float graph, nodes in topological order.
        layers: names of layers.
        kernels: of the target.

    Returns:
        Names of nodes for ``--exclude``, in graph order.
    """
    if not layers:
        return ()
    reading: dict[str, set[str]] = {value.name: {""} for value in graph.output}
    chosen: list[str] = []
    for node in reversed(graph.node):
        readers = {reader for name in node.output for reader in reading.get(name, ())}
        if is_layer(node):
            inside = node.name in layers
            readers = {node.name}
        else:
            known = kernels.integers | kernels.after_integers
            inside = node.op_type in known and bool(readers) and readers <= set(layers)
        if inside:
            chosen.append(node.name)
        for name in node.input:
            reading.setdefault(name, set()).update(readers)
    return tuple(reversed(chosen))
