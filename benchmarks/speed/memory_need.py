"""What a batch takes in memory, so that none is timed that takes more than a machine has."""

from __future__ import annotations

from collections.abc import Sequence

from segdeploy.benchmarks.speed.subjects import FileSubject, Subject
from segdeploy.deploy.onnx_model.activation_memory import activation_memory
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.onnx_model.file import load_model
from segdeploy.deploy.system.errors import InputError

MOST_BYTES = 2 << 30
"""Activations that a run times at once, at most; a runtime takes about half as much again (UNet++
at 256x512: 0.29 GB in ONNX Runtime, for 0.20 of activations). One image is always timed."""


def image_bytes(subjects: Sequence[Subject]) -> int:
    """Activations of one image at a time in the first float32 file; 0 where none tells."""
    for subject in subjects:
        if isinstance(subject, FileSubject) and subject.precision is Precision.FP32:
            model = load_model(subject.entry.artifact.path)
            try:
                return activation_memory(model, size=subject.size).largest
            except InputError:  # an operator whose shapes cannot be told
                return 0
    return 0


def beyond_memory(batch: int, one_image: int, most_bytes: int) -> str | None:
    """Why a batch is not timed; ``None`` where it is.

    Example:
        >>> beyond_memory(8, 407_000_000, 2 << 30).partition(";")[0]
        'a batch of 8 takes 3.0 GiB of activations, more than 2 GiB'
        >>> beyond_memory(8, 14_000_000, 2 << 30), beyond_memory(1, 3_255_000_000, 2 << 30)
        (None, None)

    Args:
        batch: images of a call; one is always timed.
        one_image: bytes of its activations.
        most_bytes: of those of a call.
    """
    if batch == 1 or batch * one_image <= most_bytes:
        return None
    return (
        f"a batch of {batch} takes {batch * one_image / 2**30:.1f} GiB of activations, more than "
        f"{most_bytes / 2**30:.3g} GiB; time it with `segdeploy benchmark`"
    )
