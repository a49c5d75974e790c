"""The supported networks by name. Imports nothing heavy."""

from __future__ import annotations

from enum import Enum


class Architecture(str, Enum):
    """The supported networks, by their command-line names."""

    R2U_NET = "r2u_net"
    UNET_PLUS_PLUS = "unet_plus_plus"
    U_NET = "u_net"
    ATTENTION_U_NET = "attention_u_net"
    R2_ATTENTION_U_NET = "r2_attention_u_net"
    U_NET_BILINEAR = "u_net_bilinear"

    @property
    def recurrent(self) -> bool:
        """Whether it has a recurrence ``t``."""
        return self in (Architecture.R2U_NET, Architecture.R2_ATTENTION_U_NET)

    @property
    def gated(self) -> bool:
        """Whether it has attention gates on its skip connections."""
        return self in (Architecture.ATTENTION_U_NET, Architecture.R2_ATTENTION_U_NET)

    @property
    def label(self) -> str:
        """What the network is called."""
        return _TITLES[self]


_TITLES = {
    Architecture.R2U_NET: "R2U-Net",
    Architecture.UNET_PLUS_PLUS: "UNet++",
    Architecture.U_NET: "U-Net",
    Architecture.ATTENTION_U_NET: "attention U-Net",
    Architecture.R2_ATTENTION_U_NET: "R2U-Net with attention",
    Architecture.U_NET_BILINEAR: "bilinear U-Net",
}
