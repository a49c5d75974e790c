"""Image files: which there are in a folder, and decoding them without losing or bending a value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdeploy.deploy.data.image_opening import opened_image
from segdeploy.deploy.data.preprocess import MASK_THRESHOLD
from segdeploy.deploy.system.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

EXIF_ORIENTATION = 274
"""The EXIF tag that says how a viewer should turn an image; no pixel here is ever turned by it."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """An image as it is stored.

    Attributes:
        pixels: RGB uint8 (H, W, 3), not turned.
        orientation: what EXIF says of it, 1 (upright) to 8; 1 where it says nothing.
    """

    pixels: NDArray[np.uint8]
    orientation: int


def decode_image(content: bytes, *, path: Path) -> Decoded:
    """Decode the bytes of an image file to RGB, as ``read_image`` does.

    Args:
        content: of the file.
        path: where it is from, for messages.

    Raises:
        InputError: naming the file, as ``read_image``.
    """
    with opened_image(path, content) as image:
        pixels = _pixels(image, "RGB", path)
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    known = isinstance(orientation, int) and 1 <= orientation <= 8
    return Decoded(pixels=pixels, orientation=orientation if known else 1)


def read_image(path: Path, mode: str) -> NDArray[np.uint8]:
    """Decode an image file to uint8 in the given Pillow mode ("RGB": (H, W, 3), "L": (H, W)).

    A palette is applied; an alpha channel is dropped, and the colour below it kept; CMYK becomes
    RGB without its colour profile. Pixels stay where they are stored, whatever EXIF says of
    turning them.

    Raises:
        InputError: naming the file, when it is refused by ``opened_image``, cannot be decoded, or
            has more than 8 bits a channel, which a conversion would clip or cut.
    """
    with opened_image(path) as image:
        return _pixels(image, mode, path)


def read_mask(
    path: Path, *, image_path: Path, size: tuple[int, int], kind: str = "mask"
) -> NDArray[np.uint8]:
    """Decode the mask of an image: grey uint8 (H, W), foreground from 125 on.

    Args:
        path: the mask.
        image_path: its image, for the message.
        size: (H, W) of that image.
        kind: what to call the mask in messages.

    Raises:
        InputError: naming the file, when it cannot be decoded, has another size, or holds small
            values only, such as a mask of 0 and 1.
    """
    mask = read_image(path, "L")
    require_size(mask, size, path=path, image_path=image_path, kind=kind)
    if 0 < mask.max() < MASK_THRESHOLD:
        raise InputError(
            f"{kind} {path} holds values up to {mask.max()} only; foreground is "
            f"{MASK_THRESHOLD} to 255. Multiply a mask of 0 and 1 by 255"
        )
    return mask


def require_size(
    mask: NDArray[np.uint8],
    size: tuple[int, int],
    *,
    path: Path,
    image_path: Path,
    kind: str = "mask",
) -> None:
    """Refuse a mask that has not its image's size.

    Raises:
        InputError: naming both files and sizes.
    """
    if mask.shape != size:
        raise InputError(
            f"{kind} {path} is {mask.shape[1]}x{mask.shape[0]} but its image {image_path.name} is "
            f"{size[1]}x{size[0]} (width x height); masks must have their image's size"
        )


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image file, from its header alone.

    Raises:
        InputError: naming the file, when it is missing or no image.
    """
    with opened_image(path) as image:
        return image.height, image.width


def image_files(folder: Path, *, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """Image files of a folder in name order; none where there is no folder.

    Hidden files are left out: archives made on macOS hold ``._name.png`` beside ``name.png``.
    """
    return sorted(
        path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )


def by_stem(folder: Path) -> dict[str, Path]:
    """Image files of a folder by name without suffix.

    Raises:
        InputError: two files that differ only in their suffix.
    """
    found: dict[str, Path] = {}
    for path in image_files(folder):
        if path.stem in found:
            raise InputError(f"{found[path.stem]} and {path} share a name; keep one of them")
        found[path.stem] = path
    return found


def _pixels(image: Image.Image, mode: str, path: Path) -> NDArray[np.uint8]:
    """The pixels of an open image in a mode."""
    if _is_deep(image):
        raise InputError(
            f"image {path} has 16 bits a channel or more (mode {image.mode}); expected 8. "
            "Scale it to 8 bits a channel first"
        )
    return np.asarray(image.convert(mode))


def _is_deep(image: Image.Image) -> bool:
    """Whether a file holds more than 8 bits a channel.

    Pillow says so by the mode only where there is one channel: it cuts a 16-bit RGB file to 8
    bits and calls it RGB, and only the form of the stored data tells.
    """
    if image.mode.startswith(("I", "F")):
        return True
    stored = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))
    return image.format in ("PNG", "TIFF") and ";16" in stored
