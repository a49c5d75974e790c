"""Whether an int8 file computes right on this processor."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
from onnx import TensorProto, numpy_helper

from segdeploy.deploy.onnx_model.file import load_model
from segdeploy.deploy.runtimes.registry import RuntimeName
from segdeploy.deploy.system.isa import saturates, usable
from segdeploy.deploy.targets.profiles import OPENVINO_CPU, ORT_X86

SEVEN_BITS = 64
"""Two products of a byte and a weight up to this fit in 16 bits: 2 * 255 * 64 < 2**15."""

NARROW = {
    RuntimeName.OPENVINO: OPENVINO_CPU.without_vnni,
    RuntimeName.ONNXRUNTIME: ORT_X86.without_vnni,
}
"""What a runtime of the CPU wants of an x86 processor without VNNI."""


def saturation(path: Path, runtime: RuntimeName) -> str | None:
    """What an int8 file suffers on this processor, and what mends it; ``None`` if nothing.

    Args:
        path: an ONNX file.
        runtime: what runs it.

    Raises:
        InputError: no ONNX file.
    """
    narrow = NARROW.get(runtime)
    isa = usable(onednn=runtime is RuntimeName.OPENVINO)
    if narrow is None or not saturates(machine=platform.machine(), isa=isa):
        return None
    if not weights_of_8_bits(path):
        return None
    return (
        "products of 8 bits can saturate here: this processor has no VNNI, or may not use it, and "
        f"the file's weights have 8 bits; make it with --target {narrow}, whose weights have 7"
    )


def weights_of_8_bits(path: Path) -> bool:
    """Whether a file multiplies unsigned bytes by weights beyond ``SEVEN_BITS``.

    Raises:
        InputError: no ONNX file.
    """
    constants = load_model(path).graph.initializer
    unsigned = any(tensor.data_type == TensorProto.UINT8 for tensor in constants)
    return unsigned and any(
        int(np.abs(numpy_helper.to_array(tensor).astype(np.int16)).max(initial=0)) > SEVEN_BITS
        for tensor in constants
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1
    )
