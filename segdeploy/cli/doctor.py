"""The verb that looks at this machine: ``segdeploy doctor``."""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from segdeploy.cli.flags import (
    Group,
)
from segdeploy.cli.inputs import Options, Result

if TYPE_CHECKING:
    from segdeploy.deploy.runtimes.base import Availability
    from segdeploy.deploy.system.isa import Finding

log = logging.getLogger(__name__)


def add_flags(verb: Group) -> None:
    """None of its own."""


GIB = 2**30
NOT_RUN = ("onnxruntime-cuda", "onnxruntime-tensorrt", "pytorch-cuda")
"""Runtimes that this project could not run on their hardware."""


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Say what this machine has, what that means for int8, and which runtimes are ready."""
    from segdeploy.benchmarks.speed.environment import describe as describe_environment
    from segdeploy.deploy.runtimes.pytorch_ready import VARIANTS, pytorch_availability
    from segdeploy.deploy.runtimes.registry import RuntimeName, availability, usable_cores
    from segdeploy.deploy.system.isa import findings

    machine = describe_environment()
    found = findings(machine=platform.machine(), isa=machine.isa)
    states = [availability(name) for name in RuntimeName]
    states += [pytorch_availability(compiled=c, device=device) for c, device in VARIANTS]
    runtimes = [_runtime(state) for state in states]
    memory = machine.memory_bytes
    _say("os", machine.os)
    _say("python", machine.python)
    _say("cpu", machine.cpu or "unknown")
    _say("memory", f"{memory / GIB:.1f} GiB" if memory else "unknown")
    _say("threads", f"{usable_cores()}, all that this process may use (--threads takes fewer)")
    _say("isa", " ".join(machine.isa) or "unknown: this system does not tell")
    for finding in found:
        _say("", _isa_line(finding))
    for runtime in runtimes:
        _say(runtime["name"], _runtime_line(runtime))
    return 0, {
        "environment": asdict(machine) | {"isa": list(machine.isa)},
        "instruction_sets": [asdict(finding) for finding in found],
        "threads": usable_cores(),
        "runtimes": runtimes,
    }


def default_precision(name: str) -> str | None:
    """What a runtime computes float layers in when nothing is said; ``None`` if not known.

    OpenVINO is asked, for it decides by the processor. The others take fp32 on a CPU; on an NVIDIA
    GPU PyTorch and ONNX Runtime let convolutions round to TF32.
    """
    from segdeploy.deploy.runtimes.registry import RuntimeName

    if name == RuntimeName.OPENVINO:
        import openvino

        hint = openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name()
        return {"f32": "fp32", "f16": "fp16"}.get(hint, str(hint))
    return "tf32" if name in (RuntimeName.ONNXRUNTIME_CUDA, "pytorch-cuda") else "fp32"


def _runtime(state: Availability) -> dict[str, Any]:
    precision = default_precision(state.name) if state.ready else None
    return asdict(state) | {
        "default_precision": precision,
        "hardware_run": state.name not in NOT_RUN,
    }


def _runtime_line(runtime: dict[str, Any]) -> str:
    if runtime["reason"]:
        return f"missing: {runtime['reason']}"
    own = runtime["default_precision"]
    pinned = "" if own == "fp32" else f"; its own default here is {own}, this project asks for fp32"
    caution = "" if runtime["hardware_run"] else " (not run on hardware)"
    return f"ready, {runtime['version']}{caution}, floats in fp32{pinned}"


def _isa_line(finding: Finding) -> str:
    return f"{'has' if finding.present else 'lacks':5} {finding.name}: {finding.meaning}"


def _say(key: str, value: str) -> None:
    log.info("%-20s %s", key, value)
