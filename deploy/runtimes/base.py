"""The contract every runtime keeps, so that parity and benchmark treat all alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.onnx_model.artifact import TensorSpec
from segdeploy.deploy.onnx_model.interface import Interface, interface_of
from segdeploy.deploy.runtimes.executed import Executed, Layer
from segdeploy.deploy.runtimes.execution import Execution, Hint
from segdeploy.deploy.system.errors import InputError, RunError
from segdeploy.deploy.system.look_ahead import run_ahead

__all__ = [
    "BATCHES_AHEAD",
    "Availability",
    "Executed",
    "Execution",
    "Feeds",
    "Hint",
    "Layer",
    "Results",
    "Runtime",
    "infer_each",
    "infer_in_turn",
    "infer_threaded",
    "require_fit",
]

Feeds = Mapping[str, NDArray[Any]]
Results = dict[str, NDArray[Any]]
"""Arrays by name, of the types that the model's inputs and outputs state."""

BATCHES_AHEAD = 2
"""Batches ``infer_many`` may take for each stream before it gives the first result of them back."""


class Runtime(Protocol):
    """A loaded model, ready to run. A context manager: what it holds is freed on exit.

    Attributes:
        name: the runtime, e.g. ``onnxruntime``.
        inputs: in the model's order.
        outputs: in the model's order.
        execution: how it was asked to run.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    execution: Execution

    @property
    def executed(self) -> Executed:
        """What really runs, layer by layer. Found when first asked for, which takes a moment.

        To be asked for before the runtime is closed.
        """

    def infer(self, feeds: Feeds) -> Results:
        """Run one batch.

        Args:
            feeds: one array of its type for each input name; the first axis is the batch.

        Returns:
            One array for each output name.

        Raises:
            RunError: the runtime failed, or a feed does not fit its input.
        """

    def infer_many(self, batches: Iterable[Feeds]) -> Iterator[Results]:
        """Run many batches, ``execution.streams`` of them at once.

        Args:
            batches: taken lazily, at most ``BATCHES_AHEAD * execution.streams`` before their
                results; their arrays must not change before that.

        Yields:
            What ``infer`` returns, in the order of the batches.

        Raises:
            RunError: as ``infer``, at the latest when the result of that batch is due.
        """

    def __enter__(self) -> Runtime: ...

    def __exit__(self, *error: object) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Availability:
    """Whether a runtime can be used here: its version, or why not and how to mend it."""

    name: str
    version: str | None
    reason: str | None

    @property
    def ready(self) -> bool:
        """True when the runtime imports."""
        return self.reason is None


def require_fit(inputs: Sequence[TensorSpec], feeds: Feeds) -> None:
    """Refuse feeds that do not fit, so that no backend converts, ignores or reuses an old one.

    Args:
        inputs: of the model; a dynamic axis takes any length.
        feeds: what ``infer`` was given.

    Raises:
        RunError: a name missing or unknown, no array of the input's type and rank, or a fixed axis
            of another length.
    """
    expected = [spec.name for spec in inputs]
    if sorted(feeds) != sorted(expected):
        raise RunError(f"the model's inputs are {expected}; fed {sorted(feeds)}")
    for spec in inputs:
        feed = feeds[spec.name]
        shape = np.shape(feed)
        fits = len(shape) == len(spec.shape) and all(
            found == length
            for found, length in zip(shape, spec.shape, strict=True)
            if isinstance(length, int)
        )
        if not fits or getattr(feed, "dtype", None) != np.dtype(spec.dtype):
            found_type = getattr(feed, "dtype", type(feed).__name__)
            raise RunError(
                f"input {spec.name!r} takes {spec.dtype} {spec.shape}; fed {found_type} {shape}"
            )


def infer_threaded(
    infer: Callable[[Feeds], Results], batches: Iterable[Feeds], *, streams: int
) -> Iterator[Results]:
    """``infer_many`` for a runtime whose ``infer`` may be called from several threads.

    Args:
        infer: called by ``streams`` threads.
        batches: taken lazily, at most ``BATCHES_AHEAD * streams`` before their results.
        streams: calls at once.

    Returns:
        Results in the order of the batches.
    """
    return run_ahead(infer, batches, workers=streams, ahead=BATCHES_AHEAD * streams)


def infer_each(
    runtime: Runtime,
    images: Iterable[NDArray[Any]],
    output: OutputContract = OutputContract(),  # noqa: B008 (frozen)
) -> NDArray[np.float32]:
    """``infer_in_turn`` of all images, float32 (N, classes, H, W)."""
    return np.stack(list(infer_in_turn(runtime, images, output)))


def infer_in_turn(
    runtime: Runtime, images: Iterable[NDArray[Any]], output: OutputContract
) -> Iterator[NDArray[np.float32]]:
    """Run images one by one, so that no result depends on how images are batched.

    Args:
        runtime: with one image as input and probabilities or a mask as output.
        images: each as its ``Interface.prepared`` gives it, without the batch axis; taken lazily.
        output: the model's output contract.

    Yields:
        The probability of each class, float32 (classes, H, W); 0 or 1 from a model that gives
        masks.

    Raises:
        InputError: the model has other inputs or outputs, or gives other channels, another size
            than the image's, or what are no probabilities.
        RunError: the runtime failed, the images are not what it takes, or values are not finite.
    """
    interface = interface_of(runtime.inputs, runtime.outputs)
    (source,), (result,) = runtime.inputs, runtime.outputs
    for image in images:
        answer = runtime.infer({source.name: image[None]})[result.name]
        size = image.shape[1:] if interface is Interface.TENSOR else image.shape[:2]
        if answer.shape[-2:] != size:
            found, expected = ("x".join(map(str, sides)) for sides in (answer.shape[-2:], size))
            raise InputError(
                f"the model gives {found} for images of {expected}; expected the same size: export "
                "the network with its last upsampling"
            )
        yield interface.probability(answer, output)[0]
