"""Resizing images: each filter in the convention of the library that made it common.

Without antialiasing a filter reads its few nearest pixels, as OpenCV's and PyTorch's do; with it
its support grows with the reduction, as in Pillow and torchvision. All but ``nearest`` have
half-pixel centres.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Level = TypeVar("Level", bound=np.unsignedinteger[Any])
"""Of a channel of a pixel: uint8 or uint16."""

Size = tuple[int, int]
"""Height and width in pixels."""

Indices = NDArray[np.intp]

Taps = tuple[Indices, NDArray[np.float32]]
"""For each target position its source indices and their weights, both (target, count)."""

ANTIALIASED = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""What has a form with antialiasing, by Pillow's name for it."""

CUBIC = -0.75
"""The sharpness of OpenCV's and PyTorch's bicubic; Pillow's, of the antialiased one, is -0.5."""

LANCZOS_LOBES = 4
"""Of OpenCV's ``INTER_LANCZOS4``; Pillow's, of the antialiased one, has 3."""


def resize(
    image: NDArray[Level],
    size: Size,
    *,
    interpolation: str = "bilinear",
    antialias: bool = False,
) -> NDArray[Level]:
    """Resize (H, W, C) to (*size, C), rounded to whole levels.

    ====================== =============================== ==========================
    ``interpolation``      without antialiasing            with it
    ====================== =============================== ==========================
    nearest                cv2 and torch: floor of i*scale none
    nearest-exact          Pillow, torch: of (i+0.5)*scale none
    bilinear               cv2, torch                      Pillow, torchvision
    bicubic                cv2, torch                      Pillow, torchvision
    area                   cv2: mean of what is covered    none: it averages anyway
    lanczos                cv2's, of 8 pixels              Pillow's, of 6
    ====================== =============================== ==========================

    Within one grey level of them: OpenCV rounds its weights to 11 bits, Pillow after each of its
    two directions.

    Example:
        >>> row = np.array([[[0], [100]]], np.uint8)  # one row of two pixels
        >>> resize(row, (1, 4))[0, :, 0]  # centres at -0.25, 0.25, 0.75, 1.25
        array([  0,  25,  75, 100], dtype=uint8)
        >>> resize(row, (1, 4), interpolation="nearest")[0, :, 0]
        array([  0,   0, 100, 100], dtype=uint8)

    Args:
        image: uint8 or uint16.
        size: height and width.
        interpolation: one of ``INTERPOLATIONS``.
        antialias: of those in ``ANTIALIASED``.
    """
    if image.shape[:2] == size:
        return image
    if antialias:
        return _by_pillow(image, size, ANTIALIASED[interpolation])
    if interpolation in NEAREST:
        rows, columns = (
            NEAREST[interpolation](length, target)
            for length, target in zip(image.shape[:2], size, strict=True)
        )
        return image[rows[:, None], columns]
    if interpolation == "bilinear":
        return _bilinear(image, size)
    if interpolation == "area":
        enlarged = any(has < asked for has, asked in zip(image.shape[:2], size, strict=True))
        taps = _steps if enlarged else _cover
    else:
        taps = _cubic if interpolation == "bicubic" else _lanczos
    (rows, down), (columns, across) = (
        taps(length, target) for length, target in zip(image.shape[:2], size, strict=True)
    )
    values = _summed(image, rows, down)
    return _whole(_summed(values.swapaxes(0, 1), columns, across).swapaxes(0, 1), image.dtype)


def _bilinear(image: NDArray[Level], size: Size) -> NDArray[Level]:
    top, bottom, down = _pairs(image.shape[0], size[0])
    left, right, across = _pairs(image.shape[1], size[1])
    upper, lower = image[top].astype(np.float32), image[bottom].astype(np.float32)
    rows = upper + (lower - upper) * down[:, None, None]
    start, end = rows[:, left], rows[:, right]
    blended = start + (end - start) * across[None, :, None]
    return np.rint(blended).astype(image.dtype)


def _pairs(length: int, target: int) -> tuple[Indices, Indices, NDArray[np.float32]]:
    """For each target position: the two source indices and the weight of the second."""
    centre = ((np.arange(target, dtype=np.float64) + 0.5) * length / target - 0.5).clip(
        0, length - 1
    )
    first = np.floor(centre).astype(np.intp)
    return first, np.minimum(first + 1, length - 1), (centre - first).astype(np.float32)


def _floor(length: int, target: int) -> Indices:
    """OpenCV's arithmetic, which decides where a position lies on the edge of two pixels."""
    found: Indices = np.floor(np.arange(target) * (1 / (target / length))).astype(np.intp)
    return found.clip(0, length - 1)


def _centre(length: int, target: int) -> Indices:
    """Pillow's arithmetic: step by step."""
    steps = np.full(target, length / target)
    steps[0] /= 2
    found: Indices = np.floor(np.cumsum(steps)).astype(np.intp)
    return found.clip(0, length - 1)


NEAREST: dict[str, Callable[[int, int], Indices]] = {
    "nearest": _floor,
    "nearest-exact": _centre,
}
"""Source index of each target position."""

INTERPOLATIONS = (*NEAREST, "bilinear", "bicubic", "area", "lanczos")


def _cubic(length: int, target: int) -> Taps:
    first, past = _split(length, target)
    distance = np.abs(past[:, None] - np.arange(-1, 3))
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    return _clamped(first[:, None] + np.arange(-1, 3), np.where(distance <= 1, near, far), length)


def _lanczos(length: int, target: int) -> Taps:
    first, past = _split(length, target)
    steps = np.arange(1 - LANCZOS_LOBES, LANCZOS_LOBES + 1)
    distance = past[:, None] - steps
    weights = np.sinc(distance) * np.sinc(distance / LANCZOS_LOBES)
    weights /= weights.sum(axis=1, keepdims=True)
    return _clamped(first[:, None] + steps, weights, length)


def _cover(length: int, target: int) -> Taps:
    """How much of each source pixel lies under a target pixel, of an axis that shrinks."""
    scale = length / target
    start = np.arange(target) * scale
    first = np.floor(start + 1e-9).astype(np.intp)
    indices = first[:, None] + np.arange(int(np.ceil(scale)) + 1)
    left, right = np.maximum(indices, start[:, None]), indices + 1.0
    weights = (np.minimum(right, (start + scale)[:, None]) - left).clip(0)
    return _clamped(indices, weights / weights.sum(axis=1, keepdims=True), length)


def _steps(length: int, target: int) -> Taps:
    """What OpenCV takes for ``area`` where an axis grows: flat steps with short ramps."""
    index = np.arange(target)
    first = np.floor(index * (1 / (target / length)))
    past = ((index + 1) - (first + 1) * (target / length)).astype(np.float32)
    past = np.where(past <= 0, 0, past - np.floor(past))
    return _clamped(
        first.astype(np.intp)[:, None] + np.arange(2), np.stack([1 - past, past], axis=1), length
    )


def _split(length: int, target: int) -> tuple[Indices, NDArray[np.float64]]:
    """Where each target centre lies: the source index below it, and how far past that."""
    centre = (np.arange(target, dtype=np.float64) + 0.5) * length / target - 0.5
    first = np.floor(centre)
    return first.astype(np.intp), centre - first


def _clamped(indices: Indices, weights: NDArray[np.float64], length: int) -> Taps:
    """The last pixel stands for all beyond it."""
    return indices.clip(0, length - 1), weights.astype(np.float32)


def _summed(
    image: NDArray[np.unsignedinteger[Any]] | NDArray[np.float32],
    indices: Indices,
    weights: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Weighted sums along the first axis."""
    total = np.zeros((len(indices), *image.shape[1:]), np.float32)
    for column in range(indices.shape[1]):
        total += image[indices[:, column]] * weights[:, column, None, None]
    return total


def _by_pillow(image: NDArray[Level], size: Size, resampling: Image.Resampling) -> NDArray[Level]:
    """Plane by plane: 8 bits in whole levels, 16 bits in float32, for which Pillow has filters."""
    deep = image.dtype == np.uint16
    planes = [
        np.asarray(
            Image.fromarray(plane.astype(np.float32) if deep else plane).resize(
                size[::-1], resampling
            )
        )
        for plane in np.moveaxis(image, -1, 0)
    ]
    return _whole(np.stack(planes, axis=-1), image.dtype)


def _whole(values: NDArray[np.float32], dtype: np.dtype[Level]) -> NDArray[Level]:
    """Rounded to levels that the type has: sharp filters overshoot."""
    if values.dtype == dtype:
        return values  # type: ignore[return-value]  # told by its dtype
    return np.rint(values).clip(0, np.iinfo(dtype).max).astype(dtype)
