"""U-Net (Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation",
2015, arXiv:1505.04597) with padded convolutions and BatchNorm, in the two forms public projects
train.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segdeploy.deploy.models.attention import add_gates
from segdeploy.deploy.models.r2u_net import UpConv
from segdeploy.deploy.models.unet_plus_plus import DEPTH, ConvBlock


class UNet(nn.Module):
    """U-Net with nearest upsampling and a convolution after it; 34,527,041 parameters at width 64.

    LeeJunHyun Image_Segmentation's ``U_Net`` and, with attention gates on its skip connections,
    ``AttU_Net`` (34,878,573 parameters; UNET-ZOO has it under the same keys).

    Args:
        in_channels: channels of the input image.
        num_classes: channels of the output.
        width: channels of the first block; block ``i`` has ``width * 2**(i - 1)``.
        attention: gates ``Att2`` to ``Att5`` on the skip connections.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        width: int = 64,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.attention = attention
        channels = [in_channels, *(width * 2**level for level in range(DEPTH + 1))]
        self.Maxpool = nn.MaxPool2d(2, 2)
        for level in range(1, DEPTH + 2):
            self.add_module(f"Conv{level}", ConvBlock(channels[level - 1], channels[level]))
        if attention:
            add_gates(self, width)
        for level in range(DEPTH + 1, 1, -1):
            fine, coarse = channels[level - 1], channels[level]
            self.add_module(f"Up{level}", UpConv(coarse, fine))
            self.add_module(f"Up_conv{level}", ConvBlock(2 * fine, fine))
        self.Conv_1x1 = nn.Conv2d(width, num_classes, 1)

    def head_names(self) -> list[str]:
        """Name of the head convolution."""
        return ["Conv_1x1"]

    def heads(self, x: Tensor) -> list[Tensor]:
        """Logits of the only head, as a list of one. For training code shared with UNet++."""
        return [self(x)]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes, H, W) from (N, in_channels, H, W), H and W multiples of 16."""
        features: Tensor = self.get_submodule("Conv1")(x)
        skips = []
        for level in range(2, DEPTH + 2):
            skips.append(features)
            features = self.get_submodule(f"Conv{level}")(self.Maxpool(features))
        for level in range(DEPTH + 1, 1, -1):
            skip = skips.pop()
            raised = self.get_submodule(f"Up{level}")(features)
            if self.attention:
                skip = self.get_submodule(f"Att{level}")(raised, skip)
            joined = torch.cat([skip, raised], dim=1)
            features = self.get_submodule(f"Up_conv{level}")(joined)
        logits: Tensor = self.Conv_1x1(features)
        return logits


class BilinearUNet(nn.Module):
    """U-Net with bilinear (align_corners) upsampling: pytorch-nested-unet's ``UNet``.

    Its nodes are those of UNet++ on the encoder and on the last diagonal, ``X(i, 0)`` and
    ``X(i, 4 - i)``, each of which is fed the skip connection and the upsampled node below.
    7,852,545 parameters at width 32.

    Args:
        in_channels: channels of the input image.
        num_classes: channels of the output.
        width: channels at level 0; level ``i`` has ``width * 2**i``.
    """

    def __init__(self, *, in_channels: int = 3, num_classes: int = 1, width: int = 32) -> None:
        super().__init__()
        channels = [width * 2**level for level in range(DEPTH + 1)]
        self.pool = nn.MaxPool2d(2, 2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        for level, fan_out in enumerate(channels):
            fan_in = channels[level - 1] if level else in_channels
            self.add_module(f"conv{level}_0", ConvBlock(fan_in, fan_out))
        for level in range(DEPTH - 1, -1, -1):
            fan_in = channels[level] + channels[level + 1]
            self.add_module(f"conv{level}_{DEPTH - level}", ConvBlock(fan_in, channels[level]))
        self.final = nn.Conv2d(width, num_classes, 1)

    def head_names(self) -> list[str]:
        """Name of the head convolution."""
        return ["final"]

    def heads(self, x: Tensor) -> list[Tensor]:
        """Logits of the only head, as a list of one. For training code shared with UNet++."""
        return [self(x)]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes, H, W) from (N, in_channels, H, W), H and W multiples of 16."""
        features: Tensor = self.get_submodule("conv0_0")(x)
        skips = []
        for level in range(1, DEPTH + 1):
            skips.append(features)
            features = self.get_submodule(f"conv{level}_0")(self.pool(features))
        for level in range(DEPTH - 1, -1, -1):
            joined = torch.cat([skips.pop(), self.up(features)], dim=1)
            features = self.get_submodule(f"conv{level}_{DEPTH - level}")(joined)
        logits: Tensor = self.final(features)
        return logits
