"""The machine a figure was measured on: what a reader needs to judge it, nothing that names it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from segdeploy.calibration.json_record import Count, Text

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

PACKAGES = ("torch", "onnx", "onnxruntime", "onnxsim", "openvino", "numpy")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Hardware and software behind the figures; no host name, user or path.

    Attributes:
        os: system, release and machine type.
        python: version.
        cpu: model name; ``None`` where nothing tells it.
        cores: those this process may use; ``None`` where the system does not tell.
        memory_bytes: physical memory; ``None`` where the system does not tell.
        isa: instruction sets that matter for low precision, of ``ISA_FLAGS``; empty where only
            ``platform`` can be asked.
        versions: package to installed version, ``None`` when absent.
    """

    os: Text
    python: Text
    cpu: Text | None
    cores: Count | None
    memory_bytes: Count | None
    isa: tuple[Text, ...]
    versions: dict[str, str | None]


def describe() -> Environment:
    """Look at this machine."""
    cpuinfo = CPUINFO.read_text("utf-8", errors="replace") if CPUINFO.is_file() else ""
    model, isa = parse_cpuinfo(cpuinfo)
    return Environment(
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        cpu=model or platform.processor() or platform.machine() or None,
        cores=_cores(),
        memory_bytes=_memory_bytes(),
        isa=isa,
        versions={package: _version(package) for package in PACKAGES},
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


def _cores() -> int | None:
    """Cores the scheduler lets this process run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory_bytes() -> int | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
