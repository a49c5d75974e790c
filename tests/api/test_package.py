"""import segdeploy: light, complete, and seen the same by types, by dir() and by attribute."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import segdeploy as sd

HEAVY = {"torch", "onnx", "onnxruntime", "openvino", "numpy", "scipy", "matplotlib"}


def loaded_after(code: str) -> set[str]:
    """Packages that a fresh interpreter has imported after some code."""
    command = f"{code}\nimport sys; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", command], check=True, capture_output=True, text=True
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_the_package_imports_nothing_heavy():
    assert not loaded_after("import segdeploy") & HEAVY


def test_an_onnx_file_is_loaded_and_predicted_without_pytorch(tiny_models: dict[str, Path]):
    path = str(tiny_models["int8 ort-x86"])
    code = (
        "import numpy, segdeploy as sd\n"
        f"net = sd.load({path!r})\n"
        "mask = sd.Predictor(net)(numpy.zeros((40, 50, 3), numpy.uint8))\n"
        "assert mask.shape == (40, 50)"
    )
    assert "torch" not in loaded_after(code)


@pytest.mark.parametrize("name", sd.__all__)
def test_every_name_can_be_used(name: str):
    assert getattr(sd, name) is getattr(sd, name)
    assert name in dir(sd)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="calibrat_e"):
        _ = sd.calibrat_e
    assert not hasattr(sd, "run_everything")


def test_types_see_the_names_that_there_are():
    tree = ast.parse(Path(sd.__file__).read_text(encoding="utf-8"))
    typed = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("segdeploy")
        for alias in node.names
    }
    assert typed == set(sd.__all__)


def test_a_room_with_the_name_of_a_verb_is_both():
    module = importlib.import_module("segdeploy.verify.verify")
    assert sd.verify.verify is module
    assert list(inspect.signature(sd.verify).parameters) == ["folder"]
    with pytest.raises(sd.InputError, match="is no folder"):
        sd.verify("nowhere")


def test_every_error_has_the_exit_code_of_the_command():
    codes = {
        error: error.exit_code
        for error in (sd.UsageError, sd.InputError, sd.CalibrationError, sd.RunError)
    }
    assert codes == {
        sd.UsageError: 2,
        sd.InputError: 3,
        sd.CalibrationError: 3,
        sd.RunError: 4,
    }
    assert all(issubclass(error, sd.SegdeployError) for error in codes)
