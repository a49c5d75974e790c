"""PyTorch eager: the reference every other runtime is compared with."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.artifact import TensorSpec
from deploy.errors import RunError
from deploy.export import INPUT_NAME, OUTPUT_NAME
from deploy.models.checkpoint import Checkpoint
from deploy.runtimes.base import Feeds, Runtime, require_fit


class PyTorchRuntime:
    """A checkpoint in eager mode, fp32, on the CPU."""

    name = "pytorch"

    def __init__(self, checkpoint: Checkpoint, *, threads: int) -> None:
        height, width = checkpoint.preprocess.size
        self.inputs: tuple[TensorSpec, ...] = (
            TensorSpec(name=INPUT_NAME, shape=("batch", 3, height, width), dtype="float32"),
        )
        self.outputs: tuple[TensorSpec, ...] = (
            TensorSpec(name=OUTPUT_NAME, shape=("batch", 1, height, width), dtype="float32"),
        )
        self.precision_executed = "fp32"
        self.threads = threads
        self._network = checkpoint.probability()
        torch.set_num_threads(threads)

    def infer(self, feeds: Feeds) -> dict[str, NDArray[np.float32]]:
        """Run one batch: ``image`` (N, 3, H, W) to ``probability`` (N, 1, H, W)."""
        require_fit(self.inputs, feeds)
        try:
            with torch.inference_mode():
                output = self._network(torch.from_numpy(np.ascontiguousarray(feeds[INPUT_NAME])))
        except RuntimeError as error:
            raise RunError(f"PyTorch failed: {error}") from error
        return {OUTPUT_NAME: output.numpy()}

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *error: object) -> None:
        del self._network
