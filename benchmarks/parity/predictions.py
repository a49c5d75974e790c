"""Outputs that a device returned, one file for each evaluation image, read back for scoring."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from segdeploy.benchmarks.parity.pairing import paired_files, some
from segdeploy.benchmarks.speed.entries import RowIdentity
from segdeploy.deploy.data.image_levels import image_size
from segdeploy.deploy.data.mask_files import read_label_map, read_mask
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import MASK_THRESHOLD
from segdeploy.deploy.onnx_model.probabilities import PROBABILITY_SLACK, require_probabilities
from segdeploy.deploy.system.errors import InputError

ARRAYS = (".npy", ".npz")
MASK = ".png"
SUFFIXES = (*ARRAYS, MASK)


class Values(str, Enum):
    """What the arrays hold."""

    PROBABILITY = "probability"
    LOGITS = "logits"


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a device said of every evaluation image: files that were looked through, not held.

    Attributes:
        name: the device's, for the table.
        folder: where they lie.
        files: in the order of the evaluation images.
        size: (height, width) of each.
        output: what the network's channels mean.
        values: what float arrays hold.
        ranks: whether they are probabilities, and not masks.
    """

    name: str
    folder: Path
    files: tuple[Path, ...]
    size: tuple[int, int]
    output: OutputContract
    values: Values
    ranks: bool

    def probability(self, place: int) -> NDArray[np.float32]:
        """Of the image at a place, float32 (classes, h, w); of masks and classes, 0 and 1.

        Raises:
            InputError: the file has changed since it was looked through.
        """
        path = self.files[place]
        shape = (self.output.channels if self.ranks else 1, *self.size)
        given = _read(path, self.output)
        if given.shape not in _shapes(shape):
            raise InputError(f"{path} has changed: shape {given.shape}; expected {shape}")
        array = given.reshape(shape).astype(np.float32)
        if not self.ranks:
            array = _members(array, self.output)
        elif self.values is Values.LOGITS:
            array = _probabilities(array, self.output)
        require_probabilities(array, self.output)
        return array

    def identity(self) -> RowIdentity:
        """What a row of them is about."""
        return RowIdentity(
            name=self.name,
            file=self.folder.resolve().name,
            target=None,
            runtime="predictions",
            precision_requested=None,
        )


def read_predictions(
    folder: Path,
    names: Sequence[str],
    *,
    size: tuple[int, int],
    output: OutputContract | None = None,
    values: Values = Values.PROBABILITY,
    order: Path | None = None,
    name: str | None = None,
) -> Predictions:
    """Look through one output for each evaluation image.

    A file is ``.npy`` or ``.npz``, a float array of shape (h, w), (1, h, w) or (1, 1, h, w), or
    ``.png``, a mask of the network's size, foreground from 125 on. Of several classes it is a float
    array (classes, h, w) or (1, classes, h, w); where they exclude each other also an array of
    whole numbers, the class of each pixel, or a label map as ``.png``. `paired_files` says which
    image it belongs to.

    Args:
        folder: with the files; others in it are left out, and said.
        names: of the evaluation images.
        size: (height, width) of the network's input, which is that of its output.
        output: what the network's channels mean; ``None`` is one label.
        values: what float arrays hold.
        order: a text file with the path of one input a line, in the order in which the device
            took them, for devices that number their outputs.
        name: of the device; ``None`` takes the folder's.

    Raises:
        InputError: images and files that do not pair, files of several kinds, or a
            file of another shape, with NaN or infinite values, or not of ``values``. The message
            names the files.
    """
    contract = output or OutputContract()
    files = paired_files(folder, names, suffixes=SUFFIXES, order=order)
    masks = {path.suffix.lower() == MASK for path in files}
    if len(masks) > 1:
        raise InputError(f"{folder} holds arrays and masks; give the one kind or the other")
    whole = set[bool]()
    unfit, infinite, unknown, outside = (dict[Path, str]() for _ in range(4))
    for path in files:
        array = _read(path, contract)
        ranked = bool(np.issubdtype(array.dtype, np.floating))
        whole.add(not ranked)
        shape = (contract.channels if ranked else 1, *size)
        if array.shape not in _shapes(shape):
            unfit[path] = f"shape {array.shape}"
        elif not np.isfinite(array).all():
            broken = np.count_nonzero(~np.isfinite(array))
            infinite[path] = f"{broken} of {array.size} values"
        elif not ranked and contract.exclusive:
            if array.min() < 0 or array.max() >= contract.channels:
                unknown[path] = f"class {array.min():g} to {array.max():g}"
        elif ranked and values is Values.PROBABILITY:
            if array.min() < -PROBABILITY_SLACK or array.max() > 1 + PROBABILITY_SLACK:
                outside[path] = f"{array.min():.3g} to {array.max():.3g}"
            else:
                _require_probabilities(path, array.reshape(shape), contract)
    if len(whole) > 1:
        raise InputError(f"{folder} holds probabilities and classes; give the one or the other")
    ranks = not whole.pop()
    *most, last = _shapes((contract.channels if ranks else 1, *size))
    expected = f"{', '.join(map(str, most))} or {last}"
    _require(unfit, f"expected {expected}: the network's output of one image, not resized")
    _require(
        infinite, "NaN or infinite: the device overflowed, as fp16 can; keep those layers in fp32"
    )
    _require(unknown, f"expected the class of each pixel, 0 to {contract.channels - 1}")
    _require(outside, "expected probabilities in 0 to 1; of logits, say --predictions-are logits")
    return Predictions(
        name=name or folder.resolve().name,
        folder=folder,
        files=tuple(files),
        size=size,
        output=contract,
        values=values,
        ranks=ranks,
    )


def _read(path: Path, contract: OutputContract) -> NDArray[Any]:
    """What a file holds, as it is."""
    if path.suffix.lower() == MASK:
        return _mask(path, contract)
    return _array(path, whole=contract.exclusive)


def _shapes(shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """Those in which (planes, h, w) may come."""
    return [*([shape[1:]] if shape[0] == 1 else []), shape, (1, *shape)]


def _members(mask: NDArray[np.float32], contract: OutputContract) -> NDArray[np.float32]:
    """Of a mask or class indices (1, h, w), which pixels belong to which class: 0 and 1."""
    if not contract.exclusive:
        return mask
    return np.asarray(mask == np.arange(contract.channels).reshape(-1, 1, 1), np.float32)


def _array(path: Path, *, whole: bool) -> NDArray[Any]:
    """The one array of a file, unread objects refused; ``whole`` lets classes in."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if path.suffix.lower() == ".npz":
            with loaded:
                keys = list(loaded.files)
                if len(keys) != 1:
                    raise InputError(f"{path} holds {len(keys)} arrays, {keys}; expected one")
                loaded = loaded[keys[0]]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as an array ({error}); is it complete?") from error
    kinds = (np.floating, np.integer) if whole else (np.floating,)
    if not isinstance(loaded, np.ndarray) or not any(
        np.issubdtype(loaded.dtype, kind) for kind in kinds
    ):
        found = getattr(loaded, "dtype", type(loaded).__name__)
        expected = "floats, or whole numbers that are classes" if whole else "floats"
        raise InputError(
            f"{path} holds {found}; expected {expected}. Scale quantized outputs back first, and "
            "give masks as .png"
        )
    return loaded


def _mask(path: Path, contract: OutputContract) -> NDArray[Any]:
    """A mask as one of the truth is read: background and foreground, or the class of each pixel.

    Raises:
        InputError: it cannot be read, or labels may overlap, so that it cannot hold them all.
    """
    if contract.overlapping:
        raise InputError(
            f"{path} is one mask, and the network's {contract.channels} labels may overlap; give "
            f"arrays ({contract.channels}, height, width)"
        )
    if contract.exclusive:
        return read_label_map(path, image_path=path, size=image_size(path), output=contract)
    grey = read_mask(path, image_path=path, size=image_size(path), kind="predicted mask")
    return grey >= MASK_THRESHOLD


def _require(broken: Mapping[Path, str], expected: str) -> None:
    """Refuse what is wrong with some of the files, all of them in one message."""
    if broken:
        listed = some([f"{path.name} ({what})" for path, what in broken.items()])
        raise InputError(f"{len(broken)} predictions do not fit: {listed}; {expected}")


def _require_probabilities(path: Path, array: NDArray[Any], contract: OutputContract) -> None:
    try:
        require_probabilities(array.astype(np.float32), contract)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _probabilities(logits: NDArray[np.float32], contract: OutputContract) -> NDArray[np.float32]:
    """Sigmoid or Softmax of (classes, h, w); a lone logit of 0 is exactly 0.5."""
    if contract.exclusive:
        return np.asarray(softmax(logits, axis=0), np.float32)
    return np.asarray(expit(logits), np.float32)
