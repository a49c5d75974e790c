"""The zoo's architectures, as their projects make them, narrow enough to train in minutes.

Every function makes a network of one channel of logits with random weights: nothing is downloaded.
``segdeploy train --module segdeploy.benchmarks.peers.zoo.networks:NAME`` trains one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from segdeploy.benchmarks.peers.stand_ins import stand_ins
from segdeploy.deploy.models.u_net import UNet
from segdeploy.deploy.models.unet_plus_plus import UNetPlusPlus


class FirstOutput(nn.Module):
    """A network that returns a list of one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 1, H, W)."""
        found = self.network(x)
        output: Tensor = found[0] if isinstance(found, list | tuple) else found
        return output


def _monai(name: str, **settings: Any) -> nn.Module:
    nets = importlib.import_module("monai.networks.nets")
    made: nn.Module = getattr(nets, name)(spatial_dims=2, in_channels=3, out_channels=1, **settings)
    return FirstOutput(made)


def _smp(name: str, encoder: str, **settings: Any) -> nn.Module:
    smp = _imported_smp()
    made: nn.Module = getattr(smp, name)(
        encoder, encoder_weights=None, in_channels=3, classes=1, **settings
    )
    return made


def _imported_smp() -> ModuleType:
    """segmentation_models_pytorch, without torchvision where that is missing."""
    with stand_ins():
        return importlib.import_module("segmentation_models_pytorch")


def monai_unet_plus_plus() -> nn.Module:
    """InstanceNorm, LeakyReLU and transposed convolutions."""
    return _monai("BasicUNetPlusPlus", features=(16, 16, 32, 64, 128, 16))


def monai_attention_unet() -> nn.Module:
    """Attention gates and transposed convolutions."""
    return _monai("AttentionUnet", channels=(16, 32, 64, 128), strides=(2, 2, 2))


def nnunet() -> nn.Module:
    """nnU-Net's plain network: strided and transposed convolutions, InstanceNorm, LeakyReLU."""
    return _monai(
        "DynUNet",
        kernel_size=[3, 3, 3, 3],
        strides=[1, 2, 2, 2],
        upsample_kernel_size=[2, 2, 2],
        filters=[16, 32, 64, 128],
        norm_name=("instance", {"affine": True}),
    )


def resnet18_unet_plus_plus() -> nn.Module:
    """ResNet-18 encoder, nearest upsampling."""
    return _smp("UnetPlusPlus", "tu-resnet18", decoder_channels=(128, 64, 32, 16, 16))


def mobilenet_unet_plus_plus() -> nn.Module:
    """MobileNetV2 encoder: depthwise convolutions and ReLU6."""
    return _smp("UnetPlusPlus", "tu-mobilenetv2_100", decoder_channels=(64, 32, 32, 16, 16))


def efficientnet_unet_plus_plus() -> nn.Module:
    """EfficientNet-B0 encoder: depthwise convolutions, SiLU, squeeze-and-excitation."""
    return _smp("UnetPlusPlus", "efficientnet-b0", decoder_channels=(64, 32, 32, 16, 16))


def deeplab_v3_plus() -> nn.Module:
    """ResNet-18 encoder, dilated separable convolutions, pooling of the whole image."""
    return _smp("DeepLabV3Plus", "tu-resnet18", decoder_channels=64)


def fpn() -> nn.Module:
    """ResNet-18 encoder, lateral sums, GroupNorm."""
    return _smp("FPN", "tu-resnet18", decoder_pyramid_channels=64, decoder_segmentation_channels=32)


def segformer() -> nn.Module:
    """Mix Transformer B0: attention, LayerNorm, GELU."""
    return _smp("Segformer", "mit_b0", decoder_segmentation_channels=64)


def unet_plus_plus_4uiiurz1() -> nn.Module:
    """4uiiurz1's UNet++ without deep supervision, half as wide."""
    return UNetPlusPlus(width=16, deep_supervision=False)


def leejunhyun_u_net() -> nn.Module:
    """LeeJunHyun's U_Net, a quarter as wide."""
    return UNet(width=16)


def leejunhyun_attu_net() -> nn.Module:
    """LeeJunHyun's AttU_Net, a quarter as wide."""
    return UNet(width=16, attention=True)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A network of the zoo.

    Attributes:
        name: on the command line and in file names.
        title: on the page, with its project.
        package: what makes it; ``None`` where this project has it.
        make: makes it with random weights; ``None`` where its trained weights are bundled.
        bundled: name of the bundled checkpoint.
        width: what was chosen of its size, in words.
    """

    name: str
    title: str
    width: str
    package: str | None = None
    make: Callable[[], nn.Module] | None = None
    bundled: str | None = None

    @property
    def factory(self) -> str:
        """``package.module:function`` of a network that is trained."""
        assert self.make is not None, "bundled networks are not trained"
        return f"{__name__}:{self.make.__name__}"


_SMP, _MONAI = "segmentation_models_pytorch", "monai"
_ENTRIES = (
    Entry(name="unet_plus_plus", title="UNet++", width="as published", bundled="unet_plus_plus"),
    Entry(
        name="unet_plus_plus_slim",
        title="UNet++ slim",
        width="as bundled",
        bundled="unet_plus_plus_slim",
    ),
    Entry(name="r2u_net", title="R2U-Net", width="as published", bundled="r2u_net"),
    Entry(name="r2u_net_slim", title="R2U-Net slim", width="as bundled", bundled="r2u_net_slim"),
    Entry(
        name="leejunhyun_u_net",
        title="LeeJunHyun U_Net",
        width="16 to 256 channels",
        make=leejunhyun_u_net,
    ),
    Entry(
        name="leejunhyun_attu_net",
        title="LeeJunHyun AttU_Net",
        width="16 to 256 channels",
        make=leejunhyun_attu_net,
    ),
    Entry(
        name="4uiiurz1_unet_plus_plus",
        title="4uiiurz1 UNet++",
        width="16 to 256 channels, one head",
        make=unet_plus_plus_4uiiurz1,
    ),
    Entry(
        name="monai_unet_plus_plus",
        title="MONAI BasicUNetPlusPlus",
        width="16 to 128 channels",
        package=_MONAI,
        make=monai_unet_plus_plus,
    ),
    Entry(
        name="monai_attention_unet",
        title="MONAI AttentionUnet",
        width="16 to 128 channels",
        package=_MONAI,
        make=monai_attention_unet,
    ),
    Entry(
        name="nnunet",
        title="nnU-Net plain (MONAI DynUNet)",
        width="16 to 128 channels",
        package=_MONAI,
        make=nnunet,
    ),
    Entry(
        name="resnet18_unet_plus_plus",
        title="smp UnetPlusPlus, ResNet-18",
        width="decoder 128 to 16 channels",
        package=_SMP,
        make=resnet18_unet_plus_plus,
    ),
    Entry(
        name="mobilenet_unet_plus_plus",
        title="smp UnetPlusPlus, MobileNetV2",
        width="decoder 64 to 16 channels",
        package=_SMP,
        make=mobilenet_unet_plus_plus,
    ),
    Entry(
        name="efficientnet_unet_plus_plus",
        title="smp UnetPlusPlus, EfficientNet-B0",
        width="decoder 64 to 16 channels",
        package=_SMP,
        make=efficientnet_unet_plus_plus,
    ),
    Entry(
        name="deeplab_v3_plus",
        title="smp DeepLabV3+, ResNet-18",
        width="decoder 64 channels",
        package=_SMP,
        make=deeplab_v3_plus,
    ),
    Entry(
        name="fpn",
        title="smp FPN, ResNet-18",
        width="pyramid 64, head 32 channels",
        package=_SMP,
        make=fpn,
    ),
    Entry(
        name="segformer",
        title="smp Segformer, MiT-B0",
        width="decoder 64 channels",
        package=_SMP,
        make=segformer,
    ),
)
ZOO: Mapping[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""Every network by its name, in the order of the table."""
