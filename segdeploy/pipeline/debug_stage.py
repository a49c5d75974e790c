"""What a run says about its int8 model, layer by layer, on a few calibration images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.cost import onnx_cost
from segdeploy.deploy.sensitivity.layer_errors import compare_layers
from segdeploy.deploy.sensitivity.parts import Values
from segdeploy.deploy.sensitivity.section import DebugSection, debug_section
from segdeploy.deploy.system.progress import bar

T = TypeVar("T")

WORK = 1300e9
"""Layers times multiply-adds of the network times images, at most: 8 images of UNet++."""

FEWEST_IMAGES = 4


def debug_stage(
    reference: Artifact, candidate: Artifact, images: Values, *, threads: int
) -> DebugSection:
    """The ``debug`` section of a run's report.

    Args:
        reference: the float model.
        candidate: its int8 model.
        images: calibration images, normalised, float32 (N, C, H, W); as many of them are taken as
            ``images_to_take`` says.
        threads: images worked on at once.

    Raises:
        InputError: see ``compare_layers``.
        RunError: likewise.
    """
    layers = onnx_cost(reference.path).layers
    count = images_to_take(len(layers), sum(layer.macs for layer in layers))
    taken = list(images[:count])
    found = compare_layers(reference, candidate, taken, threads=threads, progress=_progress)
    return debug_section(
        found,
        file=candidate.path.name,
        reference=reference.path.name,
        target=candidate.target,
        images=len(taken),
    )


def images_to_take(layers: int, macs: int) -> int:
    """As many as ``WORK`` allows: each layer alone costs half a network on average.

    Example:
        UNet++, and R2U-Net:

        >>> images_to_take(31, 4_850_000_000), images_to_take(60, 17_060_000_000)
        (8, 4)
    """
    return max(FEWEST_IMAGES, int(WORK // max(1, layers * macs)))


def _progress(work: Iterable[T]) -> Iterable[T]:
    return bar(work, "debug", unit="step")
