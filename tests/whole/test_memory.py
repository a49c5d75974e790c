"""How much memory a whole command takes, on the bundled UNet++."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from segdeploy.deploy.data import bundled
from segdeploy.deploy.models.checkpoint import load_checkpoint
from segdeploy.deploy.stages.export import export

MOST = 330_000_000
"""Bytes; 283 MB were measured. The weights alone take 37, what ONNX Runtime makes of them 122."""


def test_calibrating_takes_little_more_than_the_runtime(tmp_path: Path) -> None:
    model = export(load_checkpoint(bundled.checkpoint("unet_plus_plus")), tmp_path / "net.onnx")
    command = ["calibrate", "-m", str(model.path), "-o", str(tmp_path / "net.calib.json")]
    command += ["--num-samples", "12", "--threads", "2"]
    code = (
        "from segdeploy.cli.main import main\n"
        "from segdeploy.deploy.system.memory import peak_bytes\n"
        f"assert main({command}) == 0\n"
        "print(peak_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) < MOST
