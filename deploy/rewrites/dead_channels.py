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

from segdeploy.deploy.onnx_model.graph import GraphIndex, Rewritten, rebuilt
from segdeploy.deploy.rewrites.channel_groups import ChannelGroup, channel_groups
from segdeploy.deploy.rewrites.narrow import Narrower

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
