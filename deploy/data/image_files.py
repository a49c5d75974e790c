"""Image files: which there are in a folder, and decoding them without losing or bending a value."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.data.image_levels import decode
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.data.presets import preset
from segdeploy.deploy.system.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

EIGHT_BIT = {"RGB": Preprocess(), "L": preset("pixels", channels=1)}
"""Contracts by Pillow's mode, for what is read of them: bits and channels."""


def read_image(path: Path, mode: str) -> NDArray[np.uint8]:
    """Decode an image file to uint8 in the given Pillow mode ("RGB": (H, W, 3), "L": (H, W)).

    As ``image_levels.decode``, of 8-bit files.

    Raises:
        InputError: naming the file, likewise.
    """
    contract = EIGHT_BIT[mode]
    pixels = decode(path, contract).pixels
    return pixels.astype(np.uint8, copy=False).reshape(pixels.shape[: 2 if mode == "L" else 3])


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
