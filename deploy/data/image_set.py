"""Sets of images, masks and fields of view, as a prepared folder holds them."""

from __future__ import annotations

import hashlib
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.data.image_files import (
    IMAGE_SUFFIXES,
    by_stem,
    image_names,
    left_out,
    read_image,
    some_names,
)
from segdeploy.deploy.data.image_levels import PLAIN, decode, image_size
from segdeploy.deploy.data.image_opening import image_bytes
from segdeploy.deploy.data.layouts.registry import layout_of
from segdeploy.deploy.data.mask_files import (
    WHITE,
    BinaryMask,
    Reading,
    read_binary,
    read_field,
    read_label_map,
    read_mask,
)
from segdeploy.deploy.data.orientation import require_upright
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import MASK_THRESHOLD, Pixels, Preprocess
from segdeploy.deploy.data.splits import LAYOUT_HELP, SPLITS, read_splits, require_plain_name
from segdeploy.deploy.system.errors import InputError

log = logging.getLogger(__name__)

__all__ = [
    "IMAGE_SUFFIXES",
    "LAYOUT_HELP",
    "SPLITS",
    "Sample",
    "SegmentationSet",
    "Truth",
    "open_set",
    "read_image",
    "read_splits",
    "require_disjoint",
]


Truth = NDArray[np.bool_] | NDArray[np.uint8]
"""What an output contract is judged by: bool (h, w) of one label, bool (classes, h, w) of labels
that may overlap, uint8 (h, w) of classes that exclude each other, their indices."""


CHECKED_MASKS = 64
"""Masks that are read before long work."""

SHOWN_READINGS = 16
"""Masks that are looked at to say how they are read."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image, its mask and, where the set has them, its field of view, paired by name.

    Attributes:
        name: without suffix.
        image_path: the image.
        mask_path: its mask; of a set with a folder of masks for each class that of the first.
        class_paths: name of the folder and mask for each class, in name order of the folders;
            none where the masks lie in one folder.
        field_path: its field of view.
        levels: 16-bit levels that become 0 and 255, where the image has 16 bits and the network's
            input contract takes 8.
        pages: which of several pages of its file is the image.
    """

    name: str
    image_path: Path
    mask_path: Path
    class_paths: tuple[tuple[str, Path], ...] = ()
    field_path: Path | None = None
    levels: tuple[float, float] | None = None
    pages: tuple[int, ...] | None = None

    def stated(self, preprocess: Preprocess) -> Preprocess:
        """A network's input contract with what is stated of this image's file."""
        return preprocess.of_source(self.levels, self.pages)

    def image(self, preprocess: Preprocess = PLAIN) -> Pixels:
        """The image as a contract takes it: (H, W, channels) of its bits; RGB uint8 by default.

        Raises:
            InputError: the file cannot be decoded, or has other channels or bits.
        """
        return decode(self.image_path, self.stated(preprocess)).pixels

    def input(self, preprocess: Preprocess) -> NDArray[np.float32]:
        """The image as a network takes it: float32 (channels, height, width).

        Raises:
            InputError: as ``image``.
        """
        return self.stated(preprocess).apply(self.image(preprocess))

    def mask(self) -> NDArray[np.uint8]:
        """Uint8 (H, W), the size of the image, foreground from 125 on.

        Raises:
            InputError: mask or image cannot be decoded, their sizes differ, EXIF turns the image,
                the mask's values may mean several things, or there are masks of several classes.
        """
        return self.binary().grey

    def binary(self) -> BinaryMask:
        """As ``mask``, with what its values were taken for."""
        require_one_label(self)
        size = self._size(self.mask_path)
        return read_binary(self.mask_path, image_path=self.image_path, size=size)

    def truth(self, preprocess: Preprocess, output: OutputContract) -> Truth:
        """What the network's output is judged by, at the size of its input.

        A mask of one label is resized as ever; a label map takes the nearest pixel.

        Raises:
            InputError: as ``mask``, or the masks do not fit the output contract.
        """
        masks = self.masks_of(output)
        if output.exclusive:
            return preprocess.apply_labels(masks[0], padding=output.ignored_index or 0)
        truths = [preprocess.apply_mask(mask) for mask in masks]
        return truths[0] if output.binary else np.stack(truths)

    def masks_of(self, output: OutputContract) -> list[NDArray[np.uint8]]:
        """The masks that a contract needs, at the image's size: one, or one for each label.

        Raises:
            InputError: as ``truth``.
        """
        if output.binary:
            return [self.mask()]
        if output.exclusive:
            path = require_label_map(self, output)
            size = self._size(path)
            return [read_label_map(path, image_path=self.image_path, size=size, output=output)]
        return [
            read_mask(path, image_path=self.image_path, size=self._size(path))
            for path in masks_of_classes(self, output)
        ]

    def field(self) -> NDArray[np.bool_]:
        """The pixels that count, bool (H, W): all of them where there is no field of view.

        Raises:
            InputError: as for ``mask``, or no pixel lies inside the field.
        """
        if self.field_path is None:
            return np.ones(image_size(self.image_path), np.bool_)
        size = self._size(self.field_path)
        grey = read_field(self.field_path, image_path=self.image_path, size=size)
        if not grey.any():
            raise InputError(f"field of view {self.field_path} is empty; no pixel would count")
        inside: NDArray[np.bool_] = grey >= MASK_THRESHOLD
        return inside

    def counted(self, preprocess: Preprocess) -> NDArray[np.bool_] | None:
        """The pixels of the network's input that count: bool (height, width).

        Those that show the field of view, resized as a mask is, and where there is none those
        that were not padded; ``None`` where all do.

        Raises:
            InputError: as ``field``.
        """
        if self.field_path is not None:
            return preprocess.apply_mask(self.field() * np.uint8(WHITE))
        return None if preprocess.stretches else preprocess.counted(image_size(self.image_path))

    def _size(self, drawn: Path) -> tuple[int, int]:
        """(H, W) of the image; a mask or field that may have been drawn on it turned is refused."""
        size = image_size(self.image_path)
        require_upright(self.image_path, drawn=drawn, size=size)
        return size


def require_one_label(sample: Sample) -> None:
    """Refuse masks of several classes where there is one label.

    Raises:
        InputError: naming the folders.
    """
    if len(sample.class_paths) > 1:
        folder = sample.class_paths[0][1].parent.parent
        raise InputError(
            f"{folder} holds the folders {_names(sample)} of several classes, and the network has "
            f"one; expected {folder / 'NAME.png'}, or one folder"
        )


def require_label_map(sample: Sample, output: OutputContract) -> Path:
    """The label map of an image.

    Raises:
        InputError: there is a folder of masks for each class.
    """
    if sample.class_paths:
        folder = sample.class_paths[0][1].parent.parent
        raise InputError(
            f"{folder} holds the folders {_names(sample)}, a mask for each class, and the "
            f"network's {output.channels} classes exclude each other; expected label maps "
            f"{folder / 'NAME.png'}, the index of its class at each pixel"
        )
    return sample.mask_path


def masks_of_classes(sample: Sample, output: OutputContract) -> tuple[Path, ...]:
    """The mask of each label that may overlap with the others, in the contract's order.

    Raises:
        InputError: there is not one folder for each class, by its name or its index.
    """
    found = dict(sample.class_paths)
    for names in (output.classes, tuple(map(str, range(output.channels)))):
        if found.keys() == set(names):
            return tuple(found[name] for name in names)
    folder = (sample.class_paths[0][1].parent if found else sample.mask_path).parent
    holds = f"holds the folders {_names(sample)}" if found else "holds no folders"
    last = output.channels - 1
    raise InputError(
        f"{folder} {holds}; the network's {output.channels} labels may overlap, so a folder of "
        f"masks is expected for each: {', '.join(output.classes)}, or 0 to {last}"
    )


def _names(sample: Sample) -> str:
    return ", ".join(name for name, _ in sample.class_paths)


@dataclass(frozen=True, kw_only=True)
class Files:
    """Files of one folder, one for each name.

    Attributes:
        folder: where they lie.
        ends: what follows the name in each file's; ``None`` where that is not the same for all.
        names: of the files then.
    """

    folder: Path
    ends: str | None
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, folder: Path, found: Mapping[str, str], names: Sequence[str]) -> Files:
        """The file of each name."""
        ends = found[names[0]].removeprefix(names[0]) if names else ""
        if all(found[name] == name + ends for name in names):
            return cls(folder=folder, ends=ends)
        return cls(folder=folder, ends=None, names=tuple(found[name] for name in names))

    def path(self, place: int, name: str) -> Path:
        """Of a name, and of its place."""
        return self.folder / (self.names[place] if self.ends is None else name + self.ends)


@dataclass(frozen=True, kw_only=True, eq=False)
class Listed(Sequence[Sample]):
    """The samples of a folder, each made when it is asked for: names alone are held.

    Attributes:
        names: of the images.
        images: theirs.
        masks: theirs; of a set with a folder of masks for each class one of each.
        of_classes: whether there is such a folder for each class.
        fields: fields of view, if any.
        levels: as ``Sample.levels``, of all.
        pages: as ``Sample.pages``, of all.
    """

    names: tuple[str, ...]
    images: Files
    masks: tuple[Files, ...]
    of_classes: bool
    fields: Files | None
    levels: tuple[float, float] | None = None
    pages: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, (Listed, tuple)) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    @overload
    def __getitem__(self, place: int) -> Sample: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[Sample, ...]: ...

    def __getitem__(self, place: int | slice) -> Sample | tuple[Sample, ...]:
        if isinstance(place, slice):
            return tuple(self[each] for each in range(len(self))[place])
        name, masks = self.names[place], self.masks if self.of_classes else ()
        return Sample(
            name=name,
            image_path=self.images.path(place, name),
            mask_path=self.masks[0].path(place, name),
            class_paths=tuple((each.folder.name, each.path(place, name)) for each in masks),
            field_path=None if self.fields is None else self.fields.path(place, name),
            levels=self.levels,
            pages=self.pages,
        )


@dataclass(frozen=True, kw_only=True)
class SegmentationSet:
    """An ordered, non-empty set of samples of one split."""

    root: Path
    split: str
    samples: Sequence[Sample]

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

    def of_source(
        self, levels: tuple[float, float] | None, pages: tuple[int, ...] | None
    ) -> SegmentationSet:
        """The same set, with what is stated of its files (``Sample.levels``, ``pages``)."""
        if levels is None and pages is None:
            return self
        if isinstance(self.samples, Listed):
            return replace(self, samples=replace(self.samples, levels=levels, pages=pages))
        return replace(
            self,
            samples=tuple(replace(each, levels=levels, pages=pages) for each in self.samples),
        )

    def inputs(self, preprocess: Preprocess) -> NDArray[np.float32]:
        """Every image through the contract: float32 (N, channels, height, width)."""
        return np.stack([sample.input(preprocess) for sample in self.samples])

    def has_pixels(self, preprocess: Preprocess) -> bool:
        """Whether a model that takes 8-bit pixels can be given the images: none of 16 bits."""
        return self.samples[0].stated(preprocess).eight_bit

    def pixels(self, preprocess: Preprocess) -> NDArray[np.uint8]:
        """Every image resized, as a model that takes pixels wants it: (N, height, width, channels).

        Raises:
            InputError: an image cannot be decoded, or has more than 8 bits a channel.
        """
        return np.stack(
            [sample.stated(preprocess).pixels(sample.image(preprocess)) for sample in self.samples]
        )

    def pictures(self, preprocess: Preprocess) -> NDArray[np.uint8]:
        """Every image resized, as people look at it: RGB (N, height, width, 3)."""
        return np.stack(
            [
                contract.picture(contract.resized(sample.image(preprocess)))
                for sample in self.samples
                for contract in [sample.stated(preprocess)]
            ]
        )

    @overload
    def truths(self, preprocess: Preprocess) -> NDArray[np.bool_]: ...

    @overload
    def truths(self, preprocess: Preprocess, output: OutputContract) -> Truth: ...

    def truths(self, preprocess: Preprocess, output: OutputContract | None = None) -> Truth:
        """Every mask through the contracts: (N, ...), see ``Truth``; of one label by default."""
        output = OutputContract() if output is None else output
        truths: Truth = np.stack([sample.truth(preprocess, output) for sample in self.samples])  # type: ignore[assignment]  # all of one kind
        return truths

    def masks_in_words(self, output: OutputContract) -> str:
        """What the values of the first masks are taken for, one line; empty where it is plain.

        Args:
            output: of the network; only the masks of one label are taken for anything.
        """
        if not output.binary:
            return ""
        try:
            found = [sample.binary().reading for sample in self.samples[:SHOWN_READINGS]]
        except InputError:  # of a mask that is refused where it is needed
            return ""
        unusual = sorted({reading.value for reading in found if reading is not Reading.GREY})
        if not unusual:
            return ""
        return f"masks of {self.root} hold {' or '.join(unusual)}: what that marks is foreground"

    def require_fits(self, output: OutputContract) -> None:
        """Refuse before long work masks that are not what a contract needs, by the first of them.

        Raises:
            InputError: naming the folders or the mask.
        """
        for sample in self.samples[:CHECKED_MASKS]:
            sample.masks_of(output)

    def fields(self, preprocess: Preprocess) -> NDArray[np.bool_] | None:
        """The pixels of each input that count (``Sample.counted``): bool (N, height, width).

        ``None`` where every pixel of every image does.
        """
        counted = [sample.counted(preprocess) for sample in self.samples]
        if all(each is None for each in counted):
            return None
        whole = np.ones(preprocess.size, np.bool_)
        return np.stack([whole if each is None else each for each in counted])

    def sha256(self) -> str:
        """Digest over the names and bytes of all images, in name order.

        Raises:
            InputError: an image cannot be read.
        """
        digest = hashlib.sha256()
        for sample in sorted(self.samples, key=lambda s: s.name):
            digest.update(sample.name.encode() + b"\0")
            digest.update(_content_sha256(sample))
            if sample.levels or sample.pages:
                digest.update(repr((sample.levels, sample.pages)).encode())
        return digest.hexdigest()


def open_set(root: Path, split: str | None) -> SegmentationSet:
    """Open one split of a prepared folder.

    Args:
        root: a folder with ``images/``, ``masks/``, to tell splits apart ``splits.csv``, and
            where only a part of each image counts ``fov/``. Where ``masks/`` holds no images but
            folders, each has the masks of one class.
        split: "train", "val" or "test"; ``None`` takes every image of the folder.

    Returns:
        The samples in name order, paired by name.

    Raises:
        InputError: no such layout, an image listed but missing, an image without a mask or, where
            there is ``fov/``, without a field of view, an unknown split, or an empty set. The
            message names the file.
    """
    if not (root / "images").is_dir():
        raise InputError(f"{root} holds no images/ folder; {_how_to_prepare(root)}")
    _say_left_out(root / "images")
    images = by_stem(root / "images")
    classes = class_folders(root / "masks")
    folders = classes or [root / "masks"]
    masks = [by_stem(folder) for folder in folders]
    fields = by_stem(root / "fov") if (root / "fov").is_dir() else None
    if split is None:
        names = sorted(images)
    else:
        if not (root / "splits.csv").exists():
            raise InputError(f"{root / 'splits.csv'} does not exist; {_how_to_prepare(root)}")
        assignment = read_splits(root / "splits.csv")
        names = sorted(name for name, assigned in assignment.items() if assigned == split)
    for name in names:
        require_plain_name(name, where=str(root))
        if name not in images:
            raise InputError(
                f"{root / 'splits.csv'} lists {name!r}, but {root / 'images'} has no such image"
            )
        path = root / "images" / images[name]
        for folder, found in zip(folders, masks, strict=True):
            if name not in found:
                raise InputError(f"image {path} has no mask {folder / name}.png")
        if fields is not None and name not in fields:
            raise InputError(
                f"image {path} has no field of view {root / 'fov' / name}.png; a set has "
                "one for each image, or no fov/ folder"
            )
    samples = Listed(
        names=tuple(names),
        images=Files.of(root / "images", images, names),
        masks=tuple(
            Files.of(folder, found, names) for folder, found in zip(folders, masks, strict=True)
        ),
        of_classes=bool(classes),
        fields=None if fields is None else Files.of(root / "fov", fields, names),
    )
    return SegmentationSet(root=root, split=split or "all", samples=samples)


def _how_to_prepare(root: Path) -> str:
    """What makes a set of a folder: the very command where its layout is known."""
    try:
        layout = layout_of(root)
    except InputError:
        return LAYOUT_HELP
    return (
        f"it is laid out as {layout.name}, which `segdeploy data prepare {shlex.quote(str(root))} "
        "-o DIR` makes a set of"
    )


@lru_cache(maxsize=256)
def _say_left_out(folder: Path) -> None:
    """Name, once, what a folder of images holds beside them."""
    found = left_out(folder)
    if found:
        log.warning("%s: %d left out, not images: %s", folder, len(found), some_names(found))


def class_folders(masks: Path) -> list[Path]:
    """The folders of classes in a folder of masks, by name; none where it holds images itself."""
    if not masks.is_dir() or image_names(masks):
        return []
    return sorted(
        path for path in masks.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


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
