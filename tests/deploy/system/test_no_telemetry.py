"""Runtimes that report to their makers are told not to, and leave nothing in the home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from segdeploy.deploy.system.no_telemetry import REPORTERS, VARIABLES, refuse_telemetry

CI = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "JENKINS_URL", "PYTEST_CURRENT_TEST")
"""Where one of these is set the runtimes are silent by themselves, and nothing would be proven."""
USE = """
import sys
from pathlib import Path
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.onnx_model.file import describe
from segdeploy.deploy.runtimes.base import Execution
from segdeploy.deploy.runtimes.registry import RuntimeName, availability, open_runtime

for name in (RuntimeName.ONNXRUNTIME, RuntimeName.OPENVINO):
    if availability(name).ready:
        with open_runtime(name, describe(Path(sys.argv[1])), execution=Execution(threads=1)):
            pass
"""


def test_no_runtime_leaves_a_trace_in_the_home_folder(
    tmp_path: Path, small_onnx: Callable[..., Path]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in (*CI, *VARIABLES)}
    environment |= {"HOME": str(home), "TMPDIR": str(home), "XDG_CACHE_HOME": str(home)}
    subprocess.run(
        [sys.executable, "-c", USE, str(small_onnx(tmp_path / "net.onnx"))],
        cwd=Path(__file__).parents[3],
        env=environment,
        check=True,
    )
    assert [path.name for path in home.rglob("*")] == []


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = object()
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.delenv("NNCF_CI", raising=False)
    monkeypatch.setitem(sys.modules, *REPORTERS, loaded)  # type: ignore[arg-type]  # a stand-in
    refuse_telemetry()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    assert os.environ["NNCF_CI"] == VARIABLES["NNCF_CI"]
    assert sys.modules[REPORTERS[0]] is loaded
