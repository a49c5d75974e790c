"""Every network there is, by its architecture."""

from __future__ import annotations

from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.r2u_net import R2UNet
from segdeploy.deploy.models.u_net import BilinearUNet, UNet
from segdeploy.deploy.models.unet_plus_plus import DEPTH, UNetPlusPlus

Network = R2UNet | UNetPlusPlus | UNet | BilinearUNet

DEFAULT_RECURRENCE = 2
"""The recurrence ``t`` where neither the file, its project nor the caller states it (the published
value).
"""


def build_network(
    arch: Architecture,
    *,
    in_channels: int = 3,
    num_classes: int = 1,
    width: int | None = None,
    recurrence: int = DEFAULT_RECURRENCE,
    deep_supervision: bool = True,
    head: int = DEPTH,
) -> Network:
    """Create a network with random weights.

    Args:
        arch: which network.
        in_channels: channels of the input image.
        num_classes: channels of the output.
        width: channels of its first level; ``None`` takes the published width.
        recurrence: ``t`` of the recurrent networks.
        deep_supervision: whether UNet++ has four heads.
        head: which of them it returns.

    Raises:
        ValueError: a head that does not exist, or a recurrence below 1.
    """
    if arch is Architecture.UNET_PLUS_PLUS:
        return UNetPlusPlus(
            in_channels=in_channels,
            num_classes=num_classes,
            width=width or 32,
            deep_supervision=deep_supervision,
            head=head,
        )
    if arch is Architecture.U_NET_BILINEAR:
        return BilinearUNet(in_channels=in_channels, num_classes=num_classes, width=width or 32)
    if arch.recurrent:
        return R2UNet(
            in_channels=in_channels,
            num_classes=num_classes,
            width=width or 64,
            recurrence=recurrence,
            attention=arch.gated,
        )
    return UNet(
        in_channels=in_channels,
        num_classes=num_classes,
        width=width or 64,
        attention=arch.gated,
    )


def architecture_of(network: Network) -> Architecture:
    """Which architecture a network is."""
    if isinstance(network, UNetPlusPlus):
        return Architecture.UNET_PLUS_PLUS
    if isinstance(network, BilinearUNet):
        return Architecture.U_NET_BILINEAR
    if isinstance(network, R2UNet):
        gated, plain = Architecture.R2_ATTENTION_U_NET, Architecture.R2U_NET
    else:
        gated, plain = Architecture.ATTENTION_U_NET, Architecture.U_NET
    return gated if network.attention else plain
