"""Writing one image of a prepared set, and its table of splits. No file is ever half there.

Decoded pixels are kept exactly. A JPEG file is copied as it is: as PNG it would hold the same
pixels in several times the space. Everything else becomes PNG.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdeploy.calibration.files import atomic_writer, write_atomic
from segdeploy.deploy.data.image_files import read_image
from segdeploy.deploy.data.layouts.base import RawSample
from segdeploy.deploy.data.mask_files import read_field, read_mask, require_size

COPIED_SUFFIXES = (".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One image of the prepared set, a row of ``splits.csv``.

    ``nuclei`` and ``modality`` are columns where the layout tells them.
    """

    image_id: str
    split: str
    width: int
    height: int
    nuclei: int | None = None
    modality: str | None = None


def targets(source: RawSample) -> dict[str, str]:
    """Folder of the prepared set to the name of the file written there for one image."""
    suffix = source.image.suffix.lower()
    kept = suffix if suffix in COPIED_SUFFIXES else ".png"
    files = {"images": source.name + kept, "masks": f"{source.name}.png"}
    return files if source.field is None else {**files, "fov": f"{source.name}.png"}


def write_image(source: RawSample, image: NDArray[np.uint8], output: Path) -> None:
    """Write an image with its mask and field of view into folders that exist.

    Args:
        source: where the files are.
        image: the decoded image, RGB (H, W, 3).
        output: the prepared folder.

    Raises:
        InputError: a mask that cannot be decoded, has another size, or small values only.
    """
    size = image.shape[:2]
    paths = {folder: output / folder / file for folder, file in targets(source).items()}
    _write_png(_mask(source, size), paths["masks"])
    if source.field is not None:
        field = read_field(source.field, image_path=source.image, size=size)
        _write_png(field, paths["fov"])
    if paths["images"].suffix not in COPIED_SUFFIXES:
        _write_png(image, paths["images"])
        return
    with source.image.open("rb") as content, atomic_writer(paths["images"]) as stream:
        shutil.copyfileobj(content, stream)


def write_splits(rows: Sequence[Prepared], path: Path) -> None:
    """Write the table; a column that the layout does not tell is left out."""
    names = [name for name, value in vars(rows[0]).items() if value is not None]
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(vars(row) for row in rows)
    write_atomic(path, stream.getvalue().encode())


def _mask(source: RawSample, size: tuple[int, int]) -> NDArray[np.uint8] | NDArray[np.bool_]:
    """The mask (H, W) of an image: grey as it is, or the union of its objects."""
    if not source.instances:
        return read_mask(source.masks[0], image_path=source.image, size=size)
    merged = np.zeros(size, np.bool_)
    for path in source.masks:
        mask = read_image(path, "L")
        require_size(mask.shape, size, path=path, image_path=source.image)
        merged |= mask > 0
    return merged


def _write_png(pixels: NDArray[np.uint8] | NDArray[np.bool_], path: Path) -> None:
    with atomic_writer(path) as stream:
        Image.fromarray(pixels).save(stream, format="PNG")
