"""The supported networks by name. Imports nothing heavy."""

from __future__ import annotations

from enum import Enum


class Architecture(str, Enum):
    """The supported networks, by their command-line names."""

    R2U_NET = "r2u_net"
    UNET_PLUS_PLUS = "unet_plus_plus"
