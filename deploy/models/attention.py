"""Attention gate (Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", 2018,
arXiv:1804.03999), in the additive form of LeeJunHyun Image_Segmentation (``network.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AttentionGate(nn.Module):
    """Weighs a skip connection, pixel by pixel, by what the decoder knows there.

    ``skip * sigmoid(psi(relu(W_g(gating) + W_x(skip))))``; each of the three is a 1x1 convolution
    with BatchNorm, ``psi`` to one channel. Keys ``W_g.{0,1}``, ``W_x.{0,1}``, ``psi.{0,1}``.

    Args:
        channels: of the skip connection and of the gating signal.
        inner: channels of their sum.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.W_g = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.BatchNorm2d(inner))
        self.W_x = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.BatchNorm2d(inner))
        self.psi = nn.Sequential(nn.Conv2d(inner, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, gating: Tensor, skip: Tensor) -> Tensor:
        """Two tensors (N, channels, H, W) to one of the same shape."""
        weight: Tensor = self.psi(torch.relu(self.W_g(gating) + self.W_x(skip)))
        return skip * weight


def add_gates(network: nn.Module, width: int) -> None:
    """Give a network of four levels the gates ``Att2`` to ``Att5``.

    Args:
        network: the gates become its submodules.
        width: channels of its first level; the gate of level ``i`` has ``width * 2**(i - 2)``,
            and half of that inside.
    """
    for level in range(5, 1, -1):
        channels = width * 2 ** (level - 2)
        network.add_module(f"Att{level}", AttentionGate(channels, max(1, channels // 2)))
