"""Verbs on files that are not checkpoints do their work without PyTorch, workers included.

Importing it takes seconds and 250 MB. In place of torch stands a package that says who wanted it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import report_builders

STAND_IN = """
import pathlib, traceback
with pathlib.Path(__file__).parents[1].joinpath("wanted.txt").open("a") as stream:
    traceback.print_stack(file=stream)
raise ImportError("torch must not be imported here")
"""

VERBS = {
    "doctor": "doctor",
    "data prepare": "data prepare {raw} -o out",
    "adopt": "adopt {fp32} --preprocess published --calib-data {set} -o out.onnx",
    "simplify": "simplify -m {fp32} -o out.onnx",
    "convert": "convert -m {fp32} -o out.onnx",
    "rewrite": "rewrite -m {fp32} -o out.onnx --rewrites dead-channels any-size --calib-data {set}",
    "calibrate": "calibrate -m {fp32} --calib-data {set} -o out.json --threads 1",
    "quantize": "quantize -m {fp32} --calibration {table} --target ort-x86 -o out.onnx",
    "quantize to a budget": "quantize -m {fp32} --calibration {table} --target ort-x86 "
    "--max-drop 100 --time-budget 1m --reference {fp32} --data {set} -o out.onnx",
    "parity": "parity -m {int8} --reference {fp32} --data {set} --max-drop 100 --threads 1",
    "benchmark": "benchmark -m {fp32} {int8} --data {set} --runtime onnxruntime --warmup 1 "
    "--duration 0.05 --batch 1 --threads 1",
    "benchmark from files to files": "benchmark -m {fp32} --end-to-end {set}/images --warmup 1 "
    "--duration 0.05 --threads 1 --runtime onnxruntime",
    "predict": "predict {fp32} {set}/images -o out --threads 1 --runtime auto",
    "package": "package -m {fp32} --target onnx --data {set} -o out",
    "package for TensorRT": "package -m {trt} {fp32} --target tensorrt --data {set} -o out",
    "report": "report {report}",
    "report on two runs": "report --compare {report} {report} -o out",
    "verify": "verify {masks}",
    "help": "--help",
    "debug": "debug -m {fp32} --calib-data {set} --calibration {table} --target ort-x86",
}

Run = Callable[[str, Path], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a torch that cannot be imported."""
    folder = tmp_path_factory.mktemp("stand_in")
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text(STAND_IN)
    return folder


@pytest.fixture(scope="module")
def run(stand_in: Path) -> Run:
    """Run ``segdeploy`` in a folder, where nothing can import torch."""

    def command(words: str, folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "segdeploy", *words.split()],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(stand_in)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return command


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path], run: Run
) -> dict[str, Path]:
    """What the verbs read, by the words of ``VERBS``."""
    folder = tmp_path_factory.mktemp("files")
    found = {
        "fp32": tiny_models["fp32"],
        "int8": tiny_models["int8 ort-x86"],
        "trt": tiny_models["int8 tensorrt"],
        "set": tiny_models["fp32"].parent / "set",
        "raw": folder / "raw",
        "table": folder / "net.calib.json",
        "report": folder / "run",
        "masks": folder / "masks",
    }
    made = (
        f"calibrate -m {found['fp32']} --calib-data {found['set']} -o {found['table']}",
        f"predict {found['fp32']} {found['set'] / 'images'} -o {found['masks']}",
    )
    for words in made:
        assert run(words, folder).returncode == 0, words
    found["report"].mkdir()
    text = json.dumps(report_builders.sample_report())
    (found["report"] / "report.json").write_text(text)
    return found


@pytest.mark.parametrize("words", VERBS.values(), ids=VERBS)
def test_torch_is_not_imported(
    words: str, files: dict[str, Path], run: Run, stand_in: Path, raw_set: Path, tmp_path: Path
) -> None:
    found = run(words.format(**files | {"raw": raw_set}), tmp_path)
    wanted = stand_in / "wanted.txt"
    who = wanted.read_text() if wanted.exists() else ""
    wanted.unlink(missing_ok=True)
    assert who == ""
    assert found.returncode == 0, found.stderr


START = {
    "import segdeploy": "import segdeploy",
    "segdeploy --help": "from segdeploy.cli.main import main\nmain(['--help'])",
    "segdeploy run --help": "from segdeploy.cli.main import main\nmain(['run', '--help'])",
}
HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "scipy", "matplotlib", "jinja2", "PIL", "psutil")
START_S = 0.3


@pytest.mark.parametrize("code", START.values(), ids=START)
def test_starting_imports_nothing_heavy(code: str) -> None:
    script = (
        "import atexit, sys, time\n"
        f"@atexit.register\ndef say(): print([n for n in {HEAVY} if n in sys.modules], "
        "time.process_time(), file=sys.stderr)\n" + code
    )
    found = []
    for _ in range(3):  # the least is what it takes; another process may have been in the way
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        heavy, _, seconds = done.stderr.splitlines()[-1].rpartition(" ")
        assert heavy == "[]"
        found.append(float(seconds))
    assert min(found) < START_S


def test_the_stand_in_says_who_wanted_torch(run: Run, stand_in: Path, tmp_path: Path) -> None:
    found = run("export -c missing.pth -o net.onnx", tmp_path)
    assert found.returncode == 4  # torch is looked for before the file
    assert "segdeploy/cli" in (stand_in / "wanted.txt").read_text()
    (stand_in / "wanted.txt").unlink()
