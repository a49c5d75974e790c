"""Models beside one reference over the same images, as often as a search asks."""

from __future__ import annotations

from segdeploy.benchmarks.parity.answers import ModelAnswers
from segdeploy.benchmarks.parity.evaluation import Evaluation
from segdeploy.benchmarks.parity.evidence import ParityReport
from segdeploy.benchmarks.parity.tallies import compared
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.runtimes.base import Execution, Runtime
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.system.progress import LabelledProgress


class Judge:
    """Compares models with a reference that runs once.

    Args:
        reference: an open runtime.
        images: one split.
        preprocess: the input contract of all.
        output: the output contract of all.
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
        output: OutputContract,
        runtime: RuntimeName,
        execution: Execution,
        seed: int,
        progress: LabelledProgress[int],
    ) -> None:
        self.runtime, self.execution, self.seed = runtime, execution, seed
        self.split = images.split
        self._evaluation = Evaluation(
            images=images, preprocess=preprocess, output=output, progress=progress
        )
        self._expected = self._evaluation.reference(
            self._answers(reference), f"reference {self.split}", ranks=False
        )

    def report(self, artifact: Artifact, *, max_drop: float) -> ParityReport:
        """A model beside the reference.

        Raises:
            InputError: the runtime does not accept it.
            RunError: it failed.
        """
        with open_runtime(self.runtime, artifact, execution=self.execution) as opened:
            found = self._evaluation.candidate(
                self._answers(opened), f"int8 {self.split}", ranks=False
            )
        return compared(
            self._expected,
            found,
            names=("reference", artifact.path.name),
            max_drop=max_drop,
            max_drop_class=None,
            seed=self.seed,
        )

    def _answers(self, runtime: Runtime) -> ModelAnswers:
        return ModelAnswers.of(runtime, self._evaluation.contracts)
