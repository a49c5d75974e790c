"""Images inside a package: for calibration, as a device's input, and to score against."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.interface import Interface
from segdeploy.deploy.system.errors import InputError


def write_pixels(images: SegmentationSet, preprocess: Preprocess, folder: Path) -> None:
    """Every image as ``NAME.png``, RGB, already of the contract's size.

    A device's own resize then has nothing left to do, so its calibration sees our pixels.

    Raises:
        InputError: an image that cannot be decoded.
    """
    folder.mkdir(parents=True)
    for sample in images:
        pixels = Interface.IMAGE.prepared(sample.image(preprocess), preprocess)
        Image.fromarray(pixels).save(folder / f"{sample.name}.png", format="PNG")


def write_tensors(images: SegmentationSet, preprocess: Preprocess, folder: Path) -> None:
    """Every image as ``NAME.bin``: raw float32 (3, height, width), through the whole contract.

    Raises:
        InputError: an image that cannot be decoded.
    """
    folder.mkdir(parents=True)
    for sample in images:
        tensor = sample.input(preprocess).astype("<f4")
        (folder / f"{sample.name}.bin").write_bytes(tensor.tobytes())


def write_evaluation(images: SegmentationSet, folder: Path) -> None:
    """Images, masks and fields of view as a prepared folder, all of it test split, bytes kept.

    Label maps stay label maps, and masks of a folder for each class stay in theirs.

    `segdeploy parity --data` reads it, wherever the device stands.

    Raises:
        OSError: a file cannot be copied.
    """
    for sample in images:
        masks = [(f"masks/{name}", path) for name, path in sample.class_paths]
        for kind, path in (
            ("images", sample.image_path),
            *(masks or [("masks", sample.mask_path)]),
            ("fov", sample.field_path),
        ):
            if path is not None:
                (folder / kind).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / kind / f"{sample.name}{path.suffix.lower()}")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image_id", "split"])
    writer.writerows([sample.name, "test"] for sample in images)
    (folder / "splits.csv").write_text(text.getvalue(), encoding="utf-8")


def verify_pixels(folder: Path, size: tuple[int, int]) -> int:
    """Read every PNG back.

    Returns:
        How many there are.

    Raises:
        InputError: none, or one that is not RGB of ``size`` (height, width).
    """
    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise InputError(f"{folder} holds no PNG image")
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image)
        if pixels.shape != (*size, 3) or pixels.dtype != np.uint8:
            raise InputError(
                f"{path} is {pixels.shape} {pixels.dtype}; expected {(*size, 3)} uint8"
            )
    return len(paths)
