"""Tensors that must keep the same channels, and whether a channel of them may go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from segdeploy.deploy.onnx_model.graph import GraphIndex, attributes

FOLLOWING = frozenset({"MaxPool", "Resize", "Concat"})
"""Operators whose output has their inputs' channels, and zero where those are zero."""

SAME_CHANNELS = frozenset(
    {
        "AveragePool",
        "BatchNormalization",
        "Clip",
        "Dropout",
        "GlobalAveragePool",
        "Identity",
        "LeakyRelu",
        "MaxPool",
        "Relu",
        "Resize",
        "Sigmoid",
        "Softmax",
        "Tanh",
    }
)
"""Operators whose output has as many channels as their first input."""


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """Tensors tied channel by channel: convolutions, the sums of them, and the ReLUs behind.

    Attributes:
        tensors: all of them.
        activations: the outputs of the ReLUs; no other tensor of the group is read outside it.
        channels: of each.
    """

    tensors: frozenset[str]
    activations: tuple[str, ...]
    channels: int


@dataclass(frozen=True, kw_only=True)
class Residual:
    """A sum of a convolution's output, ``whole``, and an activation, ``part``."""

    node: onnx.NodeProto
    whole: str
    part: str


def channel_widths(graph: onnx.GraphProto, index: GraphIndex) -> dict[str, int]:
    """Channels of each tensor (N, C, ...) of which convolutions and the input tell them."""
    widths: dict[str, int] = {}
    for value in graph.input:
        axes = value.type.tensor_type.shape.dim
        if len(axes) == 4 and axes[1].HasField("dim_value"):
            widths[value.name] = axes[1].dim_value
    for node in graph.node:
        known = [widths[name] for name in node.input if name in widths]
        if node.op_type == "Conv" and node.input[1] in index.constants:
            widths[node.output[0]] = index.constants[node.input[1]].dims[0]
        elif node.op_type in SAME_CHANNELS and node.input[0] in widths:
            widths[node.output[0]] = widths[node.input[0]]
        elif node.op_type == "Add" and len(known) == 2 and len(set(known)) == 1:
            widths[node.output[0]] = known[0]
        elif node.op_type == "Concat" and len(known) == len(node.input) and _across(node):
            widths[node.output[0]] = sum(known)
    return widths


def _across(concat: onnx.NodeProto) -> bool:
    """Whether a Concat joins channels."""
    return attributes(concat).get("axis") == 1


def channel_groups(graph: onnx.GraphProto) -> tuple[ChannelGroup, ...]:
    """The groups whose channels may be removed, in graph order."""
    index = GraphIndex(graph)
    widths = channel_widths(graph, index)
    groups = []
    for tensors in _tied(graph, index):
        convolutions = [n for t in tensors if (n := index.made_by(t, "Conv"))]
        activations = tuple(t for t in tensors if index.made_by(t, "Relu"))
        inner = set(tensors) - set(activations)
        if (
            activations
            and convolutions
            and all(_plain(node, index) for node in convolutions)
            and all(index.producer[t].op_type in ("Conv", "Relu", "Add") for t in tensors)
            and len({widths[node.output[0]] for node in convolutions}) == 1
            and all(_read_inside(t, set(tensors), index) for t in inner)
            and all(_absorbed(t, set(tensors), index, widths) for t in activations)
        ):
            channels = index.constants[convolutions[0].input[1]].dims[0]
            groups.append(
                ChannelGroup(tensors=frozenset(tensors), activations=activations, channels=channels)
            )
    return tuple(groups)


def residual_of(node: onnx.NodeProto, index: GraphIndex) -> Residual | None:
    """A sum as ``whole + part``; ``None`` for a sum inside a group, or one that cannot be cut."""
    if node.op_type != "Add" or _sums_before_relu(node, index):
        return None
    for whole, part in (tuple(node.input), tuple(node.input)[::-1]):
        producer = index.made_by(whole, "Conv")
        if producer is None or not _plain(producer, index) or index.made_by(part, "Relu") is None:
            continue
        others = [reader for reader in index.readers[whole] if reader is not node]
        if all(reader.op_type == "Conv" for reader in others) and whole not in index.outputs:
            return Residual(node=node, whole=whole, part=part)
    return None


def _tied(graph: onnx.GraphProto, index: GraphIndex) -> list[list[str]]:
    """Tensors joined by ReLUs and by the sums before them, each group in graph order."""
    group: dict[str, list[str]] = {name: [name] for node in graph.node for name in node.output}
    for node in graph.node:
        inside = node.op_type == "Relu" or _sums_before_relu(node, index)
        if not inside:
            continue
        names = [name for name in (*node.input, *node.output) if name in group]
        joined = list(dict.fromkeys(t for name in names for t in group[name]))
        for name in joined:
            group[name] = joined
    return list({id(tensors): tensors for tensors in group.values()}.values())


def _sums_before_relu(node: onnx.NodeProto, index: GraphIndex) -> bool:
    """A sum of computed tensors that only ReLUs read."""
    if node.op_type != "Add" or any(name not in index.producer for name in node.input):
        return False
    readers = index.readers_of(node)
    return bool(readers) and all(reader.op_type == "Relu" for reader in readers)


def _plain(convolution: onnx.NodeProto, index: GraphIndex) -> bool:
    """Constant weights, one group."""
    constants = all(name in index.constants for name in convolution.input[1:])
    return constants and attributes(convolution).get("group", 1) == 1


def _read_inside(name: str, tensors: set[str], index: GraphIndex) -> bool:
    """Only nodes of the group read a tensor."""
    readers = index.readers.get(name, [])
    return name not in index.outputs and all(
        reader.op_type in ("Relu", "Add") and reader.output[0] in tensors for reader in readers
    )


def _absorbed(name: str, tensors: set[str], index: GraphIndex, widths: Mapping[str, int]) -> bool:
    """Everything that reads a tensor, however far behind, can do with fewer channels."""
    if name in index.outputs:
        return False
    return all(
        _reads_fewer(reader, name, tensors, index, widths) for reader in index.readers.get(name, [])
    )


def _reads_fewer(
    reader: onnx.NodeProto,
    name: str,
    tensors: set[str],
    index: GraphIndex,
    widths: Mapping[str, int],
) -> bool:
    if reader.op_type == "Conv":
        return reader.input[0] == name and _plain(reader, index)
    if reader.op_type in ("Relu", "Add") and reader.output[0] in tensors:
        return True
    if reader.op_type == "Add":
        return residual_of(reader, index) is not None and _absorbed(
            reader.output[0], tensors, index, widths
        )
    if reader.op_type not in FOLLOWING:
        return False
    names_sizes = reader.op_type == "Resize" and len(reader.input) > 3 and bool(reader.input[3])
    across = reader.op_type == "Concat" and reader.output[0] not in widths
    return not names_sizes and not across and _absorbed(reader.output[0], tensors, index, widths)
