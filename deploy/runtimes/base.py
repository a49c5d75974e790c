"""The contract every runtime keeps, so that parity and benchmark treat all alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deploy.artifact import Precision, TensorSpec

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


def infer_each(runtime: Runtime, images: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Run images one by one, so that no result depends on how images are batched.

    Args:
        runtime: with one input and one output, as every artefact of this project.
        images: float32 (3, H, W) each.

    Returns:
        Probability of the foreground, float32 (N, H, W).

    Raises:
        RunError: the runtime failed.
    """
    (source,), (result,) = runtime.inputs, runtime.outputs
    return np.stack(
        [runtime.infer({source.name: image[None]})[result.name][0, 0] for image in images]
    )
