"""Who takes part when speed is compared: what each runs, where, and in which precision."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from segdeploy.benchmarks.peers.models import Made, Model, SpeedSubject
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.runtimes.base import Runtime
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.registry import RuntimeName, availability, open_runtime
from segdeploy.deploy.system.errors import InputError
from segdeploy.deploy.targets.profiles import native_profile_here


class Group(str, Enum):
    """Whose work a contender is, for the comparison and the chart."""

    PYTORCH = "PyTorch"
    ONNXRUNTIME = "ONNX Runtime"
    OPENVINO = "OpenVINO"
    NNCF = "NNCF"
    OURS = "segdeploy"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One row of the comparison.

    Attributes:
        name: in the table and the chart.
        group: whose work it is.
        model: what runs; ``None`` is the checkpoint in PyTorch.
        runtime: where a model file runs.
        precision: of the layers that are not quantized.
        compiled: by ``torch.compile``.
        channels_last: PyTorch's faster memory layout for convolutions on processors.
        pruned: it is UNet++ without its outermost level.
    """

    name: str
    group: Group
    model: Model | None = None
    runtime: RuntimeName | None = None
    precision: Precision = Precision.FP32
    compiled: bool = False
    channels_last: bool = False
    pruned: bool = False

    @property
    def requested(self) -> Precision:
        """What was asked for."""
        whole = self.model in (None, Model.FLOAT)
        return self.precision if whole else Precision.INT8

    def missing(self) -> str | None:
        """Why the contender cannot run here, as far as that shows without running it."""
        return availability(self.runtime).reason if self.runtime else None

    def open(
        self, subject: SpeedSubject, models: Mapping[Model, Made], execution: Execution
    ) -> Runtime:
        """Load what the contender runs.

        Raises:
            InputError: the model or the runtime is missing, or the runtime does not accept it.
        """
        execution = replace(execution, precision=self.precision)
        if self.model is None or self.runtime is None:
            return self._pytorch(subject, execution)
        made = models[self.model]
        if made.artifact is None:
            raise InputError(made.skipped or "there is no model")
        return open_runtime(self.runtime, made.artifact, execution=execution)

    def _pytorch(self, subject: SpeedSubject, execution: Execution) -> Runtime:
        import torch

        from segdeploy.deploy.runtimes.pytorch import PyTorchRuntime

        checkpoint = subject.checkpoint
        if self.channels_last:
            checkpoint = replace(checkpoint, network=copy.deepcopy(checkpoint.network))
            for weight in checkpoint.network.parameters():
                if weight.ndim == 4:
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        return PyTorchRuntime(checkpoint, execution=execution, compiled=self.compiled)


BASELINE = Contender(name="PyTorch eager fp32", group=Group.PYTORCH)
"""What every other contender's figures are so many times of."""


def contenders(*, pruned: bool = False) -> tuple[Contender, ...]:
    """Everybody, in the order of the table; the baseline first.

    Args:
        pruned: with ours of the network without its outermost level.
    """
    return (*_whole_network(), *(_pruned() if pruned else ()))


def quantized_contenders(*, tuned: bool = False) -> tuple[Contender, ...]:
    """Every int8 model of a whole network on the runtime it is for, and float on each runtime.

    Args:
        tuned: with ours whose placement was searched for on this machine.
    """
    whole = [c for c in _whole_network() if c.runtime and c.precision is Precision.FP32]
    control = _file(
        "NNCF accuracy control, OpenVINO", Group.NNCF, Model.NNCF_ACCURACY, RuntimeName.OPENVINO
    )
    searched = (
        (Model.TUNED_ORT, RuntimeName.ONNXRUNTIME, "ONNX Runtime"),
        (Model.TUNED_OPENVINO, RuntimeName.OPENVINO, "OpenVINO"),
    )
    ours = [
        _file(f"segdeploy {_target(runtime)} tuned, {words}", Group.OURS, model, runtime)
        for model, runtime, words in searched
    ]
    return (*whole, control, *(ours if tuned else ()))


def _target(runtime: RuntimeName) -> str:
    """Name of our target for a runtime of this machine."""
    return native_profile_here(runtime).name


def _pruned() -> tuple[Contender, ...]:
    rows = (
        (f"segdeploy L3 {_target(RuntimeName.ONNXRUNTIME)}, ONNX Runtime", Model.PRUNED_ORT),
        (f"segdeploy L3 {_target(RuntimeName.OPENVINO)}, OpenVINO", Model.PRUNED_OPENVINO),
    )
    runtimes = (RuntimeName.ONNXRUNTIME, RuntimeName.OPENVINO)
    return tuple(
        replace(_file(name, Group.OURS, model, runtime), pruned=True)
        for (name, model), runtime in zip(rows, runtimes, strict=True)
    )


def _whole_network() -> tuple[Contender, ...]:
    bf16, ort, openvino = Precision.BF16, RuntimeName.ONNXRUNTIME, RuntimeName.OPENVINO
    return (
        BASELINE,
        replace(BASELINE, name="PyTorch eager bf16", precision=bf16, channels_last=True),
        replace(BASELINE, name="torch.compile fp32", compiled=True, channels_last=True),
        replace(
            BASELINE,
            name="torch.compile bf16",
            precision=bf16,
            compiled=True,
            channels_last=True,
        ),
        _file("ONNX Runtime fp32", Group.ONNXRUNTIME, Model.FLOAT, ort),
        _file("ONNX Runtime quantize_static", Group.ONNXRUNTIME, Model.ORT_STATIC, ort),
        _file("OpenVINO fp32", Group.OPENVINO, Model.FLOAT, openvino),
        _file("OpenVINO bf16", Group.OPENVINO, Model.FLOAT, openvino, bf16),
        _file("NNCF performance, OpenVINO", Group.NNCF, Model.NNCF_PERFORMANCE, openvino),
        _file("NNCF mixed, OpenVINO", Group.NNCF, Model.NNCF_MIXED, openvino),
        _file(
            f"segdeploy {_target(ort)}, ONNX Runtime",
            Group.OURS,
            Model.OURS_ORT,
            ort,
        ),
        _file(
            f"segdeploy {_target(openvino)}, OpenVINO", Group.OURS, Model.OURS_OPENVINO, openvino
        ),
        _file(
            f"segdeploy {_target(openvino)}, OpenVINO + bf16",
            Group.OURS,
            Model.OURS_OPENVINO,
            openvino,
            bf16,
        ),
    )


def _file(
    name: str,
    group: Group,
    model: Model,
    runtime: RuntimeName,
    precision: Precision = Precision.FP32,
) -> Contender:
    return Contender(name=name, group=group, model=model, runtime=runtime, precision=precision)
