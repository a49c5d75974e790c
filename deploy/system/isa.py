"""What a processor's instruction sets mean for a quantized model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


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
        "ort-x86-no-vnni",
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
