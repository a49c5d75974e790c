"""Random inputs of the types a model takes, where the time does not depend on the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segdeploy.deploy.onnx_model.artifact import TensorSpec
from segdeploy.deploy.runtimes.base import Feeds


def random_feeds(inputs: Sequence[TensorSpec], batch: int) -> Feeds:
    """One batch: floats between -1 and 1, or bytes; the same at every call.

    Args:
        inputs: of the model; the first axis of each is the batch, the others are fixed.
        batch: images.
    """
    generator = np.random.default_rng(0)
    feeds = {}
    for spec in inputs:
        shape = (batch, *map(int, spec.shape[1:]))
        if spec.dtype == "uint8":
            feeds[spec.name] = generator.integers(0, 256, shape, dtype=np.uint8)
        else:
            feeds[spec.name] = generator.uniform(-1, 1, shape).astype(spec.dtype)
    return feeds
