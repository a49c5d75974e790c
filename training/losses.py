"""Losses on logits, inside a field of view where there is one."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as functional
from torch import Tensor

from segdeploy.training.recipe import Loss

LossFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def bce_dice(logits: Tensor, truth: Tensor, field: Tensor | None = None) -> Tensor:
    """Binary cross-entropy plus soft Dice, Dice per image because the metric is per image.

    Args:
        logits: (N, 1, H, W).
        truth: the same shape, 0 or 1.
        field: the same shape, 1 inside the field of view and 0 outside; ``None``: 1 everywhere.

    Returns:
        A scalar: mean BCE + 1 - mean over images of (2 sum(p t) + 1) / (sum(p) + sum(t) + 1).
    """
    logits = _at_least_single(logits)
    probability = logits.sigmoid()
    if field is not None:
        probability, truth = probability * field, truth * field
    overlap = (probability * truth).sum(dim=(1, 2, 3))
    total = probability.sum(dim=(1, 2, 3)) + truth.sum(dim=(1, 2, 3))
    return _bce(logits, truth, field) + 1 - ((2 * overlap + 1) / (total + 1)).mean()


def bce_lovasz(logits: Tensor, truth: Tensor, field: Tensor | None = None) -> Tensor:
    """Half binary cross-entropy, half the Lovász hinge, which extends 1 - IoU of each image.

    The hinge errors 1 - logit * (+1 or -1) of an image's pixels are sorted, largest first; each is
    weighted by how much the Jaccard loss grows when its pixel joins those that are wrong (Berman,
    Triki, Blaschko, "The Lovász-Softmax loss", CVPR 2018, algorithm 1).

    Args:
        logits: (N, 1, H, W).
        truth: the same shape, 0 or 1.
        field: the same shape, 1 inside the field of view and 0 outside; ``None``: 1 everywhere.
    """
    logits = _at_least_single(logits)
    if field is None:
        hinges = _lovasz_hinge(logits.flatten(1), truth.flatten(1))
    else:
        images = zip(logits, truth, field, strict=True)
        hinges = torch.cat([_lovasz_hinge(x[f > 0][None], t[f > 0][None]) for x, t, f in images])
    return 0.5 * _bce(logits, truth, field) + 0.5 * hinges.mean()


LOSSES: dict[Loss, LossFunction] = {Loss.BCE_DICE: bce_dice, Loss.BCE_LOVASZ: bce_lovasz}


def _at_least_single(values: Tensor) -> Tensor:
    """Half precision to single; single and double as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _bce(logits: Tensor, truth: Tensor, field: Tensor | None) -> Tensor:
    """Mean cross-entropy over the pixels of the field."""
    if field is None:
        return functional.binary_cross_entropy_with_logits(logits, truth)
    every = functional.binary_cross_entropy_with_logits(logits, truth, field, reduction="sum")
    return every / field.sum().clamp(min=1)


def _lovasz_hinge(logits: Tensor, truth: Tensor) -> Tensor:
    """The Lovász hinge of each image.

    Args:
        logits: (N, pixels).
        truth: (N, pixels), 0 or 1.

    Returns:
        (N,).
    """
    errors = 1 - logits * (2 * truth - 1)
    ordered, order = torch.sort(errors, dim=1, descending=True)
    positive = truth.gather(1, order)
    total = positive.sum(dim=1, keepdim=True)
    intersection = total - positive.cumsum(1)
    union = total + (1 - positive).cumsum(1)
    jaccard_loss = 1 - intersection / union
    growth = torch.cat([jaccard_loss[:, :1], jaccard_loss.diff(dim=1)], dim=1)
    return (functional.relu(ordered) * growth).sum(dim=1)
