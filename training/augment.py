"""Random views of native-resolution images, made directly at the network's input size.

Geometry is one sampling grid per image (rotation, flip, zoom, shift, elastic), so the view is cut
from the native pixels with the contract's own bilinear sampling; the identity view equals
``Preprocess.apply`` before rounding.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Generator, Tensor

from segdeploy.training.augmentation import STRONG, Augmentation

ELASTIC_CELLS = 5
"""Control points of the elastic field along each side."""


STAIN_GAMMA = 2.5
"""Largest gamma of a channel in a stained view; the smallest is its inverse."""

PASTED = (0.25, 0.75)
"""Sides of a pasted rectangle, as shares of the view's sides."""


def random_grid(
    size: tuple[int, int], generator: Generator, augmentation: Augmentation = STRONG
) -> Tensor:
    """A random sampling grid in normalised coordinates.

    Returns:
        float32 (1, height, width, 2), as ``torch.nn.functional.grid_sample`` takes it.
    """
    quarter_turns = int(torch.randint(4, (1,), generator=generator))
    u = torch.rand(6, generator=generator).tolist()
    angle = quarter_turns * math.pi / 2 + (2 * u[0] - 1) * augmentation.tilt_radians
    narrow, wide = map(math.log, augmentation.zoom)
    zoom = math.exp(narrow + u[1] * (wide - narrow))
    stretch = 1 + (2 * u[2] - 1) * augmentation.anisotropy
    flip = -1.0 if u[3] < 0.5 else 1.0
    slack = max(0.0, 1 - zoom) + augmentation.shift
    cos, sin = math.cos(angle) * zoom, math.sin(angle) * zoom
    affine = torch.tensor(
        [
            [flip * cos * stretch, -sin / stretch, (2 * u[4] - 1) * slack],
            [flip * sin * stretch, cos / stretch, (2 * u[5] - 1) * slack],
        ]
    )
    grid = functional.affine_grid(affine[None], [1, 1, *size], align_corners=False)
    cells = (
        torch.randn(1, 2, ELASTIC_CELLS, ELASTIC_CELLS, generator=generator)
        * augmentation.elastic_std
    )
    field = functional.interpolate(cells, size=size, mode="bicubic", align_corners=True)
    return grid + field.permute(0, 2, 3, 1)


def sample(image: Tensor, grid: Tensor) -> Tensor:
    """Sample a uint8 tensor (C, H, W) on a grid: float32 (C, height, width) in 0..255."""
    return functional.grid_sample(
        image[None].float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )[0]


def jitter_colour(
    view: Tensor, generator: Generator, augmentation: Augmentation = STRONG
) -> Tensor:
    """Random stain, greyscale, gamma, contrast, brightness, channel gain, and noise.

    Args:
        view: float32 (3, height, width) in 0..255.
        generator: the source of randomness.
        augmentation: its ``colour`` scales every change.

    Returns:
        The same shape and range.
    """
    strength = augmentation.colour
    u = torch.rand(8, generator=generator).tolist()
    image = (view / 255).clamp(0, 1)
    if u[6] < augmentation.stain:
        gammas = torch.rand(3, 1, 1, generator=generator) * 2 - 1
        image = (1 - image) ** (gammas * math.log(STAIN_GAMMA)).exp()
    if u[0] < 0.15 * strength:
        image = image.mean(dim=0, keepdim=True).expand(3, -1, -1)
    image = image ** math.exp((2 * u[1] - 1) * 0.4 * strength)
    mean = image.mean()
    image = (image - mean) * (1 + (2 * u[2] - 1) * 0.3 * strength) + mean
    image = image * (1 + (2 * u[3] - 1) * 0.3 * strength)
    gains = 1 + (2 * torch.rand(3, 1, 1, generator=generator) - 1) * 0.12 * strength
    image = image * gains
    if u[4] < 0.3 * strength:
        image = image + torch.randn(image.shape, generator=generator) * 0.03 * u[5]
    coloured: Tensor = image.clamp(0, 1) * 255
    return coloured


def paste_window(
    size: tuple[int, int], generator: Generator, augmentation: Augmentation
) -> tuple[slice, slice] | None:
    """Where another view is pasted: rows and columns, or ``None`` where this view stays whole.

    Args:
        size: (height, width) of the view.
        generator: the source of randomness.
        augmentation: its ``mix`` is the share of views that do not stay whole.
    """
    if augmentation.mix == 0:
        return None
    u = torch.rand(5, generator=generator).tolist()
    if u[0] >= augmentation.mix:
        return None
    least, most = PASTED
    windows = []
    for length, share, place in zip(size, u[1:3], u[3:5], strict=True):
        side = max(1, round(length * (least + share * (most - least))))
        start = int(place * (length - side + 1))
        windows.append(slice(start, start + side))
    return windows[0], windows[1]
