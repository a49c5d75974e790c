"""The model of a prediction: an ONNX file or a checkpoint, and the runtime it is opened in."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.deploy import __version__
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import SIZE_MULTIPLE, Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.onnx_model.file import contract_of, describe, load_model, metadata, output_of
from segdeploy.deploy.onnx_model.interface import Interface, interface_of
from segdeploy.deploy.onnx_model.needed_multiple import needed_multiple
from segdeploy.deploy.prediction.settings import Fit, Settings, Write
from segdeploy.deploy.runtimes.base import Runtime
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.registry import (
    RuntimeName,
    availability,
    default_runtimes,
    open_runtime,
)
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.targets.profiles import PROFILES

if TYPE_CHECKING:  # importing torch takes seconds and 250 MB
    from segdeploy.deploy.models.checkpoint import Checkpoint

ONNX_SUFFIX = ".onnx"
PYTORCH = "pytorch"


@dataclass(frozen=True, kw_only=True)
class OnnxModel:
    """An ONNX file in a runtime; holds no weights, so it can be sent to another process."""

    artifact: Artifact
    runtime: RuntimeName
    preprocess: Preprocess
    output: OutputContract = field(default_factory=OutputContract)

    @property
    def name(self) -> str:
        """In messages."""
        return f"{self.artifact.path.name} on {self.runtime.value}"

    @property
    def interface(self) -> Interface:
        """The form of its ends."""
        return interface_of(self.artifact.inputs, self.artifact.outputs)

    @property
    def takes_any_size(self) -> bool:
        """Whether height and width of its input are dynamic."""
        axes = slice(1, 3) if self.interface is Interface.IMAGE else slice(2, 4)
        return all(isinstance(side, str) for side in self.artifact.inputs[0].shape[axes])

    @property
    def multiple(self) -> int:
        """What height and width must divide by: of our networks what they need whole, so that a
        file pads as its checkpoint does, though a lower head takes less; of others what the graph
        says.
        """
        model = load_model(self.artifact.path)
        if "arch" in metadata(model):
            return SIZE_MULTIPLE
        last = self.interface is Interface.IMAGE
        return needed_multiple(model, channels_last=last) or SIZE_MULTIPLE

    def identity(self) -> dict[str, object]:
        """What of it decides an output."""
        state = availability(self.runtime)
        return {
            "model_sha256": self.artifact.sha256,
            "runtime": [state.name, state.version],
            "preprocess": self.preprocess.to_json(),
        }

    def open(self, execution: Execution) -> Runtime:
        """Load it.

        Raises:
            InputError: the runtime is not installed, or does not accept the file.
            UsageError: the runtime cannot compute in the precision asked for.
        """
        return open_runtime(self.runtime, self.artifact, execution=execution)


@dataclass(frozen=True, kw_only=True)
class CheckpointModel:
    """A checkpoint in PyTorch, fp32 or bf16, with what its keys cannot tell."""

    path: Path
    sha256: str
    preprocess: Preprocess
    recurrence: int | None
    head: int | None
    weights: str | None = None
    output: OutputContract = field(default_factory=OutputContract)

    interface = Interface.TENSOR
    takes_any_size = True
    multiple = SIZE_MULTIPLE

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> CheckpointModel:
        """Of a loaded one, which need not be kept."""
        return cls(
            path=checkpoint.path,
            sha256=checkpoint.sha256,
            preprocess=checkpoint.preprocess,
            output=checkpoint.output,
            recurrence=checkpoint.recurrence,
            head=checkpoint.head,
            weights=checkpoint.weights,
        )

    @property
    def name(self) -> str:
        """In messages."""
        return f"{self.path.name} on {PYTORCH}"

    def identity(self) -> dict[str, object]:
        """What of it decides an output."""
        return {
            "model_sha256": self.sha256,
            "runtime": [PYTORCH, importlib.metadata.version("torch")],
            "preprocess": self.preprocess.to_json(),
            **({} if self.output == OutputContract() else {"output": self.output.to_json()}),
            "recurrence": self.recurrence,
            "head": self.head,
            "weights": self.weights,
        }

    def open(self, execution: Execution) -> Runtime:
        """Load it.

        Raises:
            InputError: it cannot be read.
        """
        from segdeploy.deploy.models.checkpoint import load_checkpoint
        from segdeploy.deploy.runtimes.pytorch import PyTorchRuntime

        checkpoint = load_checkpoint(
            self.path,
            recurrence=self.recurrence,
            head=self.head,
            preprocess=self.preprocess,
            output=self.output,
            weights=self.weights,
        )
        return PyTorchRuntime(checkpoint, execution=execution, any_size=True)


Model = OnnxModel | CheckpointModel


def onnx_model(path: Path, runtime: RuntimeName | None) -> OnnxModel:
    """Describe an ONNX file for a runtime.

    Args:
        path: the file.
        runtime: to open it in; ``None`` takes that of the file's target, else the first that is
            ready.

    Raises:
        InputError: no valid file, one without a contract or with other ends, or a runtime that is
            not ready.
    """
    artifact = describe(path)
    chosen = runtime or _suited(artifact)
    state = availability(chosen)
    if not state.ready:
        raise InputError(f"--runtime {chosen.value}: {state.reason}")
    contract = contract_of(artifact)
    interface_of(artifact.inputs, artifact.outputs)
    return OnnxModel(
        artifact=artifact, runtime=chosen, preprocess=contract, output=output_of(artifact)
    )


def _suited(artifact: Artifact) -> RuntimeName:
    profile = PROFILES.get(artifact.target or "")
    if artifact.precision is Precision.INT8 and profile is not None:
        return profile.runtime
    ready = [name for name in default_runtimes() if availability(name).ready]
    return ready[0] if ready else RuntimeName.ONNXRUNTIME


def require_possible(model: Model, settings: Settings, execution: Execution) -> None:
    """Refuse before long work what a model cannot do.

    Raises:
        InputError: a model of one size only is to take images of any size, or one that gives masks
            is to give probabilities.
        UsageError: images of any size in batches, or tiles that overlap by all of their size.
    """
    if settings.fit is Fit.PAD and not model.takes_any_size:
        height, width = model.preprocess.size
        raise InputError(
            f"{model.name} takes {height}x{width} pixels only, so it cannot --fit pad. Use --fit "
            "tile, or make it take any size: segdeploy rewrite --rewrites any-size -m MODEL -o "
            "ANY.onnx"
        )
    if settings.fit is Fit.PAD and execution.batch > 1:
        raise UsageError(
            f"--batch {execution.batch} needs images of one size, and --fit pad keeps each at its "
            "own; leave --batch out"
        )
    if settings.fit is Fit.TILE and settings.overlap >= min(model.preprocess.size):
        height, width = model.preprocess.size
        raise UsageError(
            f"tiles of {height}x{width} cannot overlap by {settings.overlap} pixels; choose an "
            f"--overlap below {min(height, width)}"
        )
    probabilities = {Write.PROBABILITY, Write.PROBABILITY_NPY} & set(settings.writes)
    if probabilities and model.interface is Interface.IMAGE:
        raise InputError(
            f"{model.name} gives masks, no probability to write; take the file it was made from"
        )
    output = model.output
    if Write.LABELS in settings.writes and not output.binary and not output.exclusive:
        raise InputError(
            f"the {output.channels} labels of {model.name} may overlap, so a pixel has no one "
            "object; leave labels out of --write and take the mask of each label"
        )
    if settings.classes and output.binary:
        raise UsageError(
            f"--classes chooses among several, and {model.name} has one ({output.classes[0]})"
        )
    if settings.classes and not probabilities:
        raise UsageError("--classes chooses whose probabilities --write writes; it writes none")


def decides(model: Model, settings: Settings, execution: Execution) -> bytes:
    """Everything that decides the outputs beside the image, for the journal's keys.

    Threads, streams and workers decide nothing.
    """
    return json.dumps(
        {
            "segdeploy": __version__,
            **model.identity(),
            "settings": {key: value for key, value in asdict(settings).items() if value != ()},
            "batch": execution.batch,
            "precision": execution.precision.value,
        },
        sort_keys=True,
    ).encode()
