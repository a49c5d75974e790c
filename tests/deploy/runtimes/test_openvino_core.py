"""A signal does not end a process that had several OpenVINO models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import write_small_onnx

pytest.importorskip("openvino")

SCRIPT = """
import os, signal, sys
from pathlib import Path
from segdeploy.deploy.onnx_model.file import describe
from segdeploy.deploy.runtimes.base import Execution
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime

heard = []
signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
artifact = describe(Path(sys.argv[1]))
first, second = (
    open_runtime(RuntimeName.OPENVINO, artifact, execution=Execution(threads=1)) for _ in "ab"
)
for runtime in (first, second):
    runtime.__exit__(None, None, None)
del first, second, runtime
os.kill(os.getpid(), signal.SIGINT)
print("heard", heard)
"""


def test_a_signal_after_two_models_is_heard(tmp_path: Path) -> None:
    path = write_small_onnx(tmp_path / "net.onnx")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stdout) == (0, "heard [2]\n"), done.stderr
