"""Models beside one reference over the same images, as often as a search asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.parity.evidence import ParityReport, compare
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.runtimes.base import Execution, Runtime, infer_each
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime

Images = Iterable[NDArray[Any]]


class Judge:
    """Compares models with a reference that runs once.

    Args:
        reference: an open runtime.
        images: one split.
        preprocess: the input contract of all.
        runtime: what executes the models.
        execution: how.
        seed: of the bootstrap.
        progress: for a progress bar over the images, with a label.

    Raises:
        InputError: an image or a mask cannot be read.
        RunError: the reference failed.
    """

    def __init__(
        self,
        reference: Runtime,
        images: SegmentationSet,
        *,
        preprocess: Preprocess,
        runtime: RuntimeName,
        execution: Execution,
        seed: int,
        progress: Callable[[Images, str], Images],
    ) -> None:
        self.runtime, self.execution, self.seed = runtime, execution, seed
        self.names = [sample.name for sample in images]
        self.split = images.split
        self._inputs = images.inputs(preprocess)
        self._truths = images.truths(preprocess)
        self._fields = images.fields(preprocess)
        self._progress = progress
        inputs = progress(self._inputs, f"reference {self.split}")
        self._expected = infer_each(reference, inputs)[:, 0]

    def report(self, artifact: Artifact, *, max_drop: float) -> ParityReport:
        """A model beside the reference.

        Raises:
            InputError: the runtime does not accept it.
            RunError: it failed.
        """
        with open_runtime(self.runtime, artifact, execution=self.execution) as opened:
            found: NDArray[np.float32] = infer_each(
                opened, self._progress(self._inputs, f"int8 {self.split}")
            )[:, 0]
        return compare(
            "reference",
            artifact.path.name,
            self._expected,
            found,
            self._truths,
            max_drop=max_drop,
            image_names=self.names,
            field=self._fields,
            seed=self.seed,
        )
