"""Data Science Bowl 2018: the raw Kaggle folders, or images and merged masks made of them.

Raw: ``<id>/images/<id>.png`` and ``<id>/masks/*.png``, one mask a nucleus (BBBC038, stage 1).
Merged: ``images/<id>.png`` with ``masks/<id>.png`` or ``masks/0/<id>.png``, the form in which
public UNet++ code keeps it; ``splits.csv`` and ``fov/`` are taken over where they are there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.data.image_files import image_files
from segdeploy.deploy.data.layouts.base import Layout, RawSample
from segdeploy.deploy.data.layouts.division import Ratios, rounded
from segdeploy.deploy.data.layouts.pairing import SOURCE_SUFFIXES, keyed, require_paired
from segdeploy.deploy.data.splits import read_splits
from segdeploy.deploy.system.errors import InputError

COLOUR_SATURATION = 0.04
"""Mean (max - min) / 255 over channels above which an image counts as stained."""

BRIGHT_FIELD = 0.5
"""Median brightness above which a grey image counts as bright field, not fluorescence."""


def modality_of(image: NDArray[np.uint8]) -> str:
    """Tell stained tissue, bright field and fluorescence apart by saturation and brightness.

    Args:
        image: RGB uint8 (H, W, 3).
    """
    spread = float((image.max(axis=2).astype(int) - image.min(axis=2)).mean()) / 255
    if spread > COLOUR_SATURATION:
        return "colour"
    return "bright" if float(np.median(image)) / 255 > BRIGHT_FIELD else "fluorescence"


def _recognises(raw: Path) -> bool:
    return _is_merged(raw) or any(
        (folder / "images" / f"{folder.name}.png").is_file() for folder in _image_folders(raw)
    )


def _sources(raw: Path, ratios: Ratios | None) -> tuple[RawSample, ...]:
    """The images, by name.

    Raises:
        InputError: an image without masks, masks without an image, two images in one folder, or
            names that do not fit ``splits.csv``.
    """
    if _is_merged(raw):
        return _merged(raw)
    return tuple(_raw(folder) for folder in _image_folders(raw))


def _is_merged(raw: Path) -> bool:
    return (raw / "images").is_dir() and (raw / "masks").is_dir()


def _image_folders(raw: Path) -> list[Path]:
    root = raw / "stage1_train" if (raw / "stage1_train").is_dir() else raw
    entries = sorted(root.iterdir()) if root.is_dir() else []
    return [p for p in entries if (p / "images").is_dir() or (p / "masks").is_dir()]


def _raw(folder: Path) -> RawSample:
    images = image_files(folder / "images", suffixes=(".png",))
    if len(images) != 1:
        raise InputError(f"{folder / 'images'} holds {len(images)} PNG files; expected one")
    masks = image_files(folder / "masks", suffixes=(".png",))
    if not masks:
        raise InputError(f"image {images[0]} has no masks in {folder / 'masks'}")
    return RawSample(name=folder.name, image=images[0], masks=tuple(masks), instances=True)


def _merged(raw: Path) -> tuple[RawSample, ...]:
    folder = _mask_folder(raw / "masks")
    images = keyed(raw / "images", "(.+)", example="<id>.png")
    masks = keyed(folder, "(.+)", example="<id>.png")
    require_paired(images, masks, kind="mask", folder=folder)
    fields: dict[str, Path] = {}
    if (raw / "fov").is_dir():
        fields = keyed(raw / "fov", "(.+)", example="<id>.png")
        require_paired(images, fields, kind="field of view", folder=raw / "fov")
    splits = _splits_of(images, raw / "splits.csv")
    return tuple(
        RawSample(
            name=name,
            image=images[name],
            masks=(masks[name],),
            split=splits.get(name),
            field=fields.get(name),
        )
        for name in sorted(images)
    )


def _mask_folder(masks: Path) -> Path:
    """The folder itself, or where it holds no images the one folder of a class in it."""
    entries = sorted(masks.iterdir())
    classes = [path for path in entries if path.is_dir() and not path.name.startswith(".")]
    if image_files(masks, suffixes=SOURCE_SUFFIXES) or not classes:
        return masks
    if len(classes) > 1:
        raise InputError(
            f"{masks} holds several classes ({', '.join(path.name for path in classes)}); "
            "only one foreground class is supported"
        )
    return classes[0]


def _splits_of(images: dict[str, Path], path: Path) -> dict[str, str]:
    """The splits that the folder already has, for every image or for none."""
    if not path.is_file():
        return {}
    splits = read_splits(path)
    for name in sorted(images.keys() ^ splits.keys()):
        if name in images:
            raise InputError(f"image {images[name]} is in no split of {path}; add it or remove one")
        raise InputError(f"{path} lists {name!r}, but there is no such image")
    return splits


LAYOUT = Layout(
    name="dsb2018",
    expected=(
        "<id>/images/<id>.png folders of the Kaggle stage-1 training set, "
        "and no images/ with masks/"
    ),
    recognises=_recognises,
    sources=_sources,
    ratios=(0.7, 0.1, 0.2),
    sizes=rounded,
    stratum=modality_of,
)
