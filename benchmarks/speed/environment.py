"""The machine a figure was measured on: what a reader needs to judge it, nothing that names it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata

from segdeploy.calibration.json_record import Count, Text
from segdeploy.deploy.system.isa import processor

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
        isa: instruction sets that matter for low precision, of ``isa.ISA_FLAGS``; empty where only
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
    model, isa = processor()
    return Environment(
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        cpu=model or platform.processor() or platform.machine() or None,
        cores=_cores(),
        memory_bytes=_memory_bytes(),
        isa=isa,
        versions={package: _version(package) for package in PACKAGES},
    )


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
