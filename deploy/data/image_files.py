"""Image files: which there are in a folder, and decoding them without losing or bending a value."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.data.image_levels import decode
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.data.presets import preset
from segdeploy.deploy.system.errors import InputError, one_line

# fmt: off
IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".gif", ".webp",
)
# fmt: on

SHOWN_NAMES = 6

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
    return [folder / name for name in image_names(folder, suffixes=suffixes)]


def image_names(folder: Path, *, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[str]:
    """The names of ``image_files``, which take a tenth of the memory."""
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(
        name for name in names if not name.startswith(".") and Path(name).suffix.lower() in suffixes
    )


def left_out(folder: Path) -> list[str]:
    """What a folder holds beside its image files, by name: other files, and folders.

    Example:
        ``["notes.txt", "more/ (12 images)"]``; hidden entries are not listed.
    """
    entries = folder.iterdir() if folder.is_dir() else ()
    others = sorted(
        path
        for path in entries
        if not path.name.startswith(".") and (not is_image(path.name) or path.is_dir())
    )
    return [
        f"{path.name}/ ({_count(path)} images)" if path.is_dir() else path.name for path in others
    ]


def _count(folder: Path) -> int:
    """Image files in a folder and all folders in it."""
    return sum(is_image(name) for _, _, files in os.walk(folder) for name in files)


def is_image(name: str) -> bool:
    """Whether a file is an image by its name; hidden files are not."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def some_names(names: Sequence[str]) -> str:
    """A few of many names, in one line.

    Example:
        >>> some_names(list("abcdefgh"))
        'a, b, c, d, e, f and 2 more'
    """
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return one_line(", ".join(names[:SHOWN_NAMES]) + more)


def by_stem(folder: Path) -> dict[str, str]:
    """Names of image files by name without suffix; accents composed, as most tools write them.

    Raises:
        InputError: two files that differ only in their suffix.
    """
    found: dict[str, str] = {}
    for file in image_names(folder):
        name = composed(Path(file).stem)
        if name in found:
            raise InputError(
                f"{folder / found[name]} and {folder / file} share a name; keep one of them"
            )
        found[name] = file
    return found


def composed(name: str) -> str:
    r"""A name with each accent in one code point with its letter (NFC): macOS stores two.

    Example:
        >>> len("e\u0301"), len(composed("e\u0301"))
        (2, 1)
    """
    return unicodedata.normalize("NFC", name)
