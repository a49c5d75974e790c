"""Leave out the channels that never fire.

A channel that is zero behind its ReLU on every image contributes nothing to the convolutions that
read it. Its weights go: the output channel of the convolutions before, the input channel of those
behind. Exact on every input on which the channel stays silent.

A recurrent step's convolutions share their ReLU's channels, so a channel goes only where it is
silent behind each step. Where a sum adds a shortened tensor to a whole one (the residual sum of
R2U-Net) the whole one's convolution is cut in two, the part that the sum reaches first: the result
keeps all its channels, in another order, and the convolutions that read it reorder their weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from segdeploy.deploy.onnx_model.graph import GraphIndex, Rewritten, constant, rebuilt
from segdeploy.deploy.rewrites.channel_groups import (
    ChannelGroup,
    channel_groups,
    channel_widths,
    residual_of,
)

CHANNEL_BLOCK = 16
"""Channels are kept in multiples of this: a processor computes them in blocks, so that a few less
than a block save nothing."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What is left of one group of tensors that share their channels.

    Attributes:
        group: the tensors.
        kept: channels that stay, ascending.
        silent: how many never fired; a few may stay to fill a block.
    """

    group: ChannelGroup
    kept: NDArray[np.int64]
    silent: int


def dead_channels(
    model: onnx.ModelProto,
    activity: Mapping[str, NDArray[np.float32]],
    *,
    block: int = CHANNEL_BLOCK,
) -> Rewritten:
    """Remove the channels that were silent on every image that was observed.

    Args:
        model: float32; convolutions with constant weights.
        activity: output of each Relu to the largest value of each of its channels (channels,).
        block: a group keeps a multiple of this many channels.

    Returns:
        The smaller model; ``sites`` counts the channels removed.
    """
    index = GraphIndex(model.graph)
    cuts = [cut for group in channel_groups(model.graph) if (cut := cut_of(group, activity, block))]
    if not cuts:
        return Rewritten(model=model, sites=0)
    narrower = Narrower(model.graph, index)
    for cut in cuts:
        narrower.keep(cut.group, cut.kept)
    nodes, constants = narrower.rewrite()
    removed = sum(cut.group.channels - len(cut.kept) for cut in cuts)
    return Rewritten(model=rebuilt(model, nodes, constants), sites=removed)


def cut_of(
    group: ChannelGroup, activity: Mapping[str, NDArray[np.float32]], block: int
) -> Cut | None:
    """Which channels of a group stay; ``None`` where all do."""
    if any(name not in activity for name in group.activations):
        return None
    silent = np.logical_and.reduce([activity[name] <= 0 for name in group.activations])
    count = int(silent.sum())
    room = group.channels - count
    stay = min(group.channels, max(1, -(-room // block)) * block)
    if stay == group.channels:
        return None
    filled = silent.copy()
    filled[np.flatnonzero(silent)[: stay - room]] = False
    return Cut(group=group, kept=np.flatnonzero(~filled), silent=count)


Channels = NDArray[np.int64]


class Narrower:
    """Collects which channels each group keeps, then rewrites the graph once, front to back."""

    def __init__(self, graph: onnx.GraphProto, index: GraphIndex) -> None:
        self.graph = graph
        self.index = index
        self._kept: dict[str, Channels] = {}
        self._whole: dict[str, Channels] = {}
        self._channels: dict[str, Channels] = {}
        self._width = channel_widths(graph, index)
        self._constants: dict[str, onnx.TensorProto] = {}
        self._stored: dict[tuple[str, bytes, bytes], str] = {}

    def keep(self, group: ChannelGroup, kept: Channels) -> None:
        """Leave only these channels of a group."""
        self._kept |= dict.fromkeys(group.tensors, kept)
        for name in group.activations:
            for reader in self.index.readers.get(name, []):
                residual = residual_of(reader, self.index)
                if residual is not None and residual.part == name:
                    self._whole[residual.whole] = kept

    def rewrite(self) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """The nodes, and the constants they need beside the graph's own."""
        nodes = [new for node in self.graph.node for new in self._rewritten(node)]
        return nodes, list(self._constants.values())

    def _rewritten(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        name = node.output[0]
        changed = [source for source in node.input if source in self._channels]
        if name in self._kept.keys() | self._whole.keys() and node.op_type == "Conv":
            return self._convolution(node)
        if not changed:
            return [_anew(node)] if node.op_type == "Conv" else [node]
        if node.op_type == "Conv":
            return self._convolution(node)
        residual = residual_of(node, self.index)
        if residual is not None and residual.whole in self._whole:
            self._channels[name] = self._channels[residual.whole]
            return _residual_sum(node, residual.whole, residual.part)
        if node.op_type == "Concat":
            starts = np.cumsum([0, *(self._width[source] for source in node.input)])
            parts = [self._of(s) + start for s, start in zip(node.input, starts, strict=False)]
            self._channels[name] = np.concatenate(parts)
        else:
            self._channels[name] = self._channels[changed[0]]
        return [node]

    def _of(self, name: str) -> Channels:
        """What is left of a tensor's channels, in their new order."""
        return self._channels[name] if name in self._channels else np.arange(self._width[name])

    def _convolution(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """One convolution with fewer weights, or the two of a residual sum's whole side."""
        name, width = node.output[0], self.index.constants[node.input[1]].dims[0]
        if name not in self._whole:
            if name in self._kept:
                self._channels[name] = self._kept[name]
            return [self._narrowed(node, self._of(name), name)]
        first = self._whole[name]
        rest = np.setdiff1d(np.arange(width), first)
        self._channels[name] = np.concatenate([first, rest])
        return [
            self._narrowed(node, first, f"{name}/summed"),
            self._narrowed(node, rest, f"{name}/rest"),
            helper.make_node(
                "Concat", [f"{name}/summed", f"{name}/rest"], [name], name=f"{name}/Concat", axis=1
            ),
        ]

    def _narrowed(self, node: onnx.NodeProto, out: Channels, name: str) -> onnx.NodeProto:
        channels = self._of(node.input[0])
        inputs = [node.input[0], self._weight(node.input[1], out, channels)]
        inputs += [self._weight(bias, out, None) for bias in node.input[2:]]
        new = helper.make_node(
            "Conv", inputs, [name], name=node.name if name == node.output[0] else name
        )
        new.attribute.extend(node.attribute)
        return new

    def _weight(self, stored: str, out: Channels, channels: Channels | None) -> str:
        """A constant's rows and columns; the same cut of the same constant is stored once."""
        dims = self.index.constants[stored].dims
        whole = np.array_equal(out, np.arange(dims[0]))
        if whole and (channels is None or np.array_equal(channels, np.arange(dims[1]))):
            return stored
        key = (stored, out.tobytes(), b"" if channels is None else channels.tobytes())
        if key not in self._stored:
            value = self.index.value(stored)[out]
            new = f"{stored}/cut{sum(other[0] == stored for other in self._stored) + 1}"
            self._constants[new] = constant(new, value if channels is None else value[:, channels])
            self._stored[key] = new
        return self._stored[key]


def _anew(node: onnx.NodeProto) -> onnx.NodeProto:
    """A convolution as it is, without what exporters and simplifiers noted on it."""
    new = helper.make_node("Conv", list(node.input), list(node.output), name=node.name)
    new.attribute.extend(node.attribute)
    return new


def _residual_sum(node: onnx.NodeProto, whole: str, part: str) -> list[onnx.NodeProto]:
    """Add what the part reaches, and put the rest of the whole behind it."""
    name = node.output[0]
    return [
        helper.make_node("Add", [f"{whole}/summed", part], [f"{name}/summed"], name=node.name),
        helper.make_node(
            "Concat", [f"{name}/summed", f"{whole}/rest"], [name], name=f"{name}/Concat", axis=1
        ),
    ]
