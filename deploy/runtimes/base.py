"""The contract every runtime keeps, so that parity and benchmark treat all alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deploy.artifact import Precision, TensorSpec
from deploy.errors import InputError, RunError

Feeds = Mapping[str, NDArray[np.float32]]


class Runtime(Protocol):
    """A loaded model, ready to run. A context manager: what it holds is freed on exit.

    Attributes:
        name: the runtime, e.g. ``onnxruntime``.
        inputs: in the model's order.
        outputs: in the model's order.
        precision_executed: what really runs, in words a report can print, e.g. ``fp32`` or
            ``fp32 (weights stored in fp16)``.
        threads: intra-operator threads.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision_executed: str
    threads: int

    def infer(self, feeds: Feeds) -> dict[str, NDArray[np.float32]]:
        """Run one batch.

        Args:
            feeds: one float32 array for each input name; the first axis is the batch.

        Returns:
            One float32 array for each output name.

        Raises:
            RunError: the runtime failed, or a feed does not fit its input.
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


def precision_in_words(convolutions: Counter[str], *, requested: Precision) -> str:
    """Put what executes into words a report can print.

    Example:
        >>> precision_in_words(Counter(int8=29, fp32=2), requested=Precision.INT8)
        'int8 (29 of 31 convolutions)'

    Args:
        convolutions: how many convolutions run in each precision.
        requested: what the file asks for; used alone where there is no convolution.
    """
    if not convolutions:
        return requested.value
    executed, count = convolutions.most_common(1)[0]
    if executed == "fp32" and requested is Precision.FP16:
        return "fp32 (weights stored in fp16)"
    total = sum(convolutions.values())
    return executed if count == total else f"{executed} ({count} of {total} convolutions)"


def require_fit(inputs: Sequence[TensorSpec], feeds: Feeds) -> None:
    """Refuse feeds that do not fit, so that no backend converts, ignores or reuses an old one.

    Args:
        inputs: of the model; a dynamic axis takes any length.
        feeds: what ``infer`` was given.

    Raises:
        RunError: a name missing or unknown, no float32 array of the input's rank, or a fixed axis
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


def infer_each(runtime: Runtime, images: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Run images one by one, so that no result depends on how images are batched.

    Args:
        runtime: with one input and one output (N, 1, H, W), as every artefact of this project.
        images: float32 (3, H, W) each.

    Returns:
        Probability of the foreground, float32 (N, H, W).

    Raises:
        InputError: the model has other inputs or outputs.
        RunError: the runtime failed.
    """
    if (len(runtime.inputs), len(runtime.outputs), len(runtime.outputs[0].shape)) != (1, 1, 4):
        raise InputError(
            f"a model on {runtime.name} has inputs {[s.name for s in runtime.inputs]} and outputs "
            f"{[(s.name, s.shape) for s in runtime.outputs]}; expected one image and one "
            "probability (batch, 1, height, width)"
        )
    (source,), (result,) = runtime.inputs, runtime.outputs
    return np.stack(
        [runtime.infer({source.name: image[None]})[result.name][0, 0] for image in images]
    )
