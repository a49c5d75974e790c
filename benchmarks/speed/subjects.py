"""What is timed: a model file in a runtime, or a checkpoint in PyTorch; told to other processes."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.benchmarks.speed.entries import Entry, RowIdentity
from segdeploy.benchmarks.speed.random_feeds import fixed_batch, size_to_feed
from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.onnx_model.file import output_of
from segdeploy.deploy.runtimes.base import Runtime
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.isolated import open_isolated
from segdeploy.deploy.runtimes.registry import import_backend, open_runtime

if TYPE_CHECKING:  # importing torch takes seconds and 250 MB
    from segdeploy.deploy.models.checkpoint import Checkpoint
    from segdeploy.deploy.models.module import LoadedModule


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

    @property
    def batch(self) -> int | None:
        """Images of every call; ``None`` where any number is taken."""
        return fixed_batch(self.entry.artifact)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width to feed, of a file that takes images of any size."""
        return size_to_feed(self.entry.artifact)

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return self.entry.artifact.path.stat().st_size

    def identity(self) -> RowIdentity:
        """What a row of it is about."""
        return self.entry.identity()

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

    def request(self) -> FileSubject:
        """What another process opens: this."""
        return self


@dataclass(frozen=True, kw_only=True)
class CheckpointSubject:
    """A checkpoint or module in PyTorch eager, fp32: what the others are compared with."""

    name: str
    checkpoint: Checkpoint | LoadedModule

    precision = Precision.FP32
    skipped = None
    file_bytes = None
    batch = None
    size = None

    def identity(self) -> RowIdentity:
        """What a row of it is about."""
        return RowIdentity(
            name=self.name,
            file=None,
            target=None,
            runtime="pytorch",
            precision_requested=self.precision,
        )

    def open(self, execution: Execution) -> Runtime:
        """Give the loaded network to PyTorch."""
        from segdeploy.deploy.runtimes.pytorch import PyTorchRuntime

        return PyTorchRuntime(self.checkpoint, execution=execution)

    def open_apart(self, execution: Execution, *, time_limit_s: float) -> Runtime:
        """As ``open``: PyTorch is what the others are judged by, and runs in this process."""
        return self.open(execution)

    def request(self) -> CheckpointRequest | ModuleRequest:
        """What another process opens: the file, without the network that was loaded from it.

        A module need not be importable there, as one of a notebook is not: it is told as the
        program that PyTorch made of it.

        Raises:
            RunError: PyTorch cannot save the module's program.
        """
        from segdeploy.deploy.models.module import LoadedModule

        net = self.checkpoint
        if isinstance(net, LoadedModule):
            return ModuleRequest(
                name=self.name,
                module=net.name,
                program=net.saved,
                preprocess=net.preprocess,
                output=net.output,
                activation=net.activation,
                returned=net.returned,
                sha256=net.sha256,
            )
        return CheckpointRequest(
            name=self.name,
            path=net.path,
            arch=net.arch,
            recurrence=net.recurrence,
            head=net.head,
            logits=net.logits,
            weights=net.weights,
            preprocess=net.preprocess,
            output=net.output,
        )


@dataclass(frozen=True, kw_only=True)
class CheckpointRequest:
    """A checkpoint by its file, and what its keys cannot tell.

    Attributes:
        name: of the subject.
        path: of the file.
        arch: the network.
        recurrence: R2U-Net's t; ``None`` for other networks.
        head: of UNet++; ``None`` for other networks.
        logits: whether the trained network returned logits.
        weights: its name in a file that holds several; ``None`` where there is one.
        preprocess: the input contract.
        output: the output contract.
    """

    name: str
    path: Path
    arch: Architecture
    recurrence: int | None
    head: int | None
    logits: bool
    weights: str | None
    preprocess: Preprocess
    output: OutputContract


@dataclass(frozen=True, kw_only=True)
class ModuleRequest:
    """A module by the program that PyTorch made of it.

    Attributes:
        name: of the subject.
        module: name of the network.
        program: the file.
        preprocess: the input contract.
        output: the output contract.
        activation: what makes probabilities of what it returns.
        returned: which of the tensors it returns.
        sha256: of its operators and weights.
    """

    name: str
    module: str
    program: Path
    preprocess: Preprocess
    output: OutputContract
    activation: Activation | None
    returned: int
    sha256: str


Subject = FileSubject | CheckpointSubject
Request = FileSubject | CheckpointRequest | ModuleRequest
"""A subject as another process is told of it."""


def import_packages(request: Request) -> None:
    """Import what a subject needs, so that the time and memory of imports can be told apart."""
    if isinstance(request, FileSubject):
        import_backend(request.entry.runtime)
    else:
        importlib.import_module("segdeploy.deploy.models.checkpoint")
        importlib.import_module("segdeploy.deploy.runtimes.pytorch")


def output_contract(request: Request) -> OutputContract:
    """What the channels of a subject's output mean.

    Raises:
        InputError: the file states no contract.
    """
    if isinstance(request, FileSubject):
        return output_of(request.entry.artifact)
    return request.output


def read_request(request: Request) -> Subject:
    """The subject of a request; a checkpoint is loaded now, a model file when it is opened.

    Raises:
        InputError: the checkpoint cannot be read.
    """
    if isinstance(request, FileSubject):
        return request
    if isinstance(request, ModuleRequest):
        from segdeploy.deploy.models.module import LoadedModule, network_in

        module = LoadedModule(
            network=network_in(request.program),
            preprocess=request.preprocess,
            output=request.output,
            name=request.module,
            activation=request.activation,
            returned=request.returned,
            origin="a program",
            weights=request.program,
            sha256=request.sha256,
        )
        return CheckpointSubject(name=request.name, checkpoint=module)
    from segdeploy.deploy.models.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(
        request.path,
        arch=request.arch,
        recurrence=request.recurrence,
        head=request.head,
        logits=request.logits,
        weights=request.weights,
        preprocess=request.preprocess,
        output=request.output,
    )
    return CheckpointSubject(name=request.name, checkpoint=checkpoint)
