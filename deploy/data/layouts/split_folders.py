"""A set already divided into folders: ``train/ train_GT/ valid/ valid_GT/ test/ test_GT/``.

The form in which public R2U-Net code divides ISIC 2018: ``train/ISIC_<id>.jpg`` with
``train_GT/ISIC_<id>_segmentation.png``. A mask may also have its image's very name.
"""

from __future__ import annotations

from pathlib import Path

from segdeploy.deploy.data.layouts.base import Layout, RawSample
from segdeploy.deploy.data.layouts.division import Ratios, floored
from segdeploy.deploy.data.layouts.pairing import keyed, masks_of, require_paired

FOLDERS = {"train": "train", "valid": "val", "test": "test"}
"""Folder to split."""


def _recognises(raw: Path) -> bool:
    return (raw / "train").is_dir() and (raw / "train_GT").is_dir()


def _sources(raw: Path, ratios: Ratios | None) -> tuple[RawSample, ...]:
    """The images, by split and name.

    Raises:
        InputError: a folder is missing, an image without a mask, or a mask without an image.
    """
    return tuple(
        source for folder, split in FOLDERS.items() for source in _split(raw, folder, split)
    )


def _split(raw: Path, folder: str, split: str) -> list[RawSample]:
    images = keyed(raw / folder, "(.+)", example="<name>.jpg")
    truth = raw / f"{folder}_GT"
    masks = masks_of(images, truth)
    require_paired(images, masks, kind="mask", folder=truth)
    return [
        RawSample(name=name, image=images[name], masks=(masks[name],), split=split)
        for name in sorted(images)
    ]


LAYOUT = Layout(
    name="split-folders",
    expected="train/, train_GT/, valid/, valid_GT/, test/ and test_GT/",
    recognises=_recognises,
    sources=_sources,
    ratios=(0.7, 0.1, 0.2),
    sizes=floored,
)
