"""Turn the raw Kaggle stage-1 folder into the prepared layout: merged masks and a split."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.data import SPLITS, read_image
from deploy.errors import InputError, UsageError

DEFAULT_RATIOS = (0.7, 0.1, 0.2)
"""Shares of train, val and test."""

COLOUR_SATURATION = 0.04
"""Mean (max - min) / 255 over channels above which an image counts as stained."""

BRIGHT_FIELD = 0.5
"""Median brightness above which a grey image counts as bright field, not fluorescence."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One image of the prepared set, a row of ``splits.csv``."""

    image_id: str
    split: str
    width: int
    height: int
    nuclei: int
    modality: str


def prepare_raw(
    raw: Path,
    output: Path,
    *,
    seed: int = 0,
    ratios: tuple[float, float, float] = DEFAULT_RATIOS,
    progress: Callable[[Iterable[Path]], Iterable[Path]] = iter,
) -> tuple[Prepared, ...]:
    """Write ``images/``, ``masks/`` and ``splits.csv`` from ``<id>/images`` and ``<id>/masks``.

    Masks of single nuclei are merged by OR; images lose their alpha channel; the split is seeded
    and stratified by modality (fluorescence, colour, bright field, told from the pixels).

    Args:
        raw: the folder of image folders, or its parent that holds ``stage1_train``.
        output: where to write; existing files of the same name are replaced.
        seed: of the split.
        ratios: shares of train, val and test.
        progress: wraps the folders, for a progress bar.

    Returns:
        The rows of ``splits.csv``, by name.

    Raises:
        InputError: no such layout, an image without masks, or a mask of another size; the message
            names the file. ``splits.csv`` is written last, so a failed run is never taken for a
            prepared set.
        UsageError: ratios that are negative or do not sum to 1.
    """
    if len(ratios) != len(SPLITS) or not (min(ratios) >= 0 and abs(sum(ratios) - 1) <= 1e-6):
        raise UsageError(f"ratios {ratios} must be non-negative and sum to 1 (train, val, test)")
    folders = _image_folders(raw)
    for name in ("images", "masks"):
        (output / name).mkdir(parents=True, exist_ok=True)
    (output / "splits.csv").unlink(missing_ok=True)
    found = [_merge(folder, output) for folder in progress(folders)]
    splits = stratified_split({p.image_id: p.modality for p in found}, seed=seed, ratios=ratios)
    rows = tuple(
        Prepared(**{**vars(row), "split": splits[row.image_id]})
        for row in sorted(found, key=lambda row: row.image_id)
    )
    _write_splits(rows, output / "splits.csv")
    return rows


def stratified_split(
    strata: dict[str, str], *, seed: int, ratios: tuple[float, float, float] = DEFAULT_RATIOS
) -> dict[str, str]:
    """Assign names to splits so that every stratum is divided in the same ratios.

    Within a stratum of n names, the first round(n * train) of a seeded shuffle train, those up to
    round(n * (train + val)) validate, the rest test. Depends on names, strata and seed alone,
    not on the order they come in.

    Args:
        strata: name to stratum.
        seed: of the shuffle.
        ratios: shares of train, val and test.
    """
    generator = np.random.default_rng(seed)
    splits: dict[str, str] = {}
    for stratum in sorted(set(strata.values())):
        names = sorted(name for name in strata if strata[name] == stratum)
        shuffled = [names[i] for i in generator.permutation(len(names))]
        ends = np.rint(np.cumsum(ratios) * len(names)).astype(int)
        for index, name in enumerate(shuffled):
            splits[name] = SPLITS[int(np.searchsorted(ends, index, side="right"))]
    return splits


def modality_of(image: NDArray[np.uint8]) -> str:
    """Tell stained tissue, bright field and fluorescence apart by saturation and brightness.

    Args:
        image: RGB uint8 (H, W, 3).
    """
    spread = float((image.max(axis=2).astype(int) - image.min(axis=2)).mean()) / 255
    if spread > COLOUR_SATURATION:
        return "colour"
    return "bright" if float(np.median(image)) / 255 > BRIGHT_FIELD else "fluorescence"


def _image_folders(raw: Path) -> list[Path]:
    root = raw / "stage1_train" if (raw / "stage1_train").is_dir() else raw
    entries = sorted(root.iterdir()) if root.is_dir() else []
    folders = [p for p in entries if (p / "images").is_dir() or (p / "masks").is_dir()]
    if not any((folder / "images").is_dir() for folder in folders):
        raise InputError(
            f"{raw} holds no <id>/images/<id>.png folders; expected the unpacked Kaggle stage-1 "
            "training set (stage1_train.zip)"
        )
    return folders


def _merge(folder: Path, output: Path) -> Prepared:
    """Write one image and its merged mask; the split is still open."""
    images = sorted((folder / "images").glob("*.png"))
    if len(images) != 1:
        raise InputError(f"{folder / 'images'} holds {len(images)} PNG files; expected one")
    image = read_image(images[0], "RGB")
    masks = sorted((folder / "masks").glob("*.png"))
    if not masks:
        raise InputError(f"image {images[0]} has no masks in {folder / 'masks'}")
    merged = np.zeros(image.shape[:2], np.bool_)
    for path in masks:
        mask = read_image(path, "L")
        if mask.shape != merged.shape:
            raise InputError(
                f"mask {path} is {mask.shape[1]}x{mask.shape[0]} but its image is "
                f"{image.shape[1]}x{image.shape[0]} (width x height)"
            )
        merged |= mask > 0
    _write_png(Image.fromarray(image), output / "images" / f"{folder.name}.png")
    _write_png(Image.fromarray(merged), output / "masks" / f"{folder.name}.png")
    return Prepared(
        image_id=folder.name,
        split="",
        width=image.shape[1],
        height=image.shape[0],
        nuclei=len(masks),
        modality=modality_of(image),
    )


def _write_png(image: Image.Image, path: Path) -> None:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    _replace(path, buffer.getvalue())


def _write_splits(rows: tuple[Prepared, ...], path: Path) -> None:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, fieldnames=list(vars(rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(vars(row) for row in rows)
    _replace(path, stream.getvalue().encode())


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(content)
    temporary.replace(path)
