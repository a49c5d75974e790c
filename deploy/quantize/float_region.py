"""Which nodes leave int8 together with a convolution."""

from __future__ import annotations

from collections.abc import Collection

import onnx


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
