"""What is said of evaluation images, by a model or a device: decoded ahead, told and forgotten."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.parity.predictions import Predictions
from segdeploy.deploy.data.image_set import Sample, SegmentationSet, Truth
from segdeploy.deploy.data.output_contract import FOREGROUND_PROBABILITY, OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.interface import Interface, interface_of
from segdeploy.deploy.runtimes.base import Runtime, infer_in_turn
from segdeploy.deploy.system.errors import RunError
from segdeploy.deploy.system.look_ahead import run_ahead

DECODERS = 2
"""Threads that decode while the model runs."""

DECODED_AHEAD = 4
"""Images that are decoded before the model takes them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """An image of which something is to be said.

    Attributes:
        place: in the set.
        sample: itself.
        expected: the classes that the reference saw in it; ``None`` while that is asked.
    """

    place: int
    sample: Sample
    expected: Truth | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What was said of an image.

    Attributes:
        place: in the set.
        truth: as ``Sample.truth`` gives it.
        counted: bool (h, w), the pixels that count; ``None`` for all.
        expected: the classes that the reference saw, if any.
        probability: float32 (classes, h, w), what a model said; 0 or 1 from one that gives masks.
    """

    place: int
    truth: Truth
    counted: NDArray[np.bool_] | None
    expected: Truth | None
    probability: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Contracts:
    """The two contracts that images and masks go through."""

    preprocess: Preprocess
    output: OutputContract

    def seen(
        self,
        asked: Iterable[Asked],
        prepared: Callable[[Asked], NDArray[Any]],
        probabilities: Callable[[Iterator[NDArray[Any]]], Iterator[NDArray[np.float32]]],
    ) -> Iterator[Seen]:
        """Images with what is said of them, in order; none is kept.

        Args:
            asked: taken lazily.
            prepared: what is decoded of an image, in threads, beside its masks.
            probabilities: what is said of each of those, in order.
        """

        def read(one: Asked) -> tuple[Asked, NDArray[Any], Truth, NDArray[np.bool_] | None]:
            truth = one.sample.truth(self.preprocess, self.output)
            return one, prepared(one), truth, one.sample.counted(self.preprocess)

        beside: list[tuple[Asked, Truth, NDArray[np.bool_] | None]] = []

        def inputs() -> Iterator[NDArray[Any]]:
            for one, fed, truth, counted in run_ahead(
                read, asked, workers=DECODERS, ahead=DECODED_AHEAD
            ):
                beside.append((one, truth, counted))
                yield fed

        for probability in probabilities(inputs()):
            one, truth, counted = beside.pop(0)
            yield Seen(
                place=one.place,
                truth=truth,
                counted=counted,
                expected=one.expected,
                probability=probability,
            )


Says = Callable[[Iterable[Asked]], Iterator[Seen]]


class Answers(Protocol):
    """Somebody who says something of images; can be sent to another process."""

    @property
    def contracts(self) -> Contracts:
        """What images and masks go through."""

    @property
    def ranks(self) -> bool:
        """Whether probabilities come, and not masks, which have no area under the curve."""

    def open(self) -> AbstractContextManager[Says]:
        """Load what is needed to answer."""


@dataclass(frozen=True, kw_only=True)
class ModelAnswers:
    """A model in a runtime.

    Attributes:
        contracts: what images and masks go through.
        opener: gives the runtime, which is closed by who opened it.
        ranks: whether it gives probabilities.
        executed: what the runtime runs, in words, wherever it is opened.
    """

    contracts: Contracts
    opener: Callable[[], AbstractContextManager[Runtime]]
    ranks: bool
    executed: str

    @classmethod
    def of(
        cls,
        runtime: Runtime,
        contracts: Contracts,
        opener: Callable[[], AbstractContextManager[Runtime]] | None = None,
    ) -> ModelAnswers:
        """As a runtime that is open here answers, opened elsewhere where there is an opener."""
        return cls(
            contracts=contracts,
            opener=opener or (lambda: nullcontext(runtime)),
            ranks=interface_of(runtime.inputs, runtime.outputs) is not Interface.IMAGE,
            executed=runtime.executed.words,
        )

    @contextmanager
    def open(self) -> Iterator[Says]:
        """Load the model.

        Raises:
            InputError: the runtime does not take it.
            RunError: it runs here in another precision than where the table is made.
        """
        with self.opener() as runtime:
            if runtime.executed.words != self.executed:
                raise RunError(
                    f"one process computes in {runtime.executed.words}, another in "
                    f"{self.executed}; one table needs processors of one kind"
                )
            yield partial(self._seen, runtime)

    def _seen(self, runtime: Runtime, asked: Iterable[Asked]) -> Iterator[Seen]:
        """What the model says.

        Raises:
            InputError: an image or a mask cannot be read, or the output is not what the contract
                says.
            RunError: the runtime failed, or values are not finite.
        """
        interface, contracts = interface_of(runtime.inputs, runtime.outputs), self.contracts
        return contracts.seen(
            asked,
            lambda one: _fed(interface, contracts.preprocess, one.sample),
            lambda inputs: infer_in_turn(runtime, inputs, contracts.output),
        )


@dataclass(frozen=True, kw_only=True)
class DeviceAnswers:
    """Outputs that a device returned."""

    contracts: Contracts
    given: Predictions

    @property
    def ranks(self) -> bool:
        """Whether they are probabilities."""
        return self.given.ranks

    @contextmanager
    def open(self) -> Iterator[Says]:
        """The files are opened one by one."""
        yield lambda asked: self.contracts.seen(
            asked, lambda one: self.given.probability(one.place), iter
        )


def inputs_of(images: SegmentationSet, runtime: Runtime, preprocess: Preprocess) -> Inputs:
    """A set's images as a model takes them, each decoded when it is asked for."""
    interface = interface_of(runtime.inputs, runtime.outputs)
    return Inputs(images=images, fed=partial(_fed, interface, preprocess))


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
    """The classes of images by their place, in a temporary file.

    They take 1 bit a pixel and label, or 1 byte. All images have one shape and type; places that
    are not told take no room on the disk.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed on exit)
        self._like: Truth | None = None

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def put(self, place: int, classes: Truth) -> None:
        """Keep those of an image."""
        self._like = np.empty_like(classes) if self._like is None else self._like
        bits = np.packbits(classes) if classes.dtype == np.bool_ else classes
        os.pwrite(self._file.fileno(), bits.tobytes(), place * bits.size)

    def at(self, place: int) -> Truth:
        """Those of an image that were kept.

        Raises:
            ValueError: none were.
        """
        if self._like is None:
            raise ValueError("no classes were kept")
        like, flags = self._like, self._like.dtype == np.bool_
        size = -(-like.size // 8) if flags else like.size
        values = np.frombuffer(os.pread(self._file.fileno(), size, place * size), np.uint8)
        if flags:
            values = np.unpackbits(values, count=like.size).astype(np.bool_)
        return np.asarray(values.reshape(like.shape))
