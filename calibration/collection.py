"""What was counted over a set of images: merging several, and storing one to go on later."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.files import atomic_writer
from segdeploy.calibration.histogram import TensorHistogram, sum_histograms

STATE_VERSION = 1

_UNREADABLE = (OSError, ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile)
"""What NumPy and zipfile raise of damaged files: of an array that claims to be huge, of a way to
compress or encrypt that zipfile does not know."""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Histograms of the same tensors over named images.

    Attributes:
        names: the images counted, sorted, each once.
        histograms: tensor name to histogram, in name order.

    Raises:
        CalibrationError: no images, no tensors, or an image listed twice.
    """

    names: tuple[str, ...]
    histograms: Mapping[str, TensorHistogram]

    def __post_init__(self) -> None:
        if not self.names or not self.histograms:
            raise CalibrationError("a collection must hold at least one image and one tensor")
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise CalibrationError(f"images counted twice: {', '.join(twice)}; give each once")
        object.__setattr__(self, "names", tuple(sorted(self.names)))
        object.__setattr__(self, "histograms", dict(sorted(self.histograms.items())))


def merge_collections(parts: Iterable[Collection]) -> Collection:
    """Join what several processes counted on disjoint images; their order does not matter.

    Raises:
        CalibrationError: no parts, different tensors, or an image in two parts.
    """
    collections = list(parts)
    if not collections:
        raise CalibrationError("no collections to merge; give at least one")
    tensors = list(collections[0].histograms)
    for collection in collections[1:]:
        if list(collection.histograms) != tensors:
            differing = sorted(set(tensors) ^ set(collection.histograms))
            raise CalibrationError(f"collections differ in the tensors {differing}")
    return Collection(
        names=tuple(name for collection in collections for name in collection.names),
        histograms={
            tensor: sum_histograms(collection.histograms[tensor] for collection in collections)
            for tensor in tensors
        },
    )


def save_collection(collection: Collection, path: Path, *, fingerprint: str) -> None:
    """Write a collection to one .npz file, atomically; the same collection gives the same bytes.

    Args:
        collection: what was counted so far.
        path: the file to write or replace.
        fingerprint: what the counts depend on, for instance the digest of the model;
            ``load_collection`` refuses a file with another one.

    Raises:
        OSError: the file cannot be written.
    """
    stored: dict[str, Any] = {
        "version": np.array(STATE_VERSION),
        "fingerprint": np.array(fingerprint),
        "names": np.array(collection.names),
        "tensors": np.array(list(collection.histograms)),
    }
    for index, histogram in enumerate(collection.histograms.values()):
        for field, values in histogram.to_arrays().items():
            stored[f"{index}.{field}"] = values
    with atomic_writer(path) as stream:
        np.savez(stream, **stored)


def load_collection(path: Path, *, fingerprint: str) -> Collection:
    """Read what ``save_collection`` wrote.

    Raises:
        CalibrationError: missing, damaged, of another version, or of another fingerprint.
    """
    try:
        stored = _arrays(path)
        version, found = int(stored["version"]), str(stored["fingerprint"])
        names, tensors = (_texts(stored[key]) for key in ("names", "tensors"))
    except (*_UNREADABLE, KeyError, TypeError) as error:
        raise CalibrationError(f"{path} is not a calibration state ({error})") from error
    if version != STATE_VERSION:
        raise CalibrationError(f"{path} has version {version}; this release reads {STATE_VERSION}")
    if found != fingerprint:
        raise CalibrationError(
            f"{path} belongs to another model or setting ({found!r}, expected {fingerprint!r}); "
            "remove it to start over"
        )
    histograms = {}
    for index, tensor in enumerate(tensors):
        prefix = f"{index}."
        fields = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
        try:
            histograms[tensor] = TensorHistogram.from_arrays(fields)
        except CalibrationError as error:
            raise CalibrationError(f"{path}: tensor {tensor!r}: {error}") from error
    return Collection(names=names, histograms=histograms)


def _texts(array: NDArray[Any]) -> tuple[str, ...]:
    if array.dtype.kind != "U" or array.ndim != 1:
        raise ValueError(f"names stored as {array.dtype} of shape {array.shape}")
    return tuple(str(text) for text in array)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file that takes no more memory than disk.

    Raises:
        ValueError: compressed, as nothing written here is, or damaged; others of ``_UNREADABLE``.
    """
    with zipfile.ZipFile(path) as archive:
        if any(member.file_size != member.compress_size for member in archive.infolist()):
            raise ValueError("its arrays are compressed; calibrate writes them plain")
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}
