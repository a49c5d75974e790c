"""What is no model is refused with the file's name; what is written is whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from segdeploy.deploy.onnx_model.artifact import Precision, TensorSpec
from segdeploy.deploy.onnx_model.file import (
    copy_returning,
    describe,
    load_model,
    metadata,
    require_fp32,
    save_model,
    set_metadata,
)
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.errors import InputError


def small_model(weight_type: type[np.generic] = np.float32) -> onnx.ModelProto:
    """y = x * weight, x of shape (batch, 2)."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(weight_type))
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "weight"], ["y"], name="mul")],
        "small",
        [helper.make_tensor_value_info("x", element, ["batch", 2])],
        [helper.make_tensor_value_info("y", element, ["batch", 2])],
        [numpy_helper.from_array(np.array([2, 3], weight_type), "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_saved_model_reads_back_and_leaves_no_partial_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "net.onnx"
    save_model(small_model(), path)
    assert load_model(path) == small_model()
    assert [found.name for found in path.parent.iterdir()] == ["net.onnx"]


def test_a_copy_returns_more_and_is_the_model_otherwise(tmp_path: Path) -> None:
    path, copy = tmp_path / "net.onnx", tmp_path / "copy.onnx"
    save_model(small_model(), path)
    before = path.read_bytes()
    negative = helper.make_node("Neg", ["y"], ["z"], name="neg")
    wanted = {"z": TensorProto.FLOAT, "x": TensorProto.FLOAT}
    copy_returning(path, copy, wanted, nodes=[negative])
    assert path.read_bytes() == before
    changed = onnx.load(copy)  # the checker wants shapes, a runtime does not
    found = ReferenceEvaluator(changed).run(None, {"x": np.array([[1, -4]], np.float32)})
    for result, expected in zip(found, ([[2, -12]], [[-2, 12]], [[1, -4]]), strict=True):
        np.testing.assert_array_equal(result, expected)
    del changed.graph.node[1:], changed.graph.output[1:]
    assert changed == small_model()


def test_a_copy_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    save_model(small_model(), tmp_path / "net.onnx")
    with pytest.raises(OSError, match=r"missing/copy\.onnx"):
        copy_returning(tmp_path / "net.onnx", tmp_path / "missing" / "copy.onnx", {})


@pytest.mark.parametrize("name", ["net.onnx", "net.json", "net.onnxtxt", "net.textproto"])
@pytest.mark.parametrize("content", [b"", b'{"a": 1}', b"\x08\x0a garbage", b"\xff" * 100])
def test_what_is_no_model_is_refused_by_name_whatever_its_suffix(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} is not a valid ONNX file \("):
        load_model(path)


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    content = small_model().SerializeToString()
    for length in (len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"net\.onnx is not a valid ONNX file"):
            load_model(path)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_model(tmp_path / "net.onnx")
    with pytest.raises(InputError, match="is a folder"):
        load_model(tmp_path)


def test_weights_outside_the_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(small_model(), path, save_as_external_data=True, size_threshold=0)
    with pytest.raises(InputError, match="keeps weights outside the file"):
        load_model(path)


def test_metadata_is_sorted_replaced_and_read_back() -> None:
    model = small_model()
    set_metadata(model, {"old": "1"})
    set_metadata(model, {"b": "2", "a": "ä"})
    assert [entry.key for entry in model.metadata_props] == ["a", "b"]
    assert metadata(model) == {"a": "ä", "b": "2"}


def test_describe_tells_shape_type_parent_and_target(tmp_path: Path) -> None:
    model = small_model()
    set_metadata(model, {"precision": "int8", "parent_sha256": "ab", "target": "ort-x86"})
    path = tmp_path / "net.onnx"
    save_model(model, path)
    found = describe(path)
    assert found.inputs == (TensorSpec(name="x", shape=("batch", 2), dtype="float32"),)
    assert (found.precision, found.parent, found.target) == (Precision.INT8, "ab", "ort-x86")
    assert (found.opset, found.sha256) == (18, sha256_of(path))
    assert describe(path, model=model) == found


@pytest.mark.parametrize(
    ("weight_type", "expected"), [(np.float32, Precision.FP32), (np.float16, Precision.FP16)]
)
def test_precision_of_a_foreign_file_is_told_by_its_weights(
    tmp_path: Path, weight_type: type[np.generic], expected: Precision
) -> None:
    save_model(small_model(weight_type), tmp_path / "net.onnx")
    assert describe(tmp_path / "net.onnx").precision is expected


def test_precision_of_a_foreign_quantized_file_is_int8(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "scale"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [2])],
        [numpy_helper.from_array(np.array(0.5, np.float32), "scale")],
    )
    opset = [helper.make_opsetid("", 18)]
    save_model(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "net.onnx")
    found = describe(tmp_path / "net.onnx")
    assert found.precision is Precision.INT8
    with pytest.raises(InputError, match=r"net\.onnx is int8; int8 is made from fp32"):
        require_fp32(found, "int8 is made")
