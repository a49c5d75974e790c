"""Layers that stay in float: what an int8 file and ``--exclude`` name, for other toolchains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.onnx_model.graph import GraphIndex
from segdeploy.deploy.packaging.base import PackagedModel, Request
from segdeploy.deploy.system.errors import InputError, UsageError


@dataclass(frozen=True, kw_only=True)
class FloatLayers:
    """Layers to keep in float.

    Attributes:
        convolutions: by name, in graph order.
        others: named, too, but no convolutions: their inputs are not quantized by us.
    """

    convolutions: tuple[str, ...]
    others: tuple[str, ...]


def float_layers(request: Request, source: PackagedModel) -> FloatLayers:
    """What to keep in float of a float model.

    Args:
        request: its int8 models, if any, name layers, and so does its ``exclude``.
        source: the float model.

    Raises:
        InputError: an int8 model that was made from another float model.
        UsageError: a name that is no layer.
    """
    named = set(request.exclude)
    for int8 in request.sources:
        if int8.artifact.precision is not Precision.INT8:
            continue
        if int8.artifact.parent != source.artifact.sha256:
            raise InputError(
                f"{int8.artifact.path} was not made from {source.artifact.path}; its layers do "
                "not apply. Give the fp32 file that `segdeploy quantize` read"
            )
        named |= set(int8.float_layers)
    nodes = source.model().graph.node
    unknown = sorted(named - {node.name for node in nodes})
    if unknown:
        raise UsageError(f"{source.artifact.path} has no layer {', '.join(unknown)}")
    return FloatLayers(
        convolutions=tuple(n.name for n in nodes if n.name in named and n.op_type == "Conv"),
        others=tuple(n.name for n in nodes if n.name in named and n.op_type != "Conv"),
    )


def visiting_order(graph: onnx.GraphProto) -> list[str]:
    """Convolutions in the order in which a compiler built on TVM counts them.

    TVM visits a node after its inputs, these in the order of the arguments, starting at the
    output. For a graph with branches that is not the order of the file.

    Example:
        Of ``c = Concat(b(x), a(x))`` with the file's order a, b, c, it visits b, then a.

    Returns:
        Names; the n-th has index n, from 0.
    """
    producer = GraphIndex(graph).producer
    found: list[str] = []
    seen: set[str] = set()
    pending: list[tuple[str, bool]] = [(value.name, False) for value in reversed(graph.output)]
    while pending:
        name, ready = pending.pop()
        node = producer.get(name)
        if node is None or (name in seen and not ready):
            continue
        if ready:
            if node.op_type == "Conv":
                found.append(node.name)
            continue
        seen.add(name)
        pending.append((name, True))
        pending += [(source, False) for source in reversed(node.input)]
    return found


def indices(graph: onnx.GraphProto, names: Sequence[str]) -> list[int]:
    """Where the named convolutions stand in the visiting order, ascending."""
    return sorted(visiting_order(graph).index(name) for name in names)


def shared_weights(graph: onnx.GraphProto) -> int:
    """How many convolutions use a weight that another one uses, too.

    Example:
        R2U-Net's 18 recurrent convolutions run three times each: 54.
    """
    used = Counter(node.input[1] for node in graph.node if node.op_type == "Conv")
    return sum(times for times in used.values() if times > 1)
