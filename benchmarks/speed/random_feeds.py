"""Random inputs of the types a model takes, where the time does not depend on the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segdeploy.deploy.onnx_model.artifact import Artifact, TensorSpec
from segdeploy.deploy.onnx_model.file import contract_of
from segdeploy.deploy.runtimes.base import Feeds
from segdeploy.deploy.system.errors import InputError, one_line


def random_feeds(
    inputs: Sequence[TensorSpec], batch: int, *, size: tuple[int, int] | None = None
) -> Feeds:
    """One batch: floats between -1 and 1, or bytes; the same at every call.

    Args:
        inputs: of the model; the first axis of each is the batch.
        batch: images.
        size: height and width, where the model takes images of any.

    Raises:
        InputError: a model that takes images of any size, and none is given.
    """
    generator = np.random.default_rng(0)
    feeds = {}
    for spec in inputs:
        shape = (batch, *_sides(spec, size))
        if spec.dtype == "uint8":
            feeds[spec.name] = generator.integers(0, 256, shape, dtype=np.uint8)
        else:
            feeds[spec.name] = generator.uniform(-1, 1, shape).astype(spec.dtype)
    return feeds


def size_to_feed(artifact: Artifact) -> tuple[int, int] | None:
    """The contract's height and width, of a model that takes images of any size.

    Raises:
        InputError: it carries no contract.
    """
    (image,) = artifact.inputs
    if all(isinstance(side, int) for side in image.shape[1:]):
        return None
    return contract_of(artifact).size


def fixed_batch(artifact: Artifact) -> int | None:
    """Images that a model takes in every call; ``None`` where it takes any number."""
    batch = artifact.inputs[0].shape[0]
    return batch if isinstance(batch, int) else None


def _sides(spec: TensorSpec, size: tuple[int, int] | None) -> tuple[int, ...]:
    """Every axis but the batch; the contract's size in the place of height and width."""
    first = 1 if spec.dtype == "uint8" else 2
    stated = {} if size is None else {first: size[0], first + 1: size[1]}
    sides = [
        side if isinstance(side, int) else stated.get(axis)
        for axis, side in enumerate(spec.shape[1:], start=1)
    ]
    found = tuple(side for side in sides if side is not None)
    if len(found) != len(sides):
        raise InputError(
            f"input {spec.name!r} takes images of {one_line(spec.shape, limit=80)}; expected a "
            "size, of the model or of its input contract"
        )
    return found
