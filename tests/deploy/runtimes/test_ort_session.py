"""One place opens ONNX Runtime: its settings are the library's own, its failures are ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as state

import segdeploy
from segdeploy.deploy.runtimes.ort_session import ERRORS, OrtSession, ort_reason, session_options
from segdeploy.deploy.system.errors import InputError, RunError

ONE = session_options(threads=1)


def doubling(rows: int | str = "batch") -> bytes:
    """x + x of (rows, 2) floats, and what lies half way."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, 2])
        for name in ("x", "twice", "same")
    ]
    nodes = [
        helper.make_node("Add", ["x", "x"], ["twice"]),
        helper.make_node("Identity", ["x"], ["same"]),
    ]
    graph = helper.make_graph(nodes, "doubling", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def test_no_other_module_opens_a_session() -> None:
    """But the example program of packages, which stands alone."""
    root = Path(next(iter(segdeploy.__path__)))
    opening = {
        path.name
        for folder in root.iterdir()
        if folder.is_dir()
        for path in folder.resolve().rglob("*.py")
        if "InferenceSession(" in path.read_text(encoding="utf-8")
    }
    assert opening == {"ort_session.py", "segment.py"}


def test_what_is_not_asked_for_is_as_the_library_has_it() -> None:
    ours, theirs = session_options(threads=3), onnxruntime.SessionOptions()
    assert ours.intra_op_num_threads == 3
    for name in ("enable_mem_pattern", "enable_cpu_mem_arena", "graph_optimization_level"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_each_setting_changes_what_it_says() -> None:
    options = session_options(threads=1, memory_pattern=False, arena=False, optimise=False)
    assert not options.enable_mem_pattern
    assert not options.enable_cpu_mem_arena
    level = options.graph_optimization_level
    assert level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL


@pytest.mark.parametrize("from_file", [True, False])
def test_a_file_and_its_bytes_run_alike(tmp_path: Path, *, from_file: bool) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(doubling())
    session = OrtSession(path if from_file else doubling(), ONE)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert session.input == "x"
    twice, same = session.run({"x": x})
    np.testing.assert_array_equal(twice, 2 * x)
    np.testing.assert_array_equal(same, x)
    (only,) = session.run({"x": x}, ["same"])
    np.testing.assert_array_equal(only, x)


def test_every_error_of_the_library_is_translated() -> None:
    assert {state.Fail, state.InvalidGraph, state.NoSuchFile, state.EPFail} <= set(ERRORS)
    for error in ERRORS:
        assert ort_reason(error("why")) == "why"


def test_a_model_it_does_not_take_is_named_with_the_reason(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(doubling())
    model.graph.node[0].op_type = "Sine"
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"cannot load .*broken\.onnx: .*Sine"):
        OrtSession(broken, ONE)
    with pytest.raises(InputError, match=r"cannot load what makes 'twice': .*Sine"):
        OrtSession(broken.read_bytes(), ONE, shown="what makes 'twice'")
    with pytest.raises(InputError, match=r"cannot load .*missing\.onnx"):
        OrtSession(tmp_path / "missing.onnx", ONE)


def test_a_call_that_fails_says_where() -> None:
    session = OrtSession(doubling(rows=1), ONE)
    with pytest.raises(RunError, match=r"^ONNX Runtime failed on image1: .*dimensions"):
        session.run({"x": np.zeros((3, 2), np.float32)}, where="on image1")
    with pytest.raises(RunError, match=r"^ONNX Runtime failed: "):
        session.run({})
