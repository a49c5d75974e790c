"""R2U-Net (Alom et al., "Recurrent Residual Convolutional Neural Network based on U-Net", 2018,
arXiv:1802.06955).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segdeploy.deploy.models.attention import add_gates


class RecurrentConv(nn.Module):
    """One convolution unrolled over ``recurrence`` steps with shared weights and BatchNorm.

    ``h = f(x)``, then ``recurrence`` times ``h = f(x + h)``: ``recurrence + 1`` applications of
    the same convolution.
    """

    def __init__(self, channels: int, recurrence: int) -> None:
        super().__init__()
        self.recurrence = recurrence
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to the same shape."""
        hidden: Tensor = self.conv(x)
        for _ in range(self.recurrence):
            hidden = self.conv(x + hidden)
        return hidden


class RecurrentResidualBlock(nn.Module):
    """1x1 projection, two recurrent convolutions, and the residual sum around them."""

    def __init__(self, in_channels: int, out_channels: int, recurrence: int) -> None:
        super().__init__()
        self.RCNN = nn.Sequential(
            RecurrentConv(out_channels, recurrence), RecurrentConv(out_channels, recurrence)
        )
        self.Conv_1x1 = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W)."""
        projected: Tensor = self.Conv_1x1(x)
        residual: Tensor = self.RCNN(projected)
        return projected + residual


class UpConv(nn.Module):
    """Nearest upsampling by 2, then 3x3 convolution, BatchNorm and ReLU; keys ``up.{1,2}``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, 2H, 2W)."""
        features: Tensor = self.up(x)
        return features


class R2UNet(nn.Module):
    """Recurrent residual U-Net with four poolings; 39,091,393 parameters at width 64.

    Args:
        in_channels: channels of the input image.
        num_classes: channels of the output.
        width: channels of the first block; block ``i`` has ``width * 2**(i - 1)``.
        recurrence: the paper's ``t``; each recurrent convolution runs ``t + 1`` times.
        attention: gates ``Att2`` to ``Att5`` on the skip connections, which make it LeeJunHyun
            Image_Segmentation's ``R2AttU_Net`` (39,442,925 parameters).

    Raises:
        ValueError: ``recurrence`` is below 1.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        width: int = 64,
        recurrence: int = 2,
        attention: bool = False,
    ) -> None:
        super().__init__()
        if recurrence < 1:
            raise ValueError(f"recurrence (the paper's t) must be at least 1, got {recurrence}")
        self.recurrence = recurrence
        self.attention = attention
        c1, c2, c3, c4, c5 = (width * 2**i for i in range(5))
        self.Maxpool = nn.MaxPool2d(2, 2)
        self.RRCNN1 = RecurrentResidualBlock(in_channels, c1, recurrence)
        self.RRCNN2 = RecurrentResidualBlock(c1, c2, recurrence)
        self.RRCNN3 = RecurrentResidualBlock(c2, c3, recurrence)
        self.RRCNN4 = RecurrentResidualBlock(c3, c4, recurrence)
        self.RRCNN5 = RecurrentResidualBlock(c4, c5, recurrence)
        self.Up5, self.Up_RRCNN5 = UpConv(c5, c4), RecurrentResidualBlock(c5, c4, recurrence)
        self.Up4, self.Up_RRCNN4 = UpConv(c4, c3), RecurrentResidualBlock(c4, c3, recurrence)
        self.Up3, self.Up_RRCNN3 = UpConv(c3, c2), RecurrentResidualBlock(c3, c2, recurrence)
        self.Up2, self.Up_RRCNN2 = UpConv(c2, c1), RecurrentResidualBlock(c2, c1, recurrence)
        if attention:
            add_gates(self, width)
        self.Conv_1x1 = nn.Conv2d(c1, num_classes, 1)

    def head_names(self) -> list[str]:
        """Name of the head convolution."""
        return ["Conv_1x1"]

    def heads(self, x: Tensor) -> list[Tensor]:
        """Logits of the only head, as a list of one. For training code shared with UNet++."""
        return [self(x)]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes, H, W) from (N, in_channels, H, W), H and W multiples of 16."""
        x1 = self.RRCNN1(x)
        x2 = self.RRCNN2(self.Maxpool(x1))
        x3 = self.RRCNN3(self.Maxpool(x2))
        x4 = self.RRCNN4(self.Maxpool(x3))
        x5 = self.RRCNN5(self.Maxpool(x4))
        d4 = self.Up_RRCNN5(self._joined(5, x4, self.Up5(x5)))
        d3 = self.Up_RRCNN4(self._joined(4, x3, self.Up4(d4)))
        d2 = self.Up_RRCNN3(self._joined(3, x2, self.Up3(d3)))
        d1 = self.Up_RRCNN2(self._joined(2, x1, self.Up2(d2)))
        logits: Tensor = self.Conv_1x1(d1)
        return logits

    def _joined(self, level: int, skip: Tensor, raised: Tensor) -> Tensor:
        """A skip connection, through its gate where there is one, beside what was upsampled."""
        if self.attention:
            skip = self.get_submodule(f"Att{level}")(raised, skip)
        return torch.cat([skip, raised], dim=1)
