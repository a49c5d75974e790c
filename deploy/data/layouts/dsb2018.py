"""Data Science Bowl 2018: the raw Kaggle folders, or images and merged masks made of them.

Raw: ``<id>/images/<id>.png`` and ``<id>/masks/*.png``, one mask a nucleus (BBBC038, stage 1), or
tables of run lengths in the folder or beside it, which are all that the test stages have.
Merged: ``images/<id>.png`` with ``masks/<id>.png`` or ``masks/0/<id>.png``, the form in which
public UNet++ code keeps it; ``splits.csv`` and ``fov/`` are taken over where they are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.data.image_files import composed, image_files
from segdeploy.deploy.data.layouts.base import Layout, RawSample
from segdeploy.deploy.data.layouts.division import Ratios, rounded
from segdeploy.deploy.data.layouts.pairing import (
    SOURCE_SUFFIXES,
    keyed,
    masks_of,
    require_paired,
)
from segdeploy.deploy.data.layouts.run_lengths import Listed, read_tables, tables_in
from segdeploy.deploy.data.splits import read_splits
from segdeploy.deploy.system.errors import InputError

STAGES = ("stage1_train", "stage1_test", "stage2_test_final")
"""Folders of the download, of which the first is taken."""

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
        composed(path.stem) == composed(folder.name)
        for folder in _image_folders(raw)
        for path in image_files(folder / "images", suffixes=SOURCE_SUFFIXES)
    )


def _sources(raw: Path, ratios: Ratios | None) -> tuple[RawSample, ...]:
    """The images, by name.

    Raises:
        InputError: an image without masks, masks without an image, two images in one folder, or
            names that do not fit ``splits.csv``.
    """
    if _is_merged(raw):
        return _merged(raw)
    listed = read_tables(tables_in(raw, raw.parent, *_stages(raw)))
    found = [_raw(folder, listed) for folder in _image_folders(raw)]
    return tuple(source for source in found if source is not None)


def _is_merged(raw: Path) -> bool:
    return (raw / "images").is_dir() and (raw / "masks").is_dir()


def _stages(raw: Path) -> list[Path]:
    """The first folder of a stage that a download holds: its training part before its tests."""
    return [raw / name for name in STAGES if (raw / name).is_dir()][:1]


def _image_folders(raw: Path) -> list[Path]:
    root = next(iter(_stages(raw)), raw)
    entries = sorted(root.iterdir()) if root.is_dir() else []
    return [p for p in entries if (p / "images").is_dir() or (p / "masks").is_dir()]


def _raw(folder: Path, listed: Mapping[str, Listed]) -> RawSample | None:
    """One image; ``None`` of one that never counted.

    An empty ``masks/`` says that there is no object, and so does a row without run lengths.
    """
    images = image_files(folder / "images", suffixes=SOURCE_SUFFIXES)
    if len(images) != 1:
        raise InputError(f"{folder / 'images'} holds {len(images)} images; expected one")
    masks = tuple(image_files(folder / "masks", suffixes=SOURCE_SUFFIXES))
    found = Listed() if masks else listed.get(folder.name)
    if found is None:
        if not (folder / "masks").is_dir():
            raise InputError(
                f"image {images[0]} has no masks in {folder / 'masks'}, and no table in "
                f"{folder.parent} or beside it lists it (ImageId,EncodedPixels)"
            )
        found = Listed()
    if found.ignored:
        return None
    return RawSample(
        name=composed(folder.name),
        image=images[0],
        masks=masks,
        runs=tuple(found.objects),
        instances=True,
    )


def _merged(raw: Path) -> tuple[RawSample, ...]:
    images = keyed(raw / "images", "(.+)", example="<id>.png")
    if not images:
        return ()
    classes = {folder.name: masks_of(images, folder) for folder in _class_folders(raw / "masks")}
    for name, masks in classes.items():
        folder = raw / "masks" / name
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
            masks=() if len(classes) > 1 else (next(iter(classes.values()))[name],),
            class_masks=tuple((each, masks[name]) for each, masks in classes.items())
            if len(classes) > 1
            else (),
            split=splits.get(name),
            field=fields.get(name),
        )
        for name in sorted(images)
    )


def _class_folders(masks: Path) -> list[Path]:
    """The folder itself, or where it holds no images the folders of classes in it."""
    entries = sorted(masks.iterdir())
    classes = [path for path in entries if path.is_dir() and not path.name.startswith(".")]
    return [masks] if image_files(masks, suffixes=SOURCE_SUFFIXES) or not classes else classes


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
        "<id>/images/<id>.png folders of the Kaggle stage-1 training set or a test stage, "
        "and no images/ with masks/"
    ),
    recognises=_recognises,
    sources=_sources,
    ratios=(0.7, 0.1, 0.2),
    sizes=rounded,
    stratum=modality_of,
)
