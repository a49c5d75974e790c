"""The two networks, written from their papers, and the checkpoint loader that fills them."""

from segdeploy.deploy.models.r2u_net import R2UNet
from segdeploy.deploy.models.unet_plus_plus import UNetPlusPlus

__all__ = ["R2UNet", "UNetPlusPlus"]
