"""Writing one image of a prepared set, and its table of splits. No file is ever half there.

Decoded pixels are kept exactly. A JPEG file is copied as it is: as PNG it would hold the same
pixels in several times the space. So are files of 16 bits and of bands. Everything else becomes
PNG; a page of more than 8-bit colours becomes TIFF under that name: content decides, no suffix.
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
from segdeploy.deploy.data.image_opening import opened_image
from segdeploy.deploy.data.layouts.base import RawSample
from segdeploy.deploy.data.layouts.run_lengths import decoded_runs
from segdeploy.deploy.data.mask_files import (
    WHITE,
    BinaryMask,
    Foreground,
    Reading,
    read_binary,
    read_field,
    require_size,
)
from segdeploy.deploy.data.orientation import require_upright
from segdeploy.deploy.data.preprocess import Pixels
from segdeploy.deploy.data.raw_images import RawImages
from segdeploy.deploy.data.resizing import Size
from segdeploy.deploy.system.errors import InputError

COPIED_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")

COLOURS = 3


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


def targets(source: RawSample, images: RawImages) -> dict[str, str]:
    """Folder of the prepared set to the name of the file written there for one image.

    Raises:
        InputError: the image is none.
    """
    kept = _kept_suffix(source.image, images) or ".png"
    drawn = [f"masks/{name}" for name, _ in source.class_masks] or ["masks"]
    drawn += [] if source.field is None else ["fov"]
    return {"images": source.name + kept} | dict.fromkeys(drawn, f"{source.name}.png")


def write_image(
    source: RawSample,
    image: Pixels,
    output: Path,
    *,
    images: RawImages,
    foreground: Foreground | None = None,
    label_maps: bool = False,
) -> BinaryMask | None:
    """Write an image with its mask and field of view into folders that exist.

    Args:
        source: where the files are.
        image: the decoded image, (H, W, channels).
        output: the prepared folder.
        images: how images are read.
        foreground: which values of masks are; ``None`` tells from the values.
        label_maps: masks hold the class of each pixel, and stay what they are.

    Returns:
        Its mask; ``None`` of several classes.

    Raises:
        InputError: a mask that cannot be decoded, has another size, or values that may mean several
            things, or an image that EXIF turns.
    """
    size = image.shape[:2]
    paths = {folder: output / folder / file for folder, file in targets(source, images).items()}
    for drawn in source.files[1:] or ([source.image] if source.runs else []):
        require_upright(source.image, drawn=drawn, size=size)
    mask = None
    if label_maps and source.masks:
        _copy_label_map(source.masks[0], paths["masks"], image_path=source.image, size=size)
    elif source.class_masks:
        for name, path in source.class_masks:
            found = read_binary(path, image_path=source.image, size=size, foreground=foreground)
            _write_png(found.grey, paths[f"masks/{name}"])
    else:
        mask = _mask(source, size, foreground)
        _write_png(mask.grey > 0 if source.instances else mask.grey, paths["masks"])
    if source.field is not None:
        field = read_field(source.field, image_path=source.image, size=size)
        _write_png(field, paths["fov"])
    if _kept_suffix(source.image, images) is None:
        _write_image(image, paths["images"])
        return mask
    with source.image.open("rb") as content, atomic_writer(paths["images"]) as stream:
        shutil.copyfileobj(content, stream)
    return mask


def write_splits(rows: Sequence[Prepared], path: Path) -> None:
    """Write the table; a column that the layout does not tell is left out."""
    names = [name for name in vars(rows[0]) if any(vars(row)[name] is not None for row in rows)]
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(vars(row) for row in rows)
    write_atomic(path, stream.getvalue().encode())


def _mask(source: RawSample, size: Size, foreground: Foreground | None) -> BinaryMask:
    """The mask (H, W) of an image: grey as it is, or the union of its objects."""
    if not source.instances:
        return read_binary(
            source.masks[0], image_path=source.image, size=size, foreground=foreground
        )
    merged = np.zeros(size, np.bool_)
    for path in source.masks:
        mask = read_binary(path, image_path=source.image, size=size, foreground=Foreground())
        merged |= mask.grey > 0
    for where, text in source.runs:
        merged |= decoded_runs(text, size, where=where)
    return BinaryMask(
        grey=merged.astype(np.uint8) * np.uint8(WHITE),
        reading=Reading.OBJECTS,
        objects=len(source.masks) + len(source.runs),
    )


def _copy_label_map(path: Path, target: Path, *, image_path: Path, size: Size) -> None:
    """A label map with its values and palette as they are; as PNG where it is another file."""
    with opened_image(path) as image:
        found = (image.height, image.width)
        require_size(found, size, path=path, image_path=image_path, kind="label map")
        if image.format in ("JPEG", "MPO"):
            raise InputError(f"label map {path} is JPEG, which changes values; save it as PNG")
        image.load()
        stream = io.BytesIO()
        image.save(stream, format="PNG")
    write_atomic(target, path.read_bytes() if image.format == "PNG" else stream.getvalue())


def _kept_suffix(path: Path, images: RawImages) -> str | None:
    """Of an image that is copied as it is, in lower case; ``None`` where it is written anew."""
    if images.levels is None and images.page is None and path.suffix.lower() in COPIED_SUFFIXES:
        return path.suffix.lower()
    return images.suffix(path)


def _write_image(pixels: Pixels, path: Path) -> None:
    """One picture: a PNG file, or of a page of more bits or bands a TIFF file by another name."""
    if pixels.dtype == np.uint8 and pixels.shape[2] == COLOURS:
        _write_png(pixels, path)
        return
    import tifffile

    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        pixels if pixels.shape[2] > 1 else pixels[..., 0],
        photometric="rgb" if pixels.shape[2] == COLOURS else "minisblack",
        planarconfig="contig" if pixels.shape[2] > 1 else None,
        compression="zlib",
        metadata=None,
        software=False,
    )
    write_atomic(path, stream.getvalue())


def _write_png(pixels: Pixels | NDArray[np.bool_], path: Path) -> None:
    with atomic_writer(path) as stream:
        Image.fromarray(pixels).save(stream, format="PNG")
