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
from scipy.special import expit

from segdeploy.benchmarks.parity.pairing import paired_files, some
from segdeploy.benchmarks.speed.entries import RowIdentity
from segdeploy.deploy.data.image_levels import image_size
from segdeploy.deploy.data.mask_files import read_mask
from segdeploy.deploy.data.preprocess import MASK_THRESHOLD
from segdeploy.deploy.onnx_model.probabilities import PROBABILITY_SLACK
from segdeploy.deploy.system.errors import InputError

ARRAYS = (".npy", ".npz")
MASK = ".png"
SUFFIXES = (*ARRAYS, MASK)


class Values(str, Enum):
    """What the arrays hold."""

    PROBABILITY = "probability"
    LOGITS = "logits"


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What a device said of every evaluation image.

    Attributes:
        name: the device's, for the table.
        folder: where they were read.
        probability: float32 (N, h, w), in the order of the evaluation images; of masks, 0 and 1.
        ranks: whether they are probabilities, and not masks.
    """

    name: str
    folder: Path
    probability: NDArray[np.float32]
    ranks: bool

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
    values: Values = Values.PROBABILITY,
    order: Path | None = None,
    name: str | None = None,
) -> Predictions:
    """Read one output for each evaluation image.

    A file is ``.npy`` or ``.npz``, a float array of shape (h, w), (1, h, w) or (1, 1, h, w), or
    ``.png``, a mask of the network's size, foreground from 125 on. `paired_files` says which
    image it belongs to.

    Args:
        folder: with the files; others in it are left out, and said.
        names: of the evaluation images.
        size: (height, width) of the network's input, which is that of its output.
        values: what the arrays hold.
        order: a text file with the path of one input a line, in the order in which the device
            took them, for devices that number their outputs.
        name: of the device; ``None`` takes the folder's.

    Raises:
        InputError: images and files that do not pair, arrays beside masks, or a
            file of another shape, with NaN or infinite values, or not of ``values``. The message
            names the files.
    """
    files = paired_files(folder, names, suffixes=SUFFIXES, order=order)
    masks = {path.suffix.lower() == MASK for path in files}
    if len(masks) > 1:
        raise InputError(f"{folder} holds arrays and masks; give the one kind or the other")
    ranks = not masks.pop()
    stacked = _stacked(files, [_array(path) if ranks else _mask(path) for path in files], size)
    if ranks and values is Values.LOGITS:
        stacked = _sigmoid(stacked)
    elif ranks:
        _require_probabilities(files, stacked)
    return Predictions(
        name=name or folder.resolve().name, folder=folder, probability=stacked, ranks=ranks
    )


def _stacked(
    files: Sequence[Path], read: Sequence[NDArray[Any]], size: tuple[int, int]
) -> NDArray[np.float32]:
    """The arrays as one, float32 (N, h, w), refused where one does not fit or is not finite."""
    _require(
        {p: f"shape {a.shape}" for p, a in zip(files, read, strict=True) if not _fits(a, size)},
        f"expected {size}, {(1, *size)} or {(1, 1, *size)}: the network's output of one image, "
        "not resized",
    )
    _require(
        {
            path: f"{np.count_nonzero(~np.isfinite(array))} of {array.size} values"
            for path, array in zip(files, read, strict=True)
            if not np.isfinite(array).all()
        },
        "NaN or infinite: the device overflowed, as fp16 can; keep those layers in fp32",
    )
    return np.stack([array.reshape(size) for array in read]).astype(np.float32)


def _array(path: Path) -> NDArray[Any]:
    """The one array of a file, unread objects refused."""
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
    if not isinstance(loaded, np.ndarray) or not np.issubdtype(loaded.dtype, np.floating):
        found = getattr(loaded, "dtype", type(loaded).__name__)
        raise InputError(
            f"{path} holds {found}; expected floats. Scale quantized outputs back first, and give "
            "masks as .png"
        )
    return loaded


def _mask(path: Path) -> NDArray[Any]:
    """Background and foreground, as a mask of the truth is read."""
    grey = read_mask(path, image_path=path, size=image_size(path), kind="predicted mask")
    return grey >= MASK_THRESHOLD


def _fits(array: NDArray[Any], size: tuple[int, int]) -> bool:
    return array.shape in (size, (1, *size), (1, 1, *size))


def _require(broken: Mapping[Path, str], expected: str) -> None:
    """Refuse what is wrong with some of the files, all of them in one message."""
    if broken:
        listed = some([f"{path.name} ({what})" for path, what in broken.items()])
        raise InputError(f"{len(broken)} predictions do not fit: {listed}; {expected}")


def _require_probabilities(files: Sequence[Path], stacked: NDArray[np.float32]) -> None:
    outside = {
        path: f"{array.min():.3g} to {array.max():.3g}"
        for path, array in zip(files, stacked, strict=True)
        if array.min() < -PROBABILITY_SLACK or array.max() > 1 + PROBABILITY_SLACK
    }
    _require(outside, "expected probabilities in 0 to 1; of logits, say --predictions-are logits")


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities; a logit of 0 is exactly 0.5, and large ones do not overflow."""
    return np.asarray(expit(logits), np.float32)
