"""Ranges of other tools: read from a quantized graph, and compared with ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

Range = tuple[float, float]
"""Lower and upper end."""


@dataclass(frozen=True, kw_only=True)
class WidthRatios:
    """How wide another tool's ranges are, measured in ours, over the tensors both know.

    Attributes:
        tensors: compared.
        least: smallest ratio.
        median: over the tensors.
        most: largest ratio.
    """

    tensors: int
    least: float
    median: float
    most: float


def compare_widths(theirs: Mapping[str, Range], ours: Mapping[str, Range]) -> WidthRatios | None:
    """Their width over ours, tensor by tensor, matched by name.

    Example:
        >>> ours = {"a": (0.0, 2.0), "b": (-1.0, 1.0), "c": (0.0, 1.0)}
        >>> compare_widths({"a": (0.0, 3.0), "b": (-1.0, 1.0), "z": (0.0, 9.0)}, ours)
        WidthRatios(tensors=2, least=1.0, median=1.25, most=1.5)

    Returns:
        ``None`` where no tensor of a width above zero is known to both.
    """
    ratios = [
        (theirs[name][1] - theirs[name][0]) / (high - low)
        for name, (low, high) in ours.items()
        if name in theirs and high > low
    ]
    if not ratios:
        return None
    return WidthRatios(
        tensors=len(ratios),
        least=min(ratios),
        median=float(np.median(ratios)),
        most=max(ratios),
    )


def activation_ranges(graph: onnx.GraphProto) -> dict[str, Range]:
    """What the integers of each quantized activation stand for, per tensor.

    A tensor x with the scale s and the zero point z keeps apart (q_min - z) s to (q_max - z) s.

    Args:
        graph: with QuantizeLinear nodes whose scales and zero points are constants; one without a
            zero point is unsigned, as ONNX defines it. Scales of several values are left out:
            they belong to no single range.
    """
    from segdeploy.deploy.onnx_model.graph import GraphIndex  # loads onnx, as has the caller

    index = GraphIndex(graph)
    ranges: dict[str, Range] = {}
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in index.constants:
            continue
        scale = index.value(node.input[1]).astype(np.float64)
        zero = np.zeros((), np.uint8)
        if len(node.input) > 2:
            zero = index.value(node.input[2])
        if scale.size != 1:
            continue
        limits, offset = np.iinfo(zero.dtype), int(zero.item())
        ranges[node.input[0]] = (
            (int(limits.min) - offset) * scale.item(),
            (int(limits.max) - offset) * scale.item(),
        )
    return ranges
