"""What is timed: a model file in a runtime, or a checkpoint in PyTorch; told to other processes."""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segdeploy.benchmarks.speed.entries import Entry
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision, TensorSpec
from segdeploy.deploy.runtimes.base import Runtime
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.isolated import open_isolated
from segdeploy.deploy.runtimes.registry import RuntimeName, import_backend, open_runtime

if TYPE_CHECKING:  # importing torch takes seconds and 250 MB
    from segdeploy.deploy.models.checkpoint import Checkpoint

Request = dict[str, Any]
"""A subject in JSON."""


@dataclass(frozen=True, kw_only=True)
class FileSubject:
    """A model file in a runtime."""

    entry: Entry

    @property
    def name(self) -> str:
        """In a table."""
        return self.entry.name

    @property
    def precision(self) -> Precision:
        """What the file asks for."""
        return self.entry.artifact.precision

    @property
    def skipped(self) -> str | None:
        """Why it cannot run here."""
        return self.entry.skipped

    def identity(self) -> dict[str, Any]:
        """The columns that say what a row is about, as the report names them."""
        size = {"file_bytes": self.entry.artifact.path.stat().st_size}
        return self.entry.identity() | size

    def open(self, execution: Execution) -> Runtime:
        """Load the file.

        Raises:
            InputError: the runtime does not accept it.
        """
        return open_runtime(self.entry.runtime, self.entry.artifact, execution=execution)

    def open_apart(self, execution: Execution, *, time_limit_s: float) -> Runtime:
        """Load the file in a process of its own.

        Raises:
            InputError: the runtime does not accept it.
            RunError: the runtime crashed, or did not answer within the limit.
        """
        return open_isolated(
            self.entry.runtime,
            self.entry.artifact,
            execution=execution,
            time_limit_s=time_limit_s,
        )

    def request(self) -> Request:
        """The file and its runtime, for ``read_request``."""
        fields = asdict(self.entry.artifact) | {"path": str(self.entry.artifact.path.absolute())}
        return {"label": self.entry.label, "runtime": self.entry.runtime.value, "artifact": fields}


@dataclass(frozen=True, kw_only=True)
class CheckpointSubject:
    """A checkpoint in PyTorch eager, fp32: what the others are compared with."""

    name: str
    checkpoint: Checkpoint

    precision = Precision.FP32
    skipped = None

    def identity(self) -> dict[str, Any]:
        """The columns that say what a row is about, as the report names them."""
        return {
            "name": self.name,
            "file": None,
            "target": None,
            "runtime": "pytorch",
            "precision_requested": self.precision.value,
            "file_bytes": None,
        }

    def open(self, execution: Execution) -> Runtime:
        """Give the loaded network to PyTorch."""
        from segdeploy.deploy.runtimes.pytorch import PyTorchRuntime

        return PyTorchRuntime(self.checkpoint, execution=execution)

    def open_apart(self, execution: Execution, *, time_limit_s: float) -> Runtime:
        """As ``open``: PyTorch is what the others are judged by, and runs in this process."""
        return self.open(execution)

    def request(self) -> Request:
        """The checkpoint and what its keys cannot tell, for ``read_request``."""
        return {
            "name": self.name,
            "checkpoint": str(self.checkpoint.path.absolute()),
            "arch": self.checkpoint.arch.value,
            "recurrence": self.checkpoint.recurrence,
            "head": self.checkpoint.head,
            "logits": self.checkpoint.logits,
            "preprocess": self.checkpoint.preprocess.to_json(),
        }


Subject = FileSubject | CheckpointSubject


def import_packages(request: Request) -> None:
    """Import what a subject needs, so that the time and memory of imports can be told apart."""
    if "checkpoint" in request:
        importlib.import_module("segdeploy.deploy.models.checkpoint")
        importlib.import_module("segdeploy.deploy.runtimes.pytorch")
    else:
        import_backend(RuntimeName(request["runtime"]))


def read_request(request: Request) -> Subject:
    """The subject of a request; a checkpoint is loaded now, a model file when it is opened.

    Raises:
        InputError: the checkpoint cannot be read.
    """
    return _checkpoint(request) if "checkpoint" in request else _file(request)


def _file(request: Request) -> FileSubject:
    fields = request["artifact"]
    artifact = Artifact(
        path=Path(fields["path"]),
        precision=Precision(fields["precision"]),
        opset=fields["opset"],
        inputs=tuple(_spec(spec) for spec in fields["inputs"]),
        outputs=tuple(_spec(spec) for spec in fields["outputs"]),
        sha256=fields["sha256"],
        parent=fields["parent"],
        target=fields["target"],
    )
    runtime = RuntimeName(request["runtime"])
    entry = Entry(label=request["label"], artifact=artifact, runtime=runtime, skipped=None)
    return FileSubject(entry=entry)


def _spec(fields: dict[str, Any]) -> TensorSpec:
    return TensorSpec(name=fields["name"], shape=tuple(fields["shape"]), dtype=fields["dtype"])


def _checkpoint(request: Request) -> CheckpointSubject:
    from segdeploy.deploy.models.architecture import Architecture
    from segdeploy.deploy.models.checkpoint import load_checkpoint

    path = Path(request["checkpoint"])
    checkpoint = load_checkpoint(
        path,
        arch=Architecture(request["arch"]),
        recurrence=request["recurrence"],
        head=request["head"],
        logits=request["logits"],
        preprocess=Preprocess.from_json(request["preprocess"], source=str(path)),
    )
    return CheckpointSubject(name=request["name"], checkpoint=checkpoint)
