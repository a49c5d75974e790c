"""The evaluation images, one after the other: decoded ahead, fed, scored and forgotten."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.data.image_set import Sample, SegmentationSet, Truth
from segdeploy.deploy.data.output_contract import FOREGROUND_PROBABILITY, OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.interface import Interface, interface_of
from segdeploy.deploy.runtimes.base import Runtime, infer_in_turn
from segdeploy.deploy.system.look_ahead import run_ahead
from segdeploy.deploy.system.progress import LabelledProgress

DECODERS = 2
"""Threads that decode while the model runs."""

DECODED_AHEAD = 4
"""Images that are decoded before the model takes them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """One image of the set.

    Attributes:
        name: of the image.
        truth: as ``Sample.truth`` gives it.
        counted: bool (h, w), the pixels that count; ``None`` for all.
        probability: float32 (classes, h, w), what a model said; 0 or 1 from one that gives masks.
    """

    name: str
    truth: Truth
    counted: NDArray[np.bool_] | None
    probability: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A set and the two contracts that its images and masks go through.

    Attributes:
        images: the set.
        preprocess: the input contract.
        output: the output contract.
        progress: for a progress bar over the images.
    """

    images: SegmentationSet
    preprocess: Preprocess
    output: OutputContract
    progress: LabelledProgress[Sample]

    def seen_by(self, runtime: Runtime, label: str) -> Iterator[Seen]:
        """What a model says of every image; none is kept.

        Args:
            runtime: an open one.
            label: for the progress bar.

        Raises:
            InputError: an image or a mask cannot be read, or the model's output is not what the
                contract says.
            RunError: the runtime failed, or values are not finite.
        """
        interface = interface_of(runtime.inputs, runtime.outputs)
        decoded = self._decoded(label, partial(_fed, interface, self.preprocess))
        beside: list[tuple[Sample, Truth, NDArray[np.bool_] | None]] = []

        def inputs() -> Iterator[NDArray[Any]]:
            for sample, fed, truth, counted in decoded:
                beside.append((sample, truth, counted))
                yield fed

        for probability in infer_in_turn(runtime, inputs(), self.output):
            sample, truth, counted = beside.pop(0)
            yield Seen(name=sample.name, truth=truth, counted=counted, probability=probability)

    def beside(self, probabilities: Iterator[NDArray[np.float32]], label: str) -> Iterator[Seen]:
        """Probabilities that were made elsewhere, in the order of the images."""
        decoded = self._decoded(label, lambda sample: np.zeros(0))
        for (sample, _, truth, counted), probability in zip(decoded, probabilities, strict=True):
            yield Seen(name=sample.name, truth=truth, counted=counted, probability=probability)

    def inputs(self, interface: Interface) -> Inputs:
        """The images as models of a form take them, each decoded when it is asked for."""
        return Inputs(images=self.images, fed=partial(_fed, interface, self.preprocess))

    def _decoded(
        self, label: str, fed: Callable[[Sample], NDArray[Any]]
    ) -> Iterator[tuple[Sample, NDArray[Any], Truth, NDArray[np.bool_] | None]]:
        def read(
            sample: Sample,
        ) -> tuple[Sample, NDArray[Any], Truth, NDArray[np.bool_] | None]:
            truth = sample.truth(self.preprocess, self.output)
            return sample, fed(sample), truth, sample.counted(self.preprocess)

        samples = self.progress(self.images.samples, label)
        return run_ahead(read, samples, workers=DECODERS, ahead=DECODED_AHEAD)


@dataclass(frozen=True, kw_only=True)
class Inputs(Sequence[NDArray[Any]]):
    """A set's images as a model takes them, of which none is held."""

    images: SegmentationSet
    fed: Callable[[Sample], NDArray[Any]]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> NDArray[Any]:  # type: ignore[override]  # no slices
        return self.fed(self.images.samples[place])


def _fed(interface: Interface, preprocess: Preprocess, sample: Sample) -> NDArray[Any]:
    return interface.prepared(sample.image(preprocess), sample.stated(preprocess))


def classes_of(probability: NDArray[np.float32], output: OutputContract) -> Truth:
    """The class of each pixel, in the form of the truth.

    Args:
        probability: float32 (classes, h, w).
        output: the output contract.
    """
    if output.binary:
        return np.asarray(probability[0] >= FOREGROUND_PROBABILITY)
    if output.exclusive:
        return np.asarray(output.label_map(probability[None])[0])
    return np.asarray(output.members(probability[None])[0])


class ClassSpool:
    """The classes of every image, in a temporary file: 1 bit a pixel and label, or 1 byte."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed on exit)
        self._like: Truth | None = None

    def __enter__(self) -> ClassSpool:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, classes: Truth) -> None:
        """Keep those of the next image; all images have one shape and type."""
        self._like = np.empty_like(classes) if self._like is None else self._like
        bits = np.packbits(classes) if classes.dtype == np.bool_ else classes
        self._file.write(bits.tobytes())

    def __iter__(self) -> Iterator[Truth]:
        if self._like is None:
            return
        like, flags = self._like, self._like.dtype == np.bool_
        size = -(-like.size // 8) if flags else like.size
        self._file.seek(0)
        while block := self._file.read(size):
            values = np.frombuffer(block, np.uint8)
            if flags:
                yield np.unpackbits(values, count=like.size).astype(np.bool_).reshape(like.shape)
            else:
                yield values.reshape(like.shape)
