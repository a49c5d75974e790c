"""Sets of images, masks and fields of view, as a prepared folder holds them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.data.image_files import (
    IMAGE_SUFFIXES,
    by_stem,
    image_size,
    read_image,
    read_mask,
)
from segdeploy.deploy.data.image_opening import image_bytes
from segdeploy.deploy.data.preprocess import MASK_THRESHOLD, Preprocess
from segdeploy.deploy.data.splits import LAYOUT_HELP, SPLITS, read_splits, require_plain_name
from segdeploy.deploy.system.errors import InputError

__all__ = [
    "IMAGE_SUFFIXES",
    "LAYOUT_HELP",
    "SPLITS",
    "Sample",
    "SegmentationSet",
    "open_set",
    "read_image",
    "read_splits",
    "require_disjoint",
]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image, its mask and, where the set has them, its field of view, paired by name."""

    name: str
    image_path: Path
    mask_path: Path
    field_path: Path | None = None

    def image(self) -> NDArray[np.uint8]:
        """RGB uint8 (H, W, 3).

        Raises:
            InputError: the file cannot be decoded.
        """
        return read_image(self.image_path, "RGB")

    def mask(self) -> NDArray[np.uint8]:
        """Grey uint8 (H, W), the size of the image.

        Raises:
            InputError: mask or image cannot be decoded, their sizes differ, or the mask holds
                small values only, such as 0 and 1.
        """
        size = image_size(self.image_path)
        return read_mask(self.mask_path, image_path=self.image_path, size=size)

    def field(self) -> NDArray[np.bool_]:
        """The pixels that count, bool (H, W): all of them where there is no field of view.

        Raises:
            InputError: as for ``mask``, or no pixel lies inside the field.
        """
        size = image_size(self.image_path)
        if self.field_path is None:
            return np.ones(size, np.bool_)
        grey = read_mask(
            self.field_path, image_path=self.image_path, size=size, kind="field of view"
        )
        if not grey.any():
            raise InputError(f"field of view {self.field_path} is empty; no pixel would count")
        inside: NDArray[np.bool_] = grey >= MASK_THRESHOLD
        return inside


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
        return np.stack([preprocess.resized(sample.image()) for sample in self.samples])

    def truths(self, preprocess: Preprocess) -> NDArray[np.bool_]:
        """Every mask through the contract: bool (N, height, width)."""
        return np.stack([preprocess.apply_mask(sample.mask()) for sample in self.samples])

    def fields(self, preprocess: Preprocess) -> NDArray[np.bool_] | None:
        """Every field of view, resized as a mask is: bool (N, height, width).

        ``None`` where no sample has one; a sample without one counts as a whole.
        """
        if all(sample.field_path is None for sample in self.samples):
            return None
        white = np.uint8(255)
        return np.stack([preprocess.apply_mask(sample.field() * white) for sample in self.samples])

    def sha256(self) -> str:
        """Digest over the names and bytes of all images, in name order.

        Raises:
            InputError: an image cannot be read.
        """
        digest = hashlib.sha256()
        for sample in sorted(self.samples, key=lambda s: s.name):
            digest.update(sample.name.encode() + b"\0")
            digest.update(_content_sha256(sample))
        return digest.hexdigest()


def open_set(root: Path, split: str | None) -> SegmentationSet:
    """Open one split of a prepared folder.

    Args:
        root: a folder with ``images/``, ``masks/``, to tell splits apart ``splits.csv``, and
            where only a part of each image counts ``fov/``.
        split: "train", "val" or "test"; ``None`` takes every image of the folder.

    Returns:
        The samples in name order, paired by name.

    Raises:
        InputError: no such layout, an image listed but missing, an image without a mask or, where
            there is ``fov/``, without a field of view, an unknown split, or an empty set. The
            message names the file.
    """
    if not (root / "images").is_dir():
        raise InputError(f"{root} holds no images/ folder; {LAYOUT_HELP}")
    images = by_stem(root / "images")
    masks = by_stem(root / "masks")
    fields = by_stem(root / "fov") if (root / "fov").is_dir() else None
    if split is None:
        names = sorted(images)
    else:
        assignment = read_splits(root / "splits.csv")
        names = sorted(name for name, assigned in assignment.items() if assigned == split)
    for name in names:
        require_plain_name(name, where=str(root))
        if name not in images:
            raise InputError(
                f"{root / 'splits.csv'} lists {name!r}, but {root / 'images'} has no such image"
            )
        if name not in masks:
            raise InputError(f"image {images[name]} has no mask {root / 'masks' / name}.png")
        if fields is not None and name not in fields:
            raise InputError(
                f"image {images[name]} has no field of view {root / 'fov' / name}.png; a set has "
                "one for each image, or no fov/ folder"
            )
    samples = tuple(
        Sample(
            name=name,
            image_path=images[name],
            mask_path=masks[name],
            field_path=None if fields is None else fields[name],
        )
        for name in names
    )
    return SegmentationSet(root=root, split=split or "all", samples=samples)


def require_disjoint(calibration: SegmentationSet, evaluation: SegmentationSet) -> None:
    """Refuse a calibration image that is also an evaluation image, by content, not by name.

    Raises:
        InputError: naming both files, or one that cannot be read.
    """
    seen = {_content_sha256(sample): sample for sample in calibration}
    for sample in evaluation:
        twin = seen.get(_content_sha256(sample))
        if twin is not None:
            raise InputError(
                f"calibration image {twin.image_path} is also evaluation image "
                f"{sample.image_path}; figures from it would be void. Use disjoint sets"
            )


def _content_sha256(sample: Sample) -> bytes:
    return hashlib.sha256(image_bytes(sample.image_path)).digest()
