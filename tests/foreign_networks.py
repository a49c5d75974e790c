"""Networks that other people deploy, and the ways they export them.

Those of installed packages are made where the packages are; torchvision and the Hugging Face hub,
which segmentation_models_pytorch and timm import and random weights do not need, are stood in for.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import nuclei
from torch import Tensor, nn

from segdeploy.benchmarks.peers.stand_ins import stand_ins
from segdeploy.benchmarks.peers.zoo.networks import FirstOutput
from segdeploy.deploy.data.preprocess import resize
from segdeploy.deploy.models.r2u_net import R2UNet
from segdeploy.deploy.models.u_net import UNet
from segdeploy.deploy.models.unet_plus_plus import UNetPlusPlus

SIDE = 64

Make = Callable[[int, int], nn.Module]
"""From the numbers of input channels and of classes to a network that returns logits."""


def _monai(name: str, **settings: Any) -> Make:
    def make(channels: int, classes: int) -> nn.Module:
        nets = importlib.import_module("monai.networks.nets")
        network: nn.Module = getattr(nets, name)(
            spatial_dims=2, in_channels=channels, out_channels=classes, **settings
        )
        return FirstOutput(network)

    return make


def _smp(encoder: str) -> Make:
    def make(channels: int, classes: int) -> nn.Module:
        with stand_ins():
            smp = importlib.import_module("segmentation_models_pytorch")
        network: nn.Module = smp.UnetPlusPlus(
            encoder,
            encoder_weights=None,
            decoder_channels=(32, 16, 8, 8, 8),
            in_channels=channels,
            classes=classes,
        )
        return network

    return make


INSTALLED: dict[str, tuple[str, Make]] = {
    "monai BasicUNetPlusPlus": (
        "monai",
        _monai("BasicUNetPlusPlus", features=(8, 8, 16, 16, 32, 8)),
    ),
    "monai AttentionUnet": (
        "monai",
        _monai("AttentionUnet", channels=(8, 16, 32), strides=(2, 2)),
    ),
    "smp UnetPlusPlus resnet": ("segmentation_models_pytorch", _smp("tu-test_resnet")),
    "smp UnetPlusPlus efficientnet": (
        "segmentation_models_pytorch",
        _smp("tu-test_efficientnet"),
    ),
}
"""Name to the package, and how the network is made."""

REPOSITORIES: dict[str, Make] = {
    "LeeJunHyun U_Net": lambda c, k: UNet(in_channels=c, num_classes=k, width=4),
    "LeeJunHyun AttU_Net": lambda c, k: UNet(in_channels=c, num_classes=k, width=4, attention=True),
    "LeeJunHyun R2AttU_Net": lambda c, k: R2UNet(
        in_channels=c, num_classes=k, width=4, recurrence=3, attention=True
    ),
    "4uiiurz1 UNet++": lambda c, k: UNetPlusPlus(
        in_channels=c, num_classes=k, width=4, deep_supervision=False
    ),
}
"""Networks that people take from repositories, in the form this project has them, narrow."""


class Residual(nn.Module):
    """InstanceNorm, LeakyReLU, strided and transposed convolutions, and a sum over them."""

    def __init__(self, channels: int, classes: int, width: int = 8) -> None:
        super().__init__()
        self.high = self._block(channels, width, stride=1)
        self.low = self._block(width, 2 * width, stride=2)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.mixed = self._block(2 * width, width, stride=1)
        self.head = nn.Conv2d(width, classes, 1)

    @staticmethod
    def _block(channels: int, out: int, *, stride: int) -> nn.Sequential:
        convolution = nn.Conv2d(channels, out, 3, stride=stride, padding=1)
        norm = nn.InstanceNorm2d(out, affine=True)
        return nn.Sequential(convolution, norm, nn.Dropout(0.1), nn.LeakyReLU(0.1, inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        high = self.high(x)
        joined = torch.cat([high, self.up(self.low(high))], dim=1)
        logits: Tensor = self.head(self.mixed(joined) + high)
        return logits


class Inverted(nn.Module):
    """Depthwise convolutions, SiLU, channels weighed by what the whole image says, bilinear up."""

    def __init__(self, channels: int, classes: int, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, 2, 1), nn.BatchNorm2d(width))
        self.wide = nn.Sequential(nn.Conv2d(width, 3 * width, 1), nn.BatchNorm2d(3 * width))
        self.depthwise = nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=3 * width)
        self.norm = nn.BatchNorm2d(3 * width)
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(3 * width, 4, 1),
            nn.SiLU(),
            nn.Conv2d(4, 3 * width, 1),
            nn.Sigmoid(),
        )
        self.narrow = nn.Conv2d(3 * width, width, 1)
        self.head = nn.Conv2d(width, classes, 3, padding=1)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        low = self.act(self.stem(x))
        wide = self.act(self.norm(self.depthwise(self.act(self.wide(low)))))
        narrow = low + self.narrow(wide * self.squeeze(wide))
        up = nn.functional.interpolate(narrow, size=x.shape[2:], mode="bilinear")
        logits: Tensor = self.head(up)
        return logits


class Gated(nn.Module):
    """An attention gate, GroupNorm, Hardswish, a padded stride and pixels from channels."""

    def __init__(self, channels: int, classes: int, width: int = 8) -> None:
        super().__init__()
        self.high = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(2, width))
        self.low = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(width, 4 * width, 3, 2))
        self.up = nn.PixelShuffle(2)
        self.skip, self.gate = nn.Conv2d(width, 4, 1), nn.Conv2d(width, 4, 1)
        self.seen = nn.Conv2d(4, 1, 1)
        self.head = nn.Conv2d(2 * width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = nn.functional.hardswish(self.high(x))
        up = self.up(nn.functional.gelu(self.low(high)))
        gate = torch.sigmoid(self.seen(torch.relu(self.skip(high) + self.gate(up))))
        logits: Tensor = self.head(torch.cat([high * gate, up], dim=1))
        return logits


OPERATORS: dict[str, Make] = {"residual": Residual, "inverted": Inverted, "gated": Gated}
"""Small networks with the operators of those above."""


def trained(make: Make, *, channels: int = 3, classes: int = 1, seed: int = 5) -> nn.Module:
    """A network with statistics of generated images, whose logits spread over classes."""
    generator = np.random.default_rng(seed)
    pixels = [resize(nuclei(generator)[0], (SIDE, SIDE)) for _ in range(4)]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    images = images[:, :1].expand(-1, channels, -1, -1).contiguous()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = make(channels, classes)
        norms = [each for each in network.modules() if isinstance(each, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None
        network.train()(images)
        network.eval()
        logits = network(images)
        mean, spread = logits.mean(dim=(0, 2, 3)), logits.std(dim=(0, 2, 3)) + 1e-6
        return Spread(network, mean, spread).eval()


class Spread(nn.Module):
    """A network whose logits have mean 0 and standard deviation 2, as trained ones about have."""

    def __init__(self, network: nn.Module, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.network = network
        self.last = nn.Conv2d(len(mean), len(mean), 1)
        self.last.weight.copy_(torch.diag(2 / spread)[:, :, None, None])
        self.last.bias.copy_(-2 * mean / spread)  # type: ignore[union-attr]  # it has one

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.network(x))
        return logits


def exported_today(network: nn.Module, path: Path, *, channels: int = 3) -> Path:
    """By PyTorch's exporter of today: weights in a file beside the model."""
    quiet, (image,) = contextlib.redirect_stdout(None), _example(channels)
    with warnings.catch_warnings(), quiet:
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (image,), path, dynamo=True, verbose=False)
    return path


def exported_before(network: nn.Module, path: Path, *, opset: int, channels: int = 3) -> Path:
    """By its exporter of before, any batch, height and width."""
    axes = {0: "batch", 2: "h", 3: "w"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            _example(channels),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": axes, "y": axes},
        )
    return path


def _example(channels: int) -> tuple[Tensor]:
    return (torch.zeros(1, channels, SIDE, SIDE),)


EXPORTERS: dict[str, Callable[..., Path]] = {
    "today": exported_today,
    "legacy 11": lambda network, path, **how: exported_before(network, path, opset=11, **how),
    "legacy 17": lambda network, path, **how: exported_before(network, path, opset=17, **how),
}
