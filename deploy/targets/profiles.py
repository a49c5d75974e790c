"""Target profiles: the int8 arithmetic each device runs fastest, as data.

Sources: ONNX Runtime's quantization guide (u8 activations and s8 weights on x86, 7-bit weights
where the processor lacks VNNI, s8 on Arm; symmetric s8 with float bias for TensorRT), OpenVINO's
low-precision transformations (u8 activations, s8 weights, one scale for each output channel;
openvinotoolkit/openvino#25342 for 7-bit weights without VNNI), NVIDIA's TensorRT guide on explicit
quantization (symmetric s8 with zero point 0 only).
"""

from __future__ import annotations

import platform
from collections.abc import Collection
from dataclasses import dataclass

from segdeploy.calibration.qparams import QuantType
from segdeploy.deploy.runtimes.registry import RuntimeName
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.isa import saturates, usable
from segdeploy.deploy.targets import kernels
from segdeploy.deploy.targets.kernels import Kernels

SHARED_SCALE_COST_DB = 3.0
"""SQNR a tensor may lose, at most, so that a Concat can copy instead of rescale."""


@dataclass(frozen=True, kw_only=True)
class TargetProfile:
    """What a device wants of an int8 model.

    Attributes:
        name: the command-line name.
        runtime: what executes it, or, where ``hardware`` is set, what stands in for the device.
        hardware: the device it is for, where this project has not run it on that device.
        activation_type: integer type of activations.
        activation_symmetric: zero points are 0; otherwise a tensor with negative values gets an
            offset.
        weight_type: integer type of weights, always symmetric.
        per_channel: one weight scale for each output channel.
        reduce_range: weights use 7 bits, so that 8-bit products cannot saturate 16-bit sums on
            processors without VNNI.
        quantize_bias: biases are int32; otherwise they stay float.
        shared_scale_cost_db: SQNR a tensor may lose so that a Concat's inputs and output share
            one scale; ``None`` shares none.
        processors: what the file is for, in words.
        without_vnni: the target for x86 processors on which this one's 8-bit products saturate.
        kernels: what runs on integers there, and what would be in the way.
    """

    name: str
    runtime: RuntimeName
    hardware: str | None = None
    processors: str
    without_vnni: str | None = None
    activation_type: QuantType
    activation_symmetric: bool
    weight_type: QuantType = QuantType.S8
    per_channel: bool = True
    reduce_range: bool = False
    quantize_bias: bool = True
    shared_scale_cost_db: float | None = SHARED_SCALE_COST_DB
    kernels: Kernels


ORT_X86 = TargetProfile(
    name="ort-x86",
    runtime=RuntimeName.ONNXRUNTIME,
    processors="x86 with VNNI or AMX",
    without_vnni="ort-x86-no-vnni",
    kernels=kernels.ONNXRUNTIME_CPU,
    activation_type=QuantType.U8,
    activation_symmetric=False,
)
ORT_X86_NO_VNNI = TargetProfile(
    name="ort-x86-no-vnni",
    runtime=RuntimeName.ONNXRUNTIME,
    hardware="x86 without VNNI",
    processors="x86 of any kind: its weights have 7 bits",
    kernels=kernels.ONNXRUNTIME_CPU,
    activation_type=QuantType.U8,
    activation_symmetric=False,
    reduce_range=True,
)
ORT_ARM = TargetProfile(
    name="ort-arm",
    runtime=RuntimeName.ONNXRUNTIME,
    hardware="Arm",
    processors="Arm",
    kernels=kernels.ONNXRUNTIME_CPU,
    activation_type=QuantType.S8,
    activation_symmetric=True,
)
OPENVINO_CPU = TargetProfile(
    name="openvino-cpu",
    runtime=RuntimeName.OPENVINO,
    processors="x86 with VNNI or AMX, and Arm",
    without_vnni="openvino-cpu-no-vnni",
    kernels=kernels.OPENVINO_CPU,
    activation_type=QuantType.U8,
    activation_symmetric=False,
)
OPENVINO_CPU_NO_VNNI = TargetProfile(
    name="openvino-cpu-no-vnni",
    runtime=RuntimeName.OPENVINO,
    processors="x86 of any kind, and Arm: its weights have 7 bits",
    kernels=kernels.OPENVINO_CPU,
    activation_type=QuantType.U8,
    activation_symmetric=False,
    reduce_range=True,
)
TENSORRT = TargetProfile(
    name="tensorrt",
    runtime=RuntimeName.ONNXRUNTIME,
    hardware="NVIDIA GPU with TensorRT",
    processors="NVIDIA GPUs with TensorRT",
    kernels=kernels.TENSORRT,
    activation_type=QuantType.S8,
    activation_symmetric=True,
    quantize_bias=False,
)
PROFILES = {
    profile.name: profile
    for profile in (
        ORT_X86,
        ORT_X86_NO_VNNI,
        ORT_ARM,
        OPENVINO_CPU,
        OPENVINO_CPU_NO_VNNI,
        TENSORRT,
    )
}

EVERY_KERNELS = tuple({id(each.kernels): each.kernels for each in PROFILES.values()}.values())
"""Of all targets: one calibration serves them all."""


def made_for(target: str | None) -> str | None:
    """Which processors an int8 file of a target is for, in words; ``None`` of no known target.

    Example:
        >>> made_for("ort-x86")
        'x86 with VNNI or AMX (x86 without: --target ort-x86-no-vnni)'
    """
    profile = PROFILES.get(target or "")
    if profile is None:
        return None
    narrow = profile.without_vnni
    return profile.processors + (f" (x86 without: --target {narrow})" if narrow else "")


def profile_named(name: str) -> TargetProfile:
    """Look a profile up.

    Raises:
        UsageError: no such target; the message lists the names.
    """
    if name not in PROFILES:
        raise UsageError(f"target {name!r} is unknown; choose from {', '.join(sorted(PROFILES))}")
    return PROFILES[name]


def native_profile(runtime: RuntimeName, *, machine: str, isa: Collection[str]) -> TargetProfile:
    """The profile for a runtime on a machine.

    Example:
        >>> native_profile(RuntimeName.ONNXRUNTIME, machine="x86_64", isa=["avx2"]).name
        'ort-x86-no-vnni'
        >>> native_profile(RuntimeName.OPENVINO, machine="x86_64", isa=["avx2"]).name
        'openvino-cpu-no-vnni'

    Args:
        runtime: installed here.
        machine: as ``platform.machine()`` gives it.
        isa: instruction sets that the runtime may use, by their Linux names; empty where they are
            not known.
    """
    narrow = saturates(machine=machine, isa=isa)
    if runtime is RuntimeName.OPENVINO:
        return OPENVINO_CPU_NO_VNNI if narrow else OPENVINO_CPU
    if machine.lower() in ("aarch64", "arm64"):
        return ORT_ARM
    return ORT_X86_NO_VNNI if narrow else ORT_X86


def native_profile_here(runtime: RuntimeName) -> TargetProfile:
    """The profile for a runtime on this machine, with the instruction sets it may use."""
    isa = usable(onednn=runtime is RuntimeName.OPENVINO)
    return native_profile(runtime, machine=platform.machine(), isa=isa)
