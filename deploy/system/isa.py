"""A processor's instruction sets, and what they mean for a quantized model."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

# fmt: off
ISA_FLAGS = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16",
    "amx_int8", "amx_bf16", "amx_fp16",
    "asimdhp", "asimddp", "i8mm", "bf16", "sve",
)
# fmt: on
"""Instruction sets that matter for low precision, by the names the Linux kernel gives them.

The last row is Arm's: half precision, int8 dot product, int8 and bf16 matrix product, SVE.
"""

SUMS_IN_32_BITS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Any of these adds products of bytes in 32 bits; other x86 processors add pairs of them in 16."""

ONEDNN_LIMIT = "ONEDNN_MAX_CPU_ISA"
"""The variable that takes instruction sets away from oneDNN, with which OpenVINO computes."""

_ONEDNN_WITHOUT = {"SSE41", "AVX", "AVX2", "AVX512_CORE"}
"""Its values with which no instruction of ``SUMS_IN_32_BITS`` is left."""


@dataclass(frozen=True, kw_only=True)
class InstructionSet:
    """One capability and what it is worth.

    Attributes:
        name: for people.
        flags: any of these Linux names says the processor has it.
        with_it: what it means to have it.
        without_it: what it means to lack it.
    """

    name: str
    flags: tuple[str, ...]
    with_it: str
    without_it: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Whether a processor has an instruction set, and what that means in a few words."""

    name: str
    present: bool
    meaning: str


X86 = (
    InstructionSet(
        name="AVX-512",
        flags=("avx512f",),
        with_it="vectors of 512 bits",
        without_it="vectors of 256 bits at most: about half the work per instruction",
    ),
    InstructionSet(
        name="VNNI",
        flags=("avx512_vnni", "avx_vnni"),
        with_it="an int8 product and its sum in one instruction: int8 is faster, 8-bit weights "
        "cannot saturate",
        without_it="int8 gains little and 8-bit weights can saturate: use 7 bits, --target "
        "ort-x86-no-vnni or openvino-cpu-no-vnni",
    ),
    InstructionSet(
        name="AMX",
        flags=("amx_int8",),
        with_it="int8 products of whole tiles: the largest gain of int8",
        without_it="no products of whole tiles: int8 gains what VNNI gives",
    ),
    InstructionSet(
        name="bf16",
        flags=("avx512_bf16", "amx_bf16"),
        with_it="layers that are not quantized can run in bf16",
        without_it="layers that are not quantized run in fp32",
    ),
)
ARM = (
    InstructionSet(
        name="dot product",
        flags=("asimddp",),
        with_it="four int8 products and their sum in one instruction: int8 is faster",
        without_it="int8 gains little",
    ),
    InstructionSet(
        name="i8mm",
        flags=("i8mm",),
        with_it="int8 products of small matrices: the largest gain of int8",
        without_it="int8 gains what the dot product gives",
    ),
    InstructionSet(
        name="fp16",
        flags=("asimdhp",),
        with_it="fp16 files can run in fp16",
        without_it="fp16 only stores weights",
    ),
    InstructionSet(
        name="bf16",
        flags=("bf16",),
        with_it="layers that are not quantized can run in bf16",
        without_it="layers that are not quantized run in fp32",
    ),
)


def parse_cpuinfo(text: str) -> tuple[str | None, tuple[str, ...]]:
    r"""Model name and instruction sets of the first processor that ``/proc/cpuinfo`` tells them of.

    Example:
        >>> parse_cpuinfo("model name\t: Some CPU\nflags\t\t: fpu avx2 avx512f\n")
        ('Some CPU', ('avx2', 'avx512f'))

    Args:
        text: the file's text; x86 lists ``flags``, Arm ``Features``.

    Returns:
        The model, ``None`` where it is not told (Arm), and those of ``ISA_FLAGS`` found.
    """
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    present = fields.get("flags", fields.get("Features", "")).split()
    return fields.get("model name"), tuple(flag for flag in ISA_FLAGS if flag in present)


def processor() -> tuple[str | None, tuple[str, ...]]:
    """Model name and instruction sets of this machine; empty where the system does not tell."""
    text = CPUINFO.read_text("utf-8", errors="replace") if CPUINFO.is_file() else ""
    return parse_cpuinfo(text)


def left_to_onednn(isa: Collection[str], limit: str | None) -> tuple[str, ...]:
    """The instruction sets that oneDNN may use.

    Example:
        >>> left_to_onednn(["avx2", "avx512_vnni"], "AVX2")
        ('avx2',)

    Args:
        isa: of the processor.
        limit: the value of ``ONEDNN_LIMIT``; ``None`` where nothing is taken away.
    """
    taken = SUMS_IN_32_BITS if (limit or "").upper() in _ONEDNN_WITHOUT else frozenset()
    return tuple(name for name in isa if name not in taken)


def saturates(*, machine: str, isa: Collection[str]) -> bool:
    """Whether sums of products of 8 bits by 8 bits can saturate: x86 without VNNI and AMX.

    There ``vpmaddubsw`` adds two products in 16 bits: 2 * 255 * 127 is beyond 32767, 2 * 255 * 64
    is within. Nothing is said where the instruction sets are not known.

    Args:
        machine: as ``platform.machine()`` gives it.
        isa: instruction sets by their Linux names; empty where they are not known.
    """
    x86 = machine.lower() in ("x86_64", "amd64")
    return x86 and bool(isa) and not SUMS_IN_32_BITS & set(isa)


def usable(*, onednn: bool) -> tuple[str, ...]:
    """This machine's instruction sets, for oneDNN with what the environment leaves it."""
    isa = processor()[1]
    return left_to_onednn(isa, os.environ.get(ONEDNN_LIMIT)) if onednn else isa


def findings(*, machine: str, isa: Collection[str]) -> tuple[Finding, ...]:
    """What a processor has and lacks.

    Example:
        >>> [(f.name, f.present) for f in findings(machine="x86_64", isa=["avx2", "avx_vnni"])]
        [('AVX-512', False), ('VNNI', True), ('AMX', False), ('bf16', False)]

    Args:
        machine: as ``platform.machine()`` gives it.
        isa: instruction sets by their Linux names.

    Returns:
        Nothing where the system does not tell the instruction sets, or the processor is another.
    """
    known = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}.get(machine.lower(), ())
    if not isa:
        return ()
    return tuple(
        Finding(
            name=entry.name,
            present=bool(set(entry.flags) & set(isa)),
            meaning=entry.with_it if set(entry.flags) & set(isa) else entry.without_it,
        )
        for entry in known
    )
