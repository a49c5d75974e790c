"""Finding files by the form of their names, and saying which one has no partner."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from segdeploy.deploy.data.image_files import IMAGE_SUFFIXES, composed, image_files
from segdeploy.deploy.system.errors import InputError

SOURCE_SUFFIXES = IMAGE_SUFFIXES

MASK_WORDS = (
    "mask",
    "masks",
    "segmentation",
    "segmentations",
    "label",
    "labels",
    "seg",
    "annotation",
    "annotations",
    "gt",
    "groundtruth",
)
"""What the name of a mask, or of a folder of masks, has more than that of its image."""


def keyed(folder: Path, pattern: str, *, example: str) -> dict[str, Path]:
    """Image files of a folder by the part of their name that pairs them.

    Args:
        folder: hidden files and other kinds of files in it are left out.
        pattern: of the whole name without suffix, in any case; its first group is the key.
        example: a name that fits, for the message.

    Raises:
        InputError: no such folder, a file with another form of name, or two files of one key.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; expected files such as {example} in it")
    found: dict[str, Path] = {}
    for path in image_files(folder, suffixes=SOURCE_SUFFIXES):
        match = re.fullmatch(pattern, path.stem, re.IGNORECASE | re.DOTALL)
        if match is None:
            raise InputError(f"{path} is not named like {example}; rename it or move it away")
        _add(found, match[1], path)
    return found


def mask_key(name: str) -> str:
    """The name of an image by that of its mask.

    Example:
        >>> mask_key("a_mask"), mask_key("b-Segmentation"), mask_key("mask"), mask_key("c")
        ('a', 'b', 'mask', 'c')
    """
    words = "|".join(sorted(MASK_WORDS, key=len, reverse=True))
    match = re.fullmatch(rf"(.+?)[ _.-](?:{words})", name, re.IGNORECASE | re.DOTALL)
    return name if match is None else match[1]


def masks_of(images: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """The masks in a folder by the key of their image: its very name, or with a suffix.

    Raises:
        InputError: no such folder, or two masks of one image.
    """
    found: dict[str, Path] = {}
    for name, path in keyed(folder, "(.+)", example="<name>.png").items():
        _add(found, name if name in images else mask_key(name), path)
    return found


def files_below(folder: Path) -> Iterator[Path]:
    """Every file of a folder and all folders in it, by name; hidden ones are left out."""
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(where, name) for name in sorted(files) if not name.startswith("."))


def _add(found: dict[str, Path], name: str, path: Path) -> None:
    name = composed(name)
    if name in found:
        raise InputError(f"{found[name]} and {path} are the same item; keep one of them")
    found[name] = path


def require_paired(
    images: Mapping[str, Path], others: Mapping[str, Path], *, kind: str, folder: Path
) -> None:
    """Refuse images and masks that do not all pair.

    Args:
        images: by key.
        others: masks by key.
        kind: what to call the others.
        folder: where the others are.

    Raises:
        InputError: naming the first file without a partner, and how many more there are.
    """
    alone = sorted(images.keys() - others.keys())
    if alone:
        raise InputError(f"image {images[alone[0]]} has no {kind} in {folder}{_more(alone)}")
    alone = sorted(others.keys() - images.keys())
    if alone:
        raise InputError(f"{kind} {others[alone[0]]} belongs to no image{_more(alone)}")


def _more(alone: list[str]) -> str:
    return f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
