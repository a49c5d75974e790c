"""Sets of images and masks: reading, pairing, splits, and preparing the raw Kaggle layout."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.errors import InputError
from deploy.interface import Interface
from deploy.preprocess import MASK_THRESHOLD, Preprocess

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
LAYOUT_HELP = (
    "expected a folder with images/<name>.png, masks/<name>.png and splits.csv "
    "(columns image_id,split); make one with `segdeploy data prepare RAW -o DIR`"
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image and its mask, paired by name."""

    name: str
    image_path: Path
    mask_path: Path

    def image(self) -> NDArray[np.uint8]:
        """RGB uint8 (H, W, 3).

        Raises:
            InputError: the file cannot be decoded.
        """
        return read_image(self.image_path, "RGB")

    def mask(self) -> NDArray[np.uint8]:
        """Grey uint8 (H, W), the size of the image.

        Raises:
            InputError: mask or image cannot be decoded, or their sizes differ.
        """
        mask = read_image(self.mask_path, "L")
        with _opened(self.image_path) as image:
            expected = (image.height, image.width)
        if mask.shape != expected:
            raise InputError(
                f"mask {self.mask_path} is {mask.shape[1]}x{mask.shape[0]} but its image "
                f"{self.image_path.name} is {expected[1]}x{expected[0]} (width x height); "
                "masks must have their image's size"
            )
        if 0 < mask.max() < MASK_THRESHOLD:
            raise InputError(
                f"mask {self.mask_path} holds values up to {mask.max()} only; foreground is "
                f"{MASK_THRESHOLD} to 255. Multiply a mask of 0 and 1 by 255"
            )
        return mask


@dataclass(frozen=True, kw_only=True)
class SegmentationSet:
    """An ordered, non-empty set of samples of one split."""

    root: Path
    split: str
    samples: tuple[Sample, ...]

    def __post_init__(self) -> None:
        if not self.samples:
            raise InputError(f"{self.root}: split {self.split!r} holds no images; {LAYOUT_HELP}")

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def take(self, count: int | None, *, seed: int) -> SegmentationSet:
        """A seeded random subset of ``count`` samples, in name order; all of them for ``None``.

        Raises:
            InputError: ``count`` is below 1 or above what the split holds.
        """
        if count is None or count == len(self):
            return self
        if not 1 <= count <= len(self):
            raise InputError(
                f"{count} images asked of split {self.split!r} of {self.root}, "
                f"which holds {len(self)}; choose 1 to {len(self)}"
            )
        chosen = np.random.default_rng(seed).choice(len(self), size=count, replace=False)
        samples = tuple(self.samples[i] for i in sorted(chosen))
        return SegmentationSet(root=self.root, split=self.split, samples=samples)

    def inputs(self, preprocess: Preprocess) -> NDArray[np.float32]:
        """Every image through the contract: float32 (N, 3, height, width)."""
        return np.stack([preprocess.apply(sample.image()) for sample in self.samples])

    def pixels(self, preprocess: Preprocess) -> NDArray[np.uint8]:
        """Every image resized, as a model that takes pixels wants it: (N, height, width, 3)."""
        return np.stack(
            [Interface.IMAGE.prepared(sample.image(), preprocess) for sample in self.samples]
        ).astype(np.uint8, copy=False)

    def truths(self, preprocess: Preprocess) -> NDArray[np.bool_]:
        """Every mask through the contract: bool (N, height, width)."""
        return np.stack([preprocess.apply_mask(sample.mask()) for sample in self.samples])

    def sha256(self) -> str:
        """Digest over the names and bytes of all images, in name order."""
        digest = hashlib.sha256()
        for sample in sorted(self.samples, key=lambda s: s.name):
            digest.update(sample.name.encode() + b"\0")
            digest.update(hashlib.sha256(sample.image_path.read_bytes()).digest())
        return digest.hexdigest()


def read_image(path: Path, mode: str) -> NDArray[np.uint8]:
    """Decode an image file to uint8 in the given Pillow mode ("RGB": (H, W, 3), "L": (H, W)).

    Raises:
        InputError: naming the file, when it is missing, cannot be decoded, or has more than 8 bits
            a channel, which a conversion would clip.
    """
    with _opened(path) as image:
        if image.mode.startswith(("I", "F")):
            raise InputError(
                f"image {path} has 16 bits a pixel or more (mode {image.mode}); expected 8. "
                "Scale it to 8 bits a channel first"
            )
        return np.asarray(image.convert(mode))


def open_set(root: Path, split: str | None) -> SegmentationSet:
    """Open one split of a prepared folder.

    Args:
        root: a folder with ``images/``, ``masks/`` and, to tell splits apart, ``splits.csv``.
        split: "train", "val" or "test"; ``None`` takes every image of the folder.

    Returns:
        The samples in name order, paired by name.

    Raises:
        InputError: no such layout, an image listed but missing, an image without a mask, an
            unknown split, or an empty set. The message names the file.
    """
    if not (root / "images").is_dir():
        raise InputError(f"{root} holds no images/ folder; {LAYOUT_HELP}")
    images = _by_stem(root / "images")
    masks = _by_stem(root / "masks")
    if split is None:
        names = sorted(images)
    else:
        assignment = read_splits(root / "splits.csv")
        names = sorted(name for name, assigned in assignment.items() if assigned == split)
    for name in names:
        if name not in images:
            raise InputError(
                f"{root / 'splits.csv'} lists {name!r}, but {root / 'images'} has no such image"
            )
        if name not in masks:
            raise InputError(f"image {images[name]} has no mask {root / 'masks' / name}.png")
    samples = tuple(
        Sample(name=name, image_path=images[name], mask_path=masks[name]) for name in names
    )
    return SegmentationSet(root=root, split=split or "all", samples=samples)


def read_splits(path: Path) -> dict[str, str]:
    """Read ``splits.csv``: image name to split.

    Raises:
        InputError: missing file or columns, no text, an unknown split, or a name listed twice.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; {LAYOUT_HELP}")
    try:
        rows = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
        columns = rows.fieldnames or []
        listed = list(rows)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a UTF-8 CSV file ({error}); {LAYOUT_HELP}") from error
    if not {"image_id", "split"} <= set(columns):
        raise InputError(f"{path} has columns {columns}; expected image_id and split")
    assignment: dict[str, str] = {}
    for number, row in enumerate(listed, start=2):
        name, split = row["image_id"], row["split"]
        if split not in SPLITS:
            raise InputError(f"{path}:{number}: split {split!r} is not one of {', '.join(SPLITS)}")
        if name in assignment:
            raise InputError(f"{path}:{number}: {name!r} is listed twice; each image has one split")
        assignment[name] = split
    return assignment


def require_disjoint(calibration: SegmentationSet, evaluation: SegmentationSet) -> None:
    """Refuse a calibration image that is also an evaluation image, by content, not by name.

    Raises:
        InputError: naming both files.
    """
    seen = {hashlib.sha256(s.image_path.read_bytes()).digest(): s for s in calibration}
    for sample in evaluation:
        twin = seen.get(hashlib.sha256(sample.image_path.read_bytes()).digest())
        if twin is not None:
            raise InputError(
                f"calibration image {twin.image_path} is also evaluation image "
                f"{sample.image_path}; figures from it would be void. Use disjoint sets"
            )


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image file, read lazily; whatever fails to open or decode inside names the file."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise InputError(f"image {path} does not exist") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"image {path} cannot be read ({error}); is it complete?") from error


def _by_stem(folder: Path) -> dict[str, Path]:
    """Image files of a folder by name without suffix.

    Raises:
        InputError: two files that differ only in their suffix.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.stem in found:
            raise InputError(f"{found[path.stem]} and {path} share a name; keep one of them")
        found[path.stem] = path
    return found
