"""Images with masks beside them or in a sibling folder, paired by name and a suffix such as _mask.

``a.jpg`` with ``a_mask.png`` in one folder; ``imgs/a.jpg`` with ``labels/a.png``; ``scans/`` with
``scans_masks/``. Where the folders are ``images/`` and ``masks/``, it is the merged form of
``dsb2018``.
"""

from __future__ import annotations

from pathlib import Path

from segdeploy.deploy.data.image_files import image_files
from segdeploy.deploy.data.layouts.base import Layout, RawSample
from segdeploy.deploy.data.layouts.division import Ratios, rounded
from segdeploy.deploy.data.layouts.pairing import (
    MASK_WORDS,
    SOURCE_SUFFIXES,
    keyed,
    mask_key,
    masks_of,
    require_paired,
)
from segdeploy.deploy.system.errors import InputError

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "inputs", "input", "jpegimages")
MASK_FOLDERS = (
    *MASK_WORDS,
    "segmentationclass",
    "segmentationobject",
    "ground_truth",
    "groundtruths",
)


def _recognises(raw: Path) -> bool:
    return bool(_pairs(raw)) or bool(_beside(raw))


def _sources(raw: Path, ratios: Ratios | None) -> tuple[RawSample, ...]:
    """The images, by name.

    Raises:
        InputError: an image without a mask, a mask without an image, or folders that pair in
            several ways.
    """
    pairs = _pairs(raw)
    if len(pairs) > 1 or (pairs and _beside(raw)):
        shown = ", ".join(f"{images.name}/ with {masks.name}/" for images, masks in pairs)
        raise InputError(
            f"{raw} holds several pairs of folders ({shown}); say which with --images and --masks, "
            f"as --images '{pairs[0][0].name}/*' --masks '{pairs[0][1].name}/*'"
        )
    if pairs:
        folder = pairs[0][1]
        images = keyed(pairs[0][0], "(.+)", example="<name>.jpg")
        masks = masks_of(images, folder)
    else:
        folder = raw
        found = keyed(raw, "(.+)", example="<name>.jpg")
        beside = _beside(raw)
        images = {name: path for name, path in found.items() if name not in beside}
        masks = {mask_key(name): found[name] for name in beside}
    require_paired(images, masks, kind="mask", folder=folder)
    return tuple(
        RawSample(name=name, image=images[name], masks=(masks[name],)) for name in sorted(images)
    )


def _pairs(raw: Path) -> list[tuple[Path, Path]]:
    """Folders of images with a folder of masks each."""
    if not raw.is_dir():
        return []
    folders = {path.name.lower(): path for path in sorted(raw.iterdir()) if path.is_dir()}
    found = [
        (path, folders[other])
        for name, path in folders.items()
        for other in folders
        if other != name
        and ((name in IMAGE_FOLDERS and other in MASK_FOLDERS) or mask_key(other) == name)
    ]
    return [pair for pair in found if all(image_files(p, suffixes=SOURCE_SUFFIXES) for p in pair)]


def _beside(raw: Path) -> set[str]:
    """Names of files in a folder that are masks of others there."""
    names = {path.stem for path in image_files(raw, suffixes=SOURCE_SUFFIXES)}
    return {name for name in names if mask_key(name) != name and mask_key(name) in names}


LAYOUT = Layout(
    name="paired",
    expected="images with masks named like them and _mask, _segmentation or _label beside them, "
    "or in a sibling folder such as labels/",
    recognises=_recognises,
    sources=_sources,
    ratios=(0.7, 0.1, 0.2),
    sizes=rounded,
    fallback=True,
)
