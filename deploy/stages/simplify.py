"""Simplify an ONNX graph with onnxsim, whose failure must not take the pipeline down."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import (
    describe,
    load_model,
    metadata,
    require_fp32,
    save_model,
    set_metadata,
)

log = logging.getLogger(__name__)

TIME_LIMIT_S = 300.0

ONNXSIM = (
    "import runpy, sys; sys.path.remove(''); sys.modules['torch'] = None; "
    "runpy.run_module('onnxsim', run_name='__main__', alter_sys=True)"
)
"""``python -m onnxsim`` that looks for nothing in the working folder, and without PyTorch: onnxsim
imports it where it is there, for conversions that are not asked for, which takes seconds."""


def simplify(source: Artifact, output: Path, *, time_limit_s: float = TIME_LIMIT_S) -> Artifact:
    """Constant-fold and clean the graph.

    onnxsim is native code, so it runs in a process of its own: should it crash, hang, or write
    something unreadable, the graph is passed on as it was and the reason is logged as a warning.

    Args:
        source: a float32 ONNX file.
        output: where to write.
        time_limit_s: seconds before onnxsim is stopped.

    Raises:
        InputError: the source is not a valid ONNX file, or not float32.
        OSError: the output or a temporary file cannot be written.
    """
    require_fp32(source, "a graph is simplified")
    original = load_model(source.path)
    tempfile.gettempdir()  # without one, nothing is onnxsim's fault
    try:
        model = _run_onnxsim(source.path, time_limit_s)
    except (
        FileNotFoundError,
        subprocess.SubprocessError,
        DecodeError,
        onnx.checker.ValidationError,
    ) as error:
        log.warning("onnxsim failed (%s); continuing with the graph as exported", _reason(error))
        model = original
    model.producer_name, model.producer_version = original.producer_name, original.producer_version
    set_metadata(model, metadata(original) | {"parent_sha256": source.sha256})
    save_model(model, output)
    return describe(output, model=model)


def _run_onnxsim(source: Path, time_limit_s: float) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
        result = Path(folder) / "simplified.onnx"
        try:
            subprocess.run(
                [sys.executable, "-c", ONNXSIM, str(source), str(result)],
                check=True,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=time_limit_s,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.CalledProcessError as error:
            if os.strerror(errno.ENOSPC) in error.stderr:  # would be kept as this graph's best
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder) from error
            raise
        model = onnx.load(result)  # onnxsim keeps large weights beside its file; take them in
        onnx.checker.check_model(model)
        return model


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        if error.returncode < 0:
            return f"crashed with signal {-error.returncode}"
        last_words = (error.stderr or error.stdout or "").strip().splitlines()
        return last_words[-1] if last_words else f"exit code {error.returncode}"
    return str(error)
