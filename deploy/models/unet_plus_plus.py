"""UNet++ (Zhou et al., "UNet++: A Nested U-Net Architecture", 2018, arXiv:1807.10165)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DEPTH = 4
"""Number of poolings; also the number of heads with deep supervision."""


class ConvBlock(nn.Module):
    """Two 3x3 convolutions, each with BatchNorm and ReLU; keys ``conv.{0,1,3,4}``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W)."""
        features: Tensor = self.conv(x)
        return features


class UNetPlusPlus(nn.Module):
    """Nested U-Net of depth 4 with bilinear (align_corners) upsampling.

    Node ``X(i, j)`` sits at level ``i`` (1/2**i resolution) and is fed every earlier node of its
    level and the upsampled ``X(i + 1, j - 1)``. Head ``L`` reads ``X(0, L)`` and needs only the
    nodes with ``i + j <= L``, so ``forward`` computes nothing else: exporting ``head=1`` leaves no
    dead branch.

    Args:
        in_channels: channels of the input image.
        num_classes: channels of the output.
        width: channels at level 0; level ``i`` has ``width * 2**i``. The published network is 32.
        deep_supervision: four heads ``final1..4`` (9,163,428 parameters) instead of the single
            ``final`` (9,163,329).
        head: which head ``forward`` returns, 1 to 4. Without deep supervision only 4 exists.

    Raises:
        ValueError: the requested head does not exist.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        width: int = 32,
        deep_supervision: bool = True,
        head: int = DEPTH,
    ) -> None:
        super().__init__()
        available = range(1, DEPTH + 1) if deep_supervision else (DEPTH,)
        if head not in available:
            raise ValueError(
                f"head {head} does not exist in this UNet++: it has heads {list(available)}. "
                "Heads 1 to 3 need a checkpoint trained with deep supervision (keys final1..4)."
            )
        self.deep_supervision = deep_supervision
        self.head = head
        channels = [width * 2**level for level in range(DEPTH + 1)]
        self.pool = nn.MaxPool2d(2, 2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        for level in range(DEPTH + 1):
            below = in_channels if level == 0 else channels[level - 1]
            self.add_module(f"conv{level}_0", ConvBlock(below, channels[level]))
        for column in range(1, DEPTH + 1):
            for level in range(DEPTH + 1 - column):
                fan_in = channels[level] * column + channels[level + 1]
                self.add_module(f"conv{level}_{column}", ConvBlock(fan_in, channels[level]))
        for name in self.head_names():
            self.add_module(name, nn.Conv2d(width, num_classes, 1))

    def head_names(self) -> list[str]:
        """Names of the head convolutions, shallowest first."""
        return [f"final{i}" for i in range(1, DEPTH + 1)] if self.deep_supervision else ["final"]

    def nodes(self, x: Tensor, head: int) -> list[Tensor]:
        """Compute ``X(0, 1) .. X(0, head)``.

        Args:
            x: input of shape (N, in_channels, H, W), H and W multiples of 16.
            head: deepest head needed, 1 to 4.

        Returns:
            ``head`` tensors of shape (N, width, H, W).
        """
        grid: dict[tuple[int, int], Tensor] = {(0, 0): self.get_submodule("conv0_0")(x)}
        for diagonal in range(1, head + 1):
            pooled = self.pool(grid[diagonal - 1, 0])
            grid[diagonal, 0] = self.get_submodule(f"conv{diagonal}_0")(pooled)
            for column in range(1, diagonal + 1):
                level = diagonal - column
                same_level = [grid[level, earlier] for earlier in range(column)]
                inputs = torch.cat([*same_level, self.up(grid[level + 1, column - 1])], dim=1)
                grid[level, column] = self.get_submodule(f"conv{level}_{column}")(inputs)
        return [grid[0, column] for column in range(1, head + 1)]

    def heads(self, x: Tensor) -> list[Tensor]:
        """Logits of every head, shallowest first, each (N, num_classes, H, W). For training."""
        columns = self.nodes(x, DEPTH)
        if not self.deep_supervision:
            columns = columns[-1:]
        names = self.head_names()
        return [self.get_submodule(n)(c) for n, c in zip(names, columns, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the chosen head, (N, num_classes, H, W), from (N, in_channels, H, W)."""
        name = f"final{self.head}" if self.deep_supervision else "final"
        logits: Tensor = self.get_submodule(name)(self.nodes(x, self.head)[-1])
        return logits
