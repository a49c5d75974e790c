"""Losses on logits."""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor


def bce_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy plus soft Dice, Dice per image because the metric is per image.

    Args:
        logits: (N, 1, H, W).
        truth: the same shape, 0 or 1.

    Returns:
        A scalar: mean BCE + 1 - mean over images of (2 sum(p t) + 1) / (sum(p) + sum(t) + 1).
    """
    logits = logits.float()
    bce = functional.binary_cross_entropy_with_logits(logits, truth)
    probability = logits.sigmoid()
    overlap = (probability * truth).sum(dim=(1, 2, 3))
    total = probability.sum(dim=(1, 2, 3)) + truth.sum(dim=(1, 2, 3))
    return bce + 1 - ((2 * overlap + 1) / (total + 1)).mean()
