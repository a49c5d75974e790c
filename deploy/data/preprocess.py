"""The input contract: how an RGB image becomes the network's input tensor, and a mask its truth.

The contract travels with the checkpoint and with every ONNX file; nothing guesses it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from PIL import Image

from segdeploy.calibration.json_record import record_of
from segdeploy.calibration.json_text import parse_json
from segdeploy.deploy.system.errors import InputError, one_line

SIZE_MULTIPLE = 16
"""Both networks pool four times, so height and width must divide by 2**4."""

MAX_SIDE = 4096
"""Height and width at most: a file that states more would take gigabytes for one image."""

MASK_THRESHOLD = 125
"""A resized grey mask is foreground where it is at least this (the published evaluation)."""

Number = Annotated[int | float, Meta(description="a number")]
"""A whole one stays whole: a file states the contract in the digits it was given."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From RGB uint8 (H, W, 3) to float32 (3, height, width).

    Resize, reorder channels, multiply by ``scale``, subtract ``mean``, divide by ``std``.
    The defaults are the contract of the published models.

    Example:
        A pixel of 255 becomes (255 * 1/255 - 0.5) / 0.5 = 1.0, a pixel of 0 becomes -1.0.

    Raises:
        InputError: a size that is not a multiple of 16, an unknown order or interpolation, or a
            scale, mean or std that is not a number.
    """

    size: tuple[int, int] = (96, 96)
    channel_order: str = "BGR"
    interpolation: str = "bilinear"
    antialias: bool = False
    scale: Number = 1.0 / 255.0
    mean: tuple[Number, Number, Number] = (0.5, 0.5, 0.5)
    std: tuple[Number, Number, Number] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        require_valid_size(self.size)
        if self.channel_order not in ("RGB", "BGR"):
            found = one_line(repr(self.channel_order), limit=60)
            raise InputError(f"channel_order is {found}; expected 'RGB' or 'BGR'")
        if self.interpolation != "bilinear":
            raise InputError(
                f"interpolation is {one_line(repr(self.interpolation), limit=60)}; only 'bilinear' "
                "is supported"
            )
        if not isinstance(self.antialias, bool):
            raise InputError(
                f"antialias is {one_line(repr(self.antialias), limit=60)}; expected true or false"
            )
        if len(self.mean) != 3 or len(self.std) != 3:
            raise InputError(
                f"mean holds {len(self.mean)} values and std {len(self.std)}; they need three "
                "values each"
            )
        _require_single_precision((self.scale, *self.mean, *self.std))
        if not all(np.float32(value) > 0 for value in (self.scale, *self.std)):
            raise InputError(
                f"scale is {self.scale} and std {self.std}; expected scale and std above zero"
            )

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn one RGB image (H, W, 3) uint8 into the input (3, height, width) float32."""
        return self.normalise(self.resized(image))

    def resized(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One RGB image (H, W, 3) uint8 at the contract's size, (height, width, 3) uint8."""
        return resize(image, self.size, antialias=self.antialias)

    def normalise(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Channel order, scale, mean and std on an image that already has the right size."""
        ordered = image[..., ::-1] if self.channel_order == "BGR" else image
        mean = np.asarray(self.mean, np.float32)
        std = np.asarray(self.std, np.float32)
        normalised = (ordered.astype(np.float32) * np.float32(self.scale) - mean) / std
        return np.ascontiguousarray(normalised.transpose(2, 0, 1))

    def apply_mask(self, mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Turn one grey mask (H, W) uint8 into the boolean truth (height, width).

        Resized bilinearly without antialiasing whatever the image's contract says, then
        thresholded at 125: the published metric is defined on exactly this truth.
        """
        truth: NDArray[np.bool_] = resize(mask[..., None], self.size)[..., 0] >= MASK_THRESHOLD
        return truth

    def to_json(self) -> str:
        """The contract as one line of JSON, the form stored in model metadata."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, *, source: str) -> Preprocess:
        """Read a contract back.

        Args:
            text: what ``to_json`` wrote, or a hand-written file with the same keys.
            source: where the text came from, for the error message.

        Raises:
            InputError: not JSON, unknown or missing keys, or values out of range.
        """
        try:
            return record_of(parse_json(text), cls, complete=True)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error
        except ValueError as error:
            raise InputError(
                f"{source} does not hold a preprocessing contract ({one_line(error)})"
            ) from error


def _require_single_precision(values: Iterable[float]) -> None:
    """Refuse what is no finite number in the arithmetic of ``normalise``.

    Raises:
        InputError: naming the value.
    """
    for value in values:
        if isinstance(value, bool) or not abs(value) <= float(np.finfo(np.float32).max):
            raise InputError(
                f"scale, mean or std is {one_line(value, limit=40)}; expected finite numbers"
            )


def require_valid_size(size: tuple[int, int]) -> None:
    """Refuse a (height, width) the networks cannot pool four times.

    Raises:
        InputError: naming the nearest valid size.
    """
    if len(size) != 2 or not all(type(side) is int for side in size):
        raise InputError(
            f"input size {one_line(size, limit=60)} is not a height and a width in whole pixels"
        )
    if max(size) > MAX_SIDE:
        raise InputError(
            f"input size {size[0]}x{size[1]} (height x width) is beyond {MAX_SIDE}; larger images "
            "are cut into tiles (predict --fit tile)"
        )
    if all(side > 0 and side % SIZE_MULTIPLE == 0 for side in size):
        return
    nearest = tuple(max(SIZE_MULTIPLE, round(s / SIZE_MULTIPLE) * SIZE_MULTIPLE) for s in size)
    raise InputError(
        f"input size {size[0]}x{size[1]} (height x width) is not a multiple of {SIZE_MULTIPLE}, "
        f"which four poolings need; the nearest valid size is {nearest[0]}x{nearest[1]}"
    )


def resize(
    image: NDArray[np.uint8], size: tuple[int, int], *, antialias: bool = False
) -> NDArray[np.uint8]:
    """Bilinear resize of (H, W, C) uint8 to (*size, C) uint8, half-pixel centres, rounded.

    Without antialiasing this is the convention of ``cv2.resize(..., INTER_LINEAR)`` (within one
    grey level: OpenCV rounds its weights to 11 bits) and of PyTorch's ``interpolate``. With it,
    Pillow's bilinear filter, whose support grows with the reduction.

    Example:
        >>> row = np.array([[[0], [100]]], np.uint8)  # one row of two pixels
        >>> resize(row, (1, 4))[0, :, 0]  # centres at -0.25, 0.25, 0.75, 1.25
        array([  0,  25,  75, 100], dtype=uint8)
    """
    if image.shape[:2] == size:
        return image
    if antialias:
        planes = [
            np.asarray(Image.fromarray(image[..., c]).resize(size[::-1], Image.Resampling.BILINEAR))
            for c in range(image.shape[2])
        ]
        return np.stack(planes, axis=-1)
    top, bottom, down = _taps(image.shape[0], size[0])
    left, right, across = _taps(image.shape[1], size[1])
    upper, lower = image[top].astype(np.float32), image[bottom].astype(np.float32)
    rows = upper + (lower - upper) * down[:, None, None]
    start, end = rows[:, left], rows[:, right]
    blended = start + (end - start) * across[None, :, None]
    return np.rint(blended).astype(np.uint8)


def _taps(
    length: int, target: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each target position: the two source indices and the weight of the second."""
    centre = ((np.arange(target, dtype=np.float64) + 0.5) * length / target - 0.5).clip(
        0, length - 1
    )
    first = np.floor(centre).astype(np.intp)
    return first, np.minimum(first + 1, length - 1), (centre - first).astype(np.float32)
