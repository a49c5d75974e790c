"""Any layout, by a pattern for the images and one for the masks: what their wildcards match pairs.

``--images 'scans/*/t1.png' --masks 'scans/*/seg.tif'`` pairs by the folder, ``--images 'a/*.jpg'
--masks 'b/*_gt.png'`` by the part of the name. Where all images lie in folders called after
splits, ``train``, ``val`` and ``test``, they keep them.
"""

from __future__ import annotations

import re
from pathlib import Path

from segdeploy.deploy.data.image_files import composed
from segdeploy.deploy.data.layouts.base import Layout, RawSample
from segdeploy.deploy.data.layouts.division import Ratios, rounded
from segdeploy.deploy.data.layouts.pairing import SOURCE_SUFFIXES, files_below, require_paired
from segdeploy.deploy.system.errors import InputError, UsageError

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Folders whose images are of a split, where all images lie in such folders."""

WILDCARDS = {"**/": "((?:[^/]+/)*)", "*": "([^/]*)", "?": "([^/])"}
"""Folders of any depth, any part of a name, one letter."""


def pattern_layout(images: str, masks: str) -> Layout:
    """The layout that two patterns describe.

    Args:
        images: of image files, relative to the folder, with slashes; ``*`` and ``?`` stand for
            parts of one name, ``**/`` for any folders.
        masks: of mask files, with as many wildcards: those of a mask match what those of its image
            match, in their order.

    Raises:
        UsageError: a pattern without a wildcard, with another number of them, or that leaves the
            folder.
    """
    patterns = {"--images": images, "--masks": masks}
    counts = {}
    for flag, pattern in patterns.items():
        if pattern.startswith("/") or ".." in pattern.split("/"):
            raise UsageError(f"{flag} {pattern} leaves the folder; give a pattern inside it")
        counts[flag] = re.compile(_expression(pattern)).groups
    if 0 in counts.values() or len(set(counts.values())) > 1:
        raise UsageError(
            f"--images {images} has {counts['--images']} wildcards and --masks {masks} "
            f"{counts['--masks']}; expected as many, at least one: what they match pairs the files"
        )
    if images == masks:
        raise UsageError(f"--images and --masks are both {images}; an image is not its own mask")

    def sources(raw: Path, ratios: Ratios | None) -> tuple[RawSample, ...]:
        found = {flag: _matching(raw, pattern, flag) for flag, pattern in patterns.items()}
        require_paired(*found.values(), kind="mask", folder=raw / masks)
        splits = {name: _split_of(path, raw) for name, path in found["--images"].items()}
        told = all(splits.values()) and len(set(splits.values())) > 1
        return tuple(
            RawSample(
                name=name,
                image=path,
                masks=(found["--masks"][name],),
                split=splits[name] if told else None,
            )
            for name, path in sorted(found["--images"].items())
        )

    return Layout(
        name="patterns",
        expected=f"{images} with {masks}",
        recognises=Path.is_dir,
        sources=sources,
        ratios=(0.7, 0.1, 0.2),
        sizes=rounded,
    )


def _split_of(path: Path, raw: Path) -> str | None:
    """The split that a folder above an image is named after."""
    folders = (part.lower() for part in path.relative_to(raw).parts[:-1])
    return next((SPLIT_FOLDERS[part] for part in folders if part in SPLIT_FOLDERS), None)


def _expression(pattern: str) -> str:
    """A regular expression with a group for each wildcard.

    Example:
        >>> re.fullmatch(_expression("a/**/x_*.png"), "a/b/c/x_1.png").groups()
        ('b/c/', '1')
    """
    parts = re.split(r"(\*\*/|\*|\?)", pattern)
    return "".join(WILDCARDS.get(part) or re.escape(part) for part in parts)


def _matching(raw: Path, pattern: str, flag: str) -> dict[str, Path]:
    """Image files by what the wildcards match.

    Raises:
        InputError: none, or two of one name.
    """
    expression = re.compile(_expression(composed(pattern)), re.IGNORECASE | re.DOTALL)
    found: dict[str, Path] = {}
    for path in files_below(raw):
        match = expression.fullmatch(composed(path.relative_to(raw).as_posix()))
        if match is None or path.suffix.lower() not in SOURCE_SUFFIXES:
            continue
        words = [word.strip("/").replace("/", "_") for word in match.groups()]
        name = "_".join(filter(None, words))
        if not name:
            raise InputError(f"{flag} {pattern} matches {path} with nothing to name it by")
        if name in found:
            raise InputError(f"{found[name]} and {path} are both {name!r} by {flag} {pattern}")
        found[name] = path
    if not found:
        raise InputError(
            f"{flag} {pattern} matches no image in {raw} ({', '.join(SOURCE_SUFFIXES)})"
        )
    return found
