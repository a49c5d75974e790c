"""Whether PyTorch can run a network here as asked; looks without importing PyTorch if it can."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from segdeploy.deploy.runtimes.base import Availability
from segdeploy.deploy.system.errors import InputError

VARIANTS = ((False, "cpu"), (True, "cpu"), (False, "cuda"))
"""What ``segdeploy doctor`` lists: (compiled, device)."""


def pytorch_availability(*, compiled: bool, device: str) -> Availability:
    """Whether one way to run PyTorch is ready, or why not and the fix.

    Args:
        compiled: by ``torch.compile``, which writes C++ on the CPU.
        device: ``cpu`` or ``cuda``.
    """
    name = "-".join(
        ["pytorch", *(["compiled"] if compiled else []), *([device] if device != "cpu" else [])]
    )
    version = importlib.metadata.version("torch")
    reason = None
    if device == "cuda":
        reason = _no_gpu(version)
    elif compiled:
        reason = _no_compiler()
    return Availability(name=name, version=None if reason else version, reason=reason)


def require_ready(*, compiled: bool, device: str) -> str:
    """The runtime's name, if it is ready.

    Raises:
        InputError: it is not, or the device is neither ``cpu`` nor ``cuda``.
    """
    if device not in ("cpu", "cuda"):
        raise InputError(f"PyTorch runs here on device cpu or cuda, not {device!r}")
    state = pytorch_availability(compiled=compiled, device=device)
    if not state.ready:
        raise InputError(f"{state.name}: {state.reason}")
    return state.name


def _no_compiler() -> str | None:
    """What ``torch.compile`` lacks on the CPU; ``None`` when it lacks nothing."""
    default = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX", default)
    if shutil.which(compiler) is None:
        return (
            f"torch.compile needs a C++ compiler and {compiler} is not found; install one "
            "(apt install g++) or name yours in CXX"
        )
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "torch.compile needs Python's C headers; install them (apt install python3-dev)"
    return None


def _no_gpu(version: str) -> str | None:
    """Why PyTorch sees no NVIDIA GPU; ``None`` when it sees one."""
    fix = "install the CUDA build on a machine with an NVIDIA GPU (not run on hardware)"
    if version.endswith("+cpu"):
        return f"this PyTorch ({version}) is built for the CPU alone; {fix}"
    import torch

    return None if torch.cuda.is_available() else f"PyTorch {version} sees no NVIDIA GPU; {fix}"
