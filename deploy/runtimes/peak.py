"""What a processor can multiply and add at most, to tell a measurement from a mistake."""

from __future__ import annotations

from collections.abc import Collection

from segdeploy.deploy.onnx_model.artifact import Precision

HIGHEST_HZ = 6.5e9
"""Above the clock of every processor there is: the bound is never below what one can do."""

_X86 = ("x86_64", "amd64")

_MACS_A_CYCLE: dict[Precision, tuple[tuple[str, int], ...]] = {
    Precision.FP32: (("avx512f", 32), ("avx2", 16)),
    Precision.BF16: (("amx_bf16", 512), ("avx512_bf16", 64), ("avx512f", 32), ("avx2", 16)),
    Precision.FP16: (("amx_fp16", 512), ("avx512_fp16", 64), ("avx512f", 32), ("avx2", 16)),
    Precision.INT8: (
        ("amx_int8", 1024),
        ("avx512_vnni", 128),
        ("avx512f", 64),
        ("avx_vnni", 64),
        ("avx2", 32),
    ),
}
"""Multiply-adds of a core by instruction set, best first: two vector units of 512 or 256 bits, or a
tile product of 16x16x64 bytes in 16 cycles (Intel's and AMD's optimisation manuals)."""


def most_macs_per_s(
    precision: Precision, *, threads: int, machine: str, isa: Collection[str]
) -> float | None:
    """A bound on multiply-adds in a second.

    Example:
        >>> most_macs_per_s(Precision.FP32, threads=2, machine="x86_64", isa=["avx2", "avx512f"])
        416000000000.0

    Args:
        precision: the fastest that a file may be computed in.
        threads: that compute.
        machine: as ``platform.machine()`` gives it.
        isa: instruction sets by their Linux names.

    Returns:
        ``None`` for a processor of which it is not known.
    """
    if machine.lower() not in _X86:
        return None
    known = (macs for name, macs in _MACS_A_CYCLE[precision] if name in isa)
    best = next(known, None)
    return None if best is None else best * threads * HIGHEST_HZ
