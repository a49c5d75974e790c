"""Loss and published IoU of a network on the validation split, over all processes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segdeploy.benchmarks.scores.accuracy import iou_per_image
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.output_contract import FOREGROUND_PROBABILITY
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.distributed.shard import WHOLE, Shard
from segdeploy.training.losses import LossFunction

PIXELS_AT_ONCE = 16 * 96 * 96
"""Pixels of one evaluation batch: memory does not grow with the size of the images."""


@dataclass(frozen=True, kw_only=True)
class ValidationSet:
    """This process's share of the validation images, ready to be fed.

    Attributes:
        inputs: float32 (N, 3, H, W).
        truth: float32 (N, 1, H, W), 0 or 1.
        field: the same shape, 1 inside the field of view; ``None`` where there are none.
        shard: which share of all images this is.
    """

    inputs: Tensor
    truth: Tensor
    field: Tensor | None
    shard: Shard = WHOLE

    @classmethod
    def of(
        cls, images: SegmentationSet, preprocess: Preprocess, *, shard: Shard = WHOLE
    ) -> ValidationSet:
        """Read the images.

        Raises:
            InputError: one cannot be read.
        """
        every = torch.from_numpy(images.inputs(preprocess))
        truth = torch.from_numpy(images.truths(preprocess)).float()[:, None]
        fields = images.fields(preprocess)
        part = slice(shard.rank, None, shard.size)
        return cls(
            inputs=every[part],
            truth=truth[part],
            field=None if fields is None else torch.from_numpy(fields).float()[part, None],
            shard=shard,
        )


@dataclass(frozen=True, kw_only=True)
class ValidationScores:
    """Means over all validation images: the loss, and the published IoU in percent."""

    loss: float
    iou: float


def evaluate(network: nn.Module, images: ValidationSet, loss: LossFunction) -> ValidationScores:
    """Score a network; every process gets the scores over all images.

    The means are exact sums, so they do not depend on how the images are divided.

    Args:
        network: (N, 3, H, W) to logits (N, 1, H, W), in evaluation mode.
        images: what this process has of the validation images.
        loss: of one image.
    """
    device = next(iter(network.parameters()), images.inputs).device
    losses: list[float] = []
    ious: list[float] = []
    at_once = max(1, PIXELS_AT_ONCE // math.prod(images.inputs.shape[2:]))
    with torch.inference_mode():
        for start in range(0, len(images.inputs), at_once):
            part = slice(start, start + at_once)
            inputs = images.inputs[part].to(device, memory_format=torch.channels_last)
            logits = network(inputs).float().cpu()
            truth = images.truth[part]
            field = None if images.field is None else images.field[part]
            found = logits.sigmoid() >= FOREGROUND_PROBABILITY
            ious += iou_per_image(
                _maps(found), _maps(truth), None if field is None else _maps(field)
            ).tolist()
            for i in range(len(logits)):
                inside = None if field is None else field[i, None]
                losses.append(loss(logits[i, None], truth[i, None], inside).item())
    parts = images.shard.gathered((losses, ious))
    return ValidationScores(
        loss=_mean([value for part_losses, _ in parts for value in part_losses]),
        iou=_mean([value for _, part_ious in parts for value in part_ious]),
    )


def _maps(values: Tensor) -> NDArray[np.bool_]:
    """(N, 1, H, W) to bool (N, H, W)."""
    maps: NDArray[np.bool_] = values[:, 0].numpy() > 0
    return maps


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
