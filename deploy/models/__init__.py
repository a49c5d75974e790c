"""The networks, written from their papers, and the checkpoint loader that fills them.

The networks are imported when they are asked for: importing torch takes seconds and 250 MB.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segdeploy.deploy.models.r2u_net import R2UNet
    from segdeploy.deploy.models.u_net import BilinearUNet, UNet
    from segdeploy.deploy.models.unet_plus_plus import UNetPlusPlus

__all__ = ["BilinearUNet", "R2UNet", "UNet", "UNetPlusPlus"]

_MODULES = {
    "BilinearUNet": "u_net",
    "R2UNet": "r2u_net",
    "UNet": "u_net",
    "UNetPlusPlus": "unet_plus_plus",
}


def __getattr__(name: str) -> Any:
    """A network's class.

    Raises:
        AttributeError: there is no such network.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
