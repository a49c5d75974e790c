"""Finding files by the form of their names, and saying which one has no partner."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from segdeploy.deploy.data.image_files import IMAGE_SUFFIXES, image_files
from segdeploy.deploy.system.errors import InputError

SOURCE_SUFFIXES = (*IMAGE_SUFFIXES, ".gif")


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
        if match[1] in found:
            raise InputError(f"{found[match[1]]} and {path} are the same item; keep one of them")
        found[match[1]] = path
    return found


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
