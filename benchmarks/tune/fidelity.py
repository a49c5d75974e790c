"""Accuracy without truth: a placement's output beside the float model's, and the untuned file's.

Where nobody scored images, a tuned file is accurate enough if its output is as near to the float
model's as the untuned int8 file's is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.tune.run import Judging
from segdeploy.benchmarks.tune.search import Verdict
from segdeploy.calibration.noise import SILENCE, Noise
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import contract_of, output_of
from segdeploy.deploy.onnx_model.interface import interface_of
from segdeploy.deploy.runtimes.base import Feeds
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.isolated import open_isolated
from segdeploy.deploy.runtimes.registry import RuntimeName

SQNR_LOSS_DB = 0.5
"""What a placement may lose of the untuned file's SQNR at the output."""

IMAGES = 8
"""Inputs that outputs are compared on."""

Outputs = NDArray[np.float32]


class Fidelity:
    """Compares int8 files with the float model on a few inputs.

    Args:
        source: the float model.
        untuned: the int8 file as the target's rule gives it.
        feeds: the inputs, a batch each, as many images in each as ``execution`` says.
        runtime: what executes the int8 files.
        execution: how.

    Raises:
        InputError: a runtime does not accept a file.
        RunError: a runtime failed.
    """

    def __init__(
        self,
        source: Artifact,
        untuned: Artifact,
        feeds: Sequence[Feeds],
        *,
        runtime: RuntimeName,
        execution: Execution,
    ) -> None:
        self._feeds, self._runtime, self._execution = feeds, runtime, execution
        self._contract: OutputContract = output_of(source)
        self._exact = self._outputs(source, RuntimeName.ONNXRUNTIME)
        self._untuned = self._outputs(untuned, runtime)
        self._least_db = _sqnr_db(self._exact, self._untuned) - SQNR_LOSS_DB

    def verdict(self, artifact: Artifact) -> Verdict:
        """Whether a file is as near to the float model as the untuned one, within a little.

        Raises:
            InputError: the runtime does not accept it.
            RunError: it failed.
        """
        found = self._outputs(artifact, self._runtime)
        sqnr_db = _sqnr_db(self._exact, found)
        differ = np.mean(
            [
                self._contract.members(one[None]) != self._contract.members(other[None])
                for one, other in zip(found, self._untuned, strict=True)
            ]
        )
        return Verdict(
            kept=sqnr_db >= self._least_db,
            words=f"output SQNR {sqnr_db:.1f} dB (untuned {self._least_db + SQNR_LOSS_DB:.1f}), "
            f"{100 * float(differ):.3f} % of pixels change class",
        )

    def _outputs(self, artifact: Artifact, runtime: RuntimeName) -> list[Outputs]:
        """The first output of each input, images apart."""
        with open_isolated(runtime, artifact, execution=self._execution) as opened:
            name = opened.outputs[0].name
            return [
                np.asarray(image, np.float32)
                for feeds in self._feeds
                for image in opened.infer(feeds)[name]
            ]


def _sqnr_db(exact: Sequence[Outputs], found: Sequence[Outputs]) -> float:
    """Of all outputs together; infinite where nothing differs."""
    noise = SILENCE
    for one, other in zip(exact, found, strict=True):
        noise += Noise.between(one, other)
    found_db = noise.sqnr_db
    return float("inf") if found_db is None else found_db


def judged_by_output(
    source: Artifact,
    untuned: Artifact,
    feeds: Sequence[Feeds],
    *,
    what: str,
    decided_by: tuple[str | int, ...],
    runtime: RuntimeName,
    execution: Execution,
) -> Judging:
    """``Fidelity`` as what a search is judged by; see there.

    Args:
        source: the float model.
        untuned: the int8 file as the target's rule gives it.
        feeds: the inputs.
        what: they are, in words.
        decided_by: what decides which they are.
        runtime: what executes the int8 files.
        execution: how.
    """
    fidelity = Fidelity(source, untuned, feeds, runtime=runtime, execution=execution)
    return Judging(
        verdict=fidelity.verdict,
        words=f"the output on {what}, which may lose {SQNR_LOSS_DB:g} dB of the untuned file's "
        "SQNR against the float model",
        decided_by=decided_by,
    )


def image_feeds(source: Artifact, images: SegmentationSet, *, batch: int) -> list[Feeds]:
    """Images as a model takes them, in batches; the last one is filled with the first image.

    Raises:
        InputError: an image cannot be read.
    """
    contract = contract_of(source)
    taken = interface_of(source.inputs, source.outputs)
    inputs = [taken.prepared(s.image(contract), s.stated(contract)) for s in images.samples]
    inputs += [inputs[0]] * (-len(inputs) % batch)
    name = source.inputs[0].name
    return [{name: np.stack(inputs[n : n + batch])} for n in range(0, len(inputs), batch)]
