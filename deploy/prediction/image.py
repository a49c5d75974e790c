"""One image from its file to the bytes of what is written for it: the same function everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.data.image_levels import decode
from segdeploy.deploy.data.image_opening import MOST_PIXELS, image_bytes
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import SIZE_MULTIPLE, Pixels, Preprocess
from segdeploy.deploy.onnx_model.interface import Interface
from segdeploy.deploy.prediction.fitting import Canvas, Plan, plan_of
from segdeploy.deploy.prediction.journal import Row, Status, digest, key_of
from segdeploy.deploy.prediction.outputs import Finding, encoded
from segdeploy.deploy.prediction.settings import Settings, Write, files_of
from segdeploy.deploy.prediction.sources import ImageSource
from segdeploy.deploy.runtimes.base import Feeds, Runtime
from segdeploy.deploy.system.errors import InputError, RunError
from segdeploy.deploy.system.shown_command import shown_text

Piece = NDArray[np.float32] | NDArray[np.uint8]
"""One input of a model, without the batch axis."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an image, and the files that are to be written for it."""

    row: Row
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A decoded image, ready for the model; ``shown`` is itself where an overlay needs it."""

    source: ImageSource
    sha256: str
    orientation: int
    plan: Plan
    pieces: Iterable[Piece]
    shown: NDArray[np.uint8] | None


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that turns images into outputs, but the runtime.

    Attributes:
        preprocess: the model's input contract.
        output: the model's output contract.
        interface: the form of the model's ends.
        settings: of the prediction.
        decides: all that decides the outputs beside the image, for the journal's keys.
        folder: where relative paths start from.
        multiple: what height and width of the model's input must divide by, where they are free.
    """

    preprocess: Preprocess
    interface: Interface
    settings: Settings
    output: OutputContract = field(default_factory=OutputContract)
    decides: bytes = b""
    folder: str = ""
    multiple: int = SIZE_MULTIPLE

    def read(self, source: ImageSource) -> Prepared | Outcome:
        """Decode an image; one that cannot be decoded or held is an outcome, not an error.

        A single piece is made at once, so that the image itself need not be kept.
        """
        try:
            content = _bytes_of(source, self.folder)
            decoded = decode(Path(source.label), self.preprocess, content=content)
            image = decoded.pixels
            plan = self.plan(image, label=source.label)
        except Exception as error:  # a damaged file makes the decoders raise nearly anything
            return failed(source, Status.UNREADABLE, error)
        pieces = self.pieces(image, plan)
        return Prepared(
            source=source,
            sha256=digest(content),
            orientation=decoded.orientation,
            plan=plan,
            pieces=tuple(pieces) if plan.count == 1 else pieces,
            shown=self.preprocess.picture(image) if Write.OVERLAY in self.settings.writes else None,
        )

    def plan(self, image: Pixels, *, label: str) -> Plan:
        """How an image (H, W, channels) is taken.

        Raises:
            InputError: it would take far more memory than the image itself, by its label.
        """
        plan = plan_of(image.shape[:2], self.settings, self.preprocess, multiple=self.multiple)
        _require_bounded(plan, label)
        return plan

    def pieces(self, image: Pixels, plan: Plan) -> Iterable[Piece]:
        """The model's inputs, made one after the other, each time they are asked for."""
        filled = plan.filled_image(image, self.preprocess)
        return _Pieces(plan=plan, filled=filled, job=self)

    def input_of(self, piece: Pixels) -> Piece:
        """A piece (h, w, channels) as the model takes it."""
        return self.preprocess.normalise(piece) if self.interface is Interface.TENSOR else piece

    def canvas(self, plan: Plan) -> Canvas:
        """What the probabilities of an image are put together on."""
        return Canvas(plan, self.output.channels)

    def probabilities(self, output: NDArray[Any]) -> list[NDArray[np.float32]]:
        """The probabilities of each piece of a batch, (classes, h, w), of what the model gave.

        Raises:
            InputError: values that are not what the output contract says.
            RunError: values that are not finite.
        """
        return list(self.interface.probability(output, self.output))

    def finish(self, prepared: Prepared, probability: NDArray[np.float32]) -> Outcome:
        """Cut, number and encode what was found, float32 (classes, H, W) of the image's size."""
        source, classes = prepared.source, self.settings.classes
        try:
            found = Finding.of(probability, self.output)
            files = {
                file: encoded(write, found, prepared.shown, index=index, classes=classes)
                for write, index, file in files_of(
                    source.name, self.settings.writes, self.output, classes
                )
            }
        except RunError as error:
            return failed(source, Status.FAILED, error)
        height, width = prepared.plan.image
        row = Row(
            image=source.label,
            name=source.name,
            status=Status.DONE,
            width=width,
            height=height,
            exif_orientation=prepared.orientation,
            foreground_share=found.foreground_share,
            instances=found.instances,
            image_sha256=prepared.sha256,
            key=key_of(self.decides, prepared.sha256),
            outputs={file: digest(content) for file, content in files.items()},
        )
        return Outcome(row=row, files=files)


@dataclass(frozen=True, kw_only=True)
class _Pieces:
    """The pieces of an image, made one after the other, each time they are asked for."""

    plan: Plan
    filled: NDArray[np.uint8]
    job: Job

    def __iter__(self) -> Iterator[Piece]:
        return map(self.job.input_of, self.plan.pieces(self.filled))


def predict_image(source: ImageSource, job: Job, runtime: Runtime) -> Outcome:
    """Take one image all the way: a function of its bytes, the job and the model, nothing else.

    Args:
        source: the image.
        job: what to do with it.
        runtime: of ``job``'s model.

    Returns:
        What became of it; an image that cannot be read, or that the runtime fails on, raises
        nothing.
    """
    prepared = job.read(source)
    if isinstance(prepared, Outcome):
        return prepared
    try:
        probability = _inferred(prepared.plan, prepared.pieces, job, runtime)
    except RunError as error:
        return failed(source, Status.FAILED, error)
    return job.finish(prepared, probability)


def predict_pixels(
    image: Pixels, job: Job, runtime: Runtime, *, label: str = "image"
) -> NDArray[np.float32]:
    """The probabilities that ``predict_image`` finds, of an image that is decoded already.

    Args:
        image: (H, W, channels), as the input contract takes it.
        job: what to do with it.
        runtime: of ``job``'s model.
        label: what an error calls it.

    Returns:
        float32 (classes, H, W), 0 to 1, at the image's size.

    Raises:
        InputError: scaled and filled up, it has too many pixels.
        RunError: the runtime failed.
    """
    plan = job.plan(image, label=label)
    return _inferred(plan, job.pieces(image, plan), job, runtime)


def _inferred(
    plan: Plan, pieces: Iterable[Piece], job: Job, runtime: Runtime
) -> NDArray[np.float32]:
    """The probabilities of an image, float32 (classes, H, W), put together from its pieces."""
    canvas, left = job.canvas(plan), iter(pieces)
    while group := list(islice(left, runtime.execution.batch)):
        for probability in infer_pieces(group, job, runtime):
            canvas.add(probability)
    return canvas.probability()


def infer_pieces(group: list[Piece], job: Job, runtime: Runtime) -> list[NDArray[np.float32]]:
    """The probabilities of each piece of a batch, (classes, h, w).

    Raises:
        InputError: values that are not what the output contract says.
        RunError: the runtime failed, or values that are not finite.
    """
    results = runtime.infer(feeds_of(group, runtime))
    return job.probabilities(results[runtime.outputs[0].name])[: len(group)]


def feeds_of(group: list[Piece], runtime: Runtime) -> Feeds:
    """One whole batch; what is missing is filled up with the last piece."""
    filled = group + group[-1:] * (runtime.execution.batch - len(group))
    return {runtime.inputs[0].name: np.stack(filled)}


def _bytes_of(source: ImageSource, folder: str) -> bytes:
    """The bytes of an image file.

    Raises:
        InputError: it cannot be read.
    """
    return image_bytes(Path(folder, source.path), shown=source.label)


def _require_bounded(plan: Plan, label: str) -> None:
    """Refuse what would take far more memory than the image itself.

    Raises:
        InputError: scaled and filled up, the image has too many pixels.
    """
    height, width = plan.filled
    if height * width > MOST_PIXELS:
        raise InputError(
            f"image {label} is too large: scaled and filled up for the model it has "
            f"{width}x{height} pixels, and at most {MOST_PIXELS} are held. Take a smaller --scale, "
            "or cut it into parts"
        )


def failed(source: ImageSource, status: Status, error: Exception) -> Outcome:
    """The outcome of an image that is not done."""
    words = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, RunError):
        words = shown_text(words)  # a runtime's own
    if not isinstance(error, (InputError, RunError)):
        words = f"image {source.label} cannot be read ({type(error).__name__}: {words})"
    return Outcome(row=Row(image=source.label, name=source.name, status=status, error=words))
