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

ZOOM = (0.6, 1.3)
"""Share of the image's side that a view shows, log-uniform; above 1 the border is reflected."""
ANISOTROPY = 0.15
TILT_RADIANS = math.pi / 12
SHIFT = 0.15
ELASTIC_CELLS = 5
ELASTIC_STD = 0.02


def random_grid(size: tuple[int, int], generator: Generator) -> Tensor:
    """A random sampling grid in normalised coordinates.

    Returns:
        float32 (1, height, width, 2), as ``torch.nn.functional.grid_sample`` takes it.
    """
    quarter_turns = int(torch.randint(4, (1,), generator=generator))
    u = torch.rand(6, generator=generator).tolist()
    angle = quarter_turns * math.pi / 2 + (2 * u[0] - 1) * TILT_RADIANS
    zoom = math.exp(math.log(ZOOM[0]) + u[1] * (math.log(ZOOM[1]) - math.log(ZOOM[0])))
    stretch = 1 + (2 * u[2] - 1) * ANISOTROPY
    flip = -1.0 if u[3] < 0.5 else 1.0
    slack = max(0.0, 1 - zoom) + SHIFT
    cos, sin = math.cos(angle) * zoom, math.sin(angle) * zoom
    affine = torch.tensor(
        [
            [flip * cos * stretch, -sin / stretch, (2 * u[4] - 1) * slack],
            [flip * sin * stretch, cos / stretch, (2 * u[5] - 1) * slack],
        ]
    )
    grid = functional.affine_grid(affine[None], [1, 1, *size], align_corners=False)
    cells = torch.randn(1, 2, ELASTIC_CELLS, ELASTIC_CELLS, generator=generator) * ELASTIC_STD
    field = functional.interpolate(cells, size=size, mode="bicubic", align_corners=True)
    return grid + field.permute(0, 2, 3, 1)


def sample(image: Tensor, grid: Tensor) -> Tensor:
    """Sample a uint8 tensor (C, H, W) on a grid: float32 (C, height, width) in 0..255."""
    return functional.grid_sample(
        image[None].float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )[0]


def jitter_colour(view: Tensor, generator: Generator) -> Tensor:
    """Random gamma, contrast, brightness, channel gain, greyscale, and noise.

    Args:
        view: float32 (3, height, width) in 0..255.
        generator: the source of randomness.

    Returns:
        The same shape and range.
    """
    u = torch.rand(8, generator=generator).tolist()
    image = (view / 255).clamp(0, 1)
    if u[0] < 0.15:
        image = image.mean(dim=0, keepdim=True).expand(3, -1, -1)
    image = image ** math.exp((2 * u[1] - 1) * 0.4)
    mean = image.mean()
    image = (image - mean) * (1 + (2 * u[2] - 1) * 0.3) + mean
    image = image * (1 + (2 * u[3] - 1) * 0.3)
    gains = 1 + (2 * torch.rand(3, 1, 1, generator=generator) - 1) * 0.12
    image = image * gains
    if u[4] < 0.3:
        image = image + torch.randn(image.shape, generator=generator) * 0.03 * u[5]
    coloured: Tensor = image.clamp(0, 1) * 255
    return coloured
