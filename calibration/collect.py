"""A stream of batches in, one histogram for each tensor out, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segdeploy.calibration.collection import Collection
from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.histogram import TensorCounter, extremes


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Activations of some images.

    Attributes:
        names: one for each image, unique in the whole calibration set.
        tensors: tensor name to float32 (N, ...), where N is the number of images.

    Raises:
        CalibrationError: no images, no tensors, or a tensor whose first axis is not N.
    """

    names: tuple[str, ...]
    tensors: Mapping[str, NDArray[np.float32]]

    def __post_init__(self) -> None:
        if not self.names or not self.tensors:
            raise CalibrationError(
                f"a batch holds {len(self.names)} images and {len(self.tensors)} tensors; "
                "expected at least one of each"
            )
        for name, values in self.tensors.items():
            if values.ndim == 0 or values.shape[0] != len(self.names):
                raise CalibrationError(
                    f"tensor {name!r} has shape {values.shape}; "
                    f"expected {len(self.names)} images along its first axis"
                )


class Accumulator:
    """Histograms being filled, batch by batch. A batch is counted whole or not at all."""

    def __init__(self, resume: Collection | None = None) -> None:
        """Start empty, or go on from an earlier collection."""
        self._names: set[str] = set(resume.names) if resume else set()
        earlier = resume.histograms if resume else {}
        self._counters = {name: TensorCounter.of(value) for name, value in earlier.items()}

    @property
    def num_images(self) -> int:
        """Images counted so far."""
        return len(self._names)

    def add(self, batch: Batch) -> None:
        """Count one batch. It keeps no reference to the arrays.

        Raises:
            CalibrationError: an image counted before, a tensor missing or new, not float32, or
                NaN or Inf (naming tensor and image).
        """
        self._require_new(batch.names)
        self._require_same_tensors(batch)
        for name, values in batch.tensors.items():
            _require_countable(name, values, batch.names)
        for name, values in batch.tensors.items():
            self._counters.setdefault(name, TensorCounter()).add(values)
        self._names.update(batch.names)

    def collection(self) -> Collection:
        """A frozen copy of what was counted so far.

        Raises:
            CalibrationError: nothing was counted.
        """
        histograms = {name: counter.histogram() for name, counter in self._counters.items()}
        return Collection(names=tuple(sorted(self._names)), histograms=histograms)

    def _require_new(self, names: tuple[str, ...]) -> None:
        seen = set(self._names)
        for name in names:
            if name in seen:
                raise CalibrationError(
                    f"image {name!r} was counted before; give each image once "
                    "(when resuming, leave out the images already counted)"
                )
            seen.add(name)

    def _require_same_tensors(self, batch: Batch) -> None:
        expected, found = set(self._counters), set(batch.tensors)
        if expected and expected != found:
            raise CalibrationError(
                f"the batch of image {batch.names[0]!r} lacks tensors {sorted(expected - found)} "
                f"and adds {sorted(found - expected)}; every batch must hold the same tensors"
            )


def collect(
    batches: Iterable[Batch],
    *,
    resume: Collection | None = None,
    on_batch: Callable[[Accumulator], None] | None = None,
) -> Collection:
    """Count every activation of every batch.

    Batch size, order and partition do not matter: the same images give the same collection, bit
    for bit. One batch at a time is held.

    Example:
        >>> halves = [
        ...     Batch(names=("a",), tensors={"relu": np.array([[0.5, 0]], np.float32)}),
        ...     Batch(names=("b",), tensors={"relu": np.array([[3, 0]], np.float32)}),
        ... ]
        >>> collection = collect(halves)
        >>> collection.names, collection.histograms["relu"].max, collection.histograms["relu"].zeros
        (('a', 'b'), 3.0, 2)

    Args:
        batches: read once.
        resume: what an interrupted run had counted; ``batches`` then holds the other images.
        on_batch: called after each batch, for progress and to save the state.

    Raises:
        CalibrationError: an empty set, or a batch ``Accumulator.add`` refuses.
    """
    accumulator = Accumulator(resume)
    for batch in batches:
        accumulator.add(batch)
        del batch  # or it would be held while the next one is made
        if on_batch is not None:
            on_batch(accumulator)
    if accumulator.num_images == 0:
        raise CalibrationError("the calibration set is empty; give at least one image")
    return accumulator.collection()


def _require_countable(tensor: str, values: NDArray[np.float32], names: tuple[str, ...]) -> None:
    """Refuse what cannot be counted, naming the tensor and, where one is at fault, the image."""
    try:
        extremes(values)
    except CalibrationError as error:
        message = f"tensor {tensor!r}: {error}"
        if values.dtype == np.float32 and values.size:
            finite = np.isfinite(values.reshape(len(names), -1)).all(axis=1)
            image = names[int(np.argmin(finite))]
            message = f"tensor {tensor!r} of image {image!r}: {error}; look at the image and model"
        raise CalibrationError(message) from error
