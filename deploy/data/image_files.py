"""Image files: which there are in a folder, and decoding them without losing or bending a value."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdeploy.deploy.data.image_opening import opened_image
from segdeploy.deploy.data.orientation import orientation_in
from segdeploy.deploy.system.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


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
        return Decoded(pixels=pixels, orientation=orientation_in(image))


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
    """Image files of a folder by name without suffix; accents composed, as most tools write them.

    Raises:
        InputError: two files that differ only in their suffix.
    """
    found: dict[str, Path] = {}
    for path in image_files(folder):
        name = composed(path.stem)
        if name in found:
            raise InputError(f"{found[name]} and {path} share a name; keep one of them")
        found[name] = path
    return found


def composed(name: str) -> str:
    r"""A name with each accent in one code point with its letter (NFC): macOS stores two.

    Example:
        >>> len("e\u0301"), len(composed("e\u0301"))
        (2, 1)
    """
    return unicodedata.normalize("NFC", name)


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
