"""Target profiles: the int8 arithmetic each device runs fastest, as data.

Sources: ONNX Runtime's quantization guide (u8 activations and s8 weights on x86, 7-bit weights
where the processor lacks VNNI), OpenVINO's low-precision transformations (u8 or s8 activations,
s8 weights, one scale for each output channel).
"""

from __future__ import annotations

from dataclasses import dataclass

from calibration.qparams import QuantType
from deploy.errors import UsageError
from deploy.runtimes.registry import RuntimeName

DENSE_OPERATORS = frozenset({"Add", "Concat", "Conv", "MaxPool", "Resize"})
"""Operators that run on int8 tensors: convolutions, and what lies between them."""


@dataclass(frozen=True, kw_only=True)
class TargetProfile:
    """What a device wants of an int8 model.

    Attributes:
        name: the command-line name.
        runtime: what executes it on this machine; ``None`` where nothing here can.
        activation_type: integer type of activations.
        activation_symmetric: zero points are 0; otherwise a tensor with negative values gets an
            offset.
        weight_type: integer type of weights, always symmetric.
        per_channel: one weight scale for each output channel.
        reduce_range: weights use 7 bits, so that 8-bit products cannot saturate 16-bit sums on
            processors without VNNI.
        operators: operators whose inputs are quantized.
    """

    name: str
    runtime: RuntimeName | None
    activation_type: QuantType
    activation_symmetric: bool
    weight_type: QuantType
    per_channel: bool
    reduce_range: bool
    operators: frozenset[str]


ORT_X86 = TargetProfile(
    name="ort-x86",
    runtime=RuntimeName.ONNXRUNTIME,
    activation_type=QuantType.U8,
    activation_symmetric=False,
    weight_type=QuantType.S8,
    per_channel=True,
    reduce_range=False,
    operators=DENSE_OPERATORS,
)
OPENVINO_CPU = TargetProfile(
    name="openvino-cpu",
    runtime=RuntimeName.OPENVINO,
    activation_type=QuantType.U8,
    activation_symmetric=False,
    weight_type=QuantType.S8,
    per_channel=True,
    reduce_range=False,
    operators=DENSE_OPERATORS,
)
PROFILES = {profile.name: profile for profile in (ORT_X86, OPENVINO_CPU)}


def profile_named(name: str) -> TargetProfile:
    """Look a profile up.

    Raises:
        UsageError: no such target; the message lists the names.
    """
    if name not in PROFILES:
        raise UsageError(f"target {name!r} is unknown; choose from {', '.join(sorted(PROFILES))}")
    return PROFILES[name]
