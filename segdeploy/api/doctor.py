"""Doctor: what this machine has, and which runtimes are ready."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from segdeploy.benchmarks.speed.environment import Environment
from segdeploy.benchmarks.speed.environment import describe as describe_environment
from segdeploy.deploy.runtimes.base import Availability
from segdeploy.deploy.runtimes.pytorch_ready import VARIANTS, pytorch_availability
from segdeploy.deploy.runtimes.registry import RuntimeName, availability, usable_cores
from segdeploy.deploy.system.isa import Finding, findings

NOT_RUN = (RuntimeName.ONNXRUNTIME_CUDA, RuntimeName.ONNXRUNTIME_TENSORRT, "pytorch-cuda")
"""Runtimes that this project could not run on their hardware."""


@dataclass(frozen=True, kw_only=True)
class RuntimeState(Availability):
    """Whether a runtime is ready here, and how it computes.

    Attributes:
        default_precision: of float layers when nothing is said; ``None`` where it is not ready.
        hardware_run: whether this project ran it on its hardware.
    """

    default_precision: str | None
    hardware_run: bool


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What this machine has.

    Attributes:
        environment: hardware and versions.
        instruction_sets: those that int8 gains from, there or not.
        threads: processors this process may use.
        runtimes: ready or with the reason why not.
    """

    environment: Environment
    instruction_sets: tuple[Finding, ...]
    threads: int
    runtimes: tuple[RuntimeState, ...]


def doctor() -> Machine:
    """Say what this machine has, what that means for int8, and which runtimes are ready."""
    environment = describe_environment()
    states = [availability(name) for name in RuntimeName]
    states += [pytorch_availability(compiled=c, device=device) for c, device in VARIANTS]
    return Machine(
        environment=environment,
        instruction_sets=tuple(findings(machine=platform.machine(), isa=environment.isa)),
        threads=usable_cores(),
        runtimes=tuple(map(_state, states)),
    )


def default_precision(name: str) -> str | None:
    """What a runtime computes float layers in when nothing is said; ``None`` if not known.

    OpenVINO is asked, for it decides by the processor. The others take fp32 on a CPU; on an NVIDIA
    GPU PyTorch and ONNX Runtime let convolutions round to TF32.
    """
    if name == RuntimeName.OPENVINO:
        from segdeploy.deploy.runtimes.openvino_core import openvino_core

        hint = openvino_core().get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name()
        return {"f32": "fp32", "f16": "fp16"}.get(hint, str(hint))
    return "tf32" if name in (RuntimeName.ONNXRUNTIME_CUDA, "pytorch-cuda") else "fp32"


def _state(found: Availability) -> RuntimeState:
    return RuntimeState(
        name=found.name,
        version=found.version,
        reason=found.reason,
        default_precision=default_precision(found.name) if found.ready else None,
        hardware_run=found.name not in NOT_RUN,
    )
