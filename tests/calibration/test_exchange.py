import dataclasses
import struct

import numpy as np
import onnx
import onnxruntime.quantization as ort_quantization
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.calibrate import load_tensors_data, save_tensors_data

from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.estimate import CalibrationRange, Method
from segdeploy.calibration.exchange import (
    from_onnxruntime,
    from_tensorrt,
    to_onnxruntime,
    to_tensorrt,
)


def found(low, high):
    return CalibrationRange(
        min=low,
        max=high,
        observed_min=low,
        observed_max=high,
        method=Method.ENTROPY,
        divergence=0.1,
        candidates=3,
        share_clipped=0.0,
        fallback=None,
    )


end = st.floats(0, 2.0**100, width=32)
names = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1)
tables = st.dictionaries(names, st.builds(lambda a, b: found(-a, b), end, end), min_size=1)


@given(tables)
def test_onnxruntime_json_keeps_every_end(ranges):
    back = from_onnxruntime(to_onnxruntime(ranges), source="c.json")
    ends = {name: (r.min, r.max) for name, r in ranges.items()}
    assert {name: (r.min, r.max) for name, r in back.items()} == ends
    assert all(r.method is Method.IMPORTED and r.fallback for r in back.values())


def test_onnxruntime_reads_our_file_and_we_read_the_one_it_writes(tmp_path):
    ranges = {"x": found(-1.5, 2.25), "conv/relu": found(0.0, float(np.float32(0.1)))}
    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.json"
    ours.write_text(to_onnxruntime(ranges, calibrate_method="Entropy"))
    data = load_tensors_data(ours)
    assert data.calibration_method is ort_quantization.CalibrationMethod.Entropy
    assert {n: tuple(map(float, d.range_value)) for n, d in data.items()} == {
        name: (r.min, r.max) for name, r in ranges.items()
    }
    save_tensors_data(data, theirs)
    back = from_onnxruntime(theirs.read_text(), source="theirs.json")
    assert {n: (r.min, r.max) for n, r in back.items()} == {
        n: (r.min, r.max) for n, r in ranges.items()
    }


def test_quantize_static_takes_our_ranges_without_any_calibration_data(tmp_path):
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", value[:1], value[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    cache = tmp_path / "cache.json"
    cache.write_text(to_onnxruntime({"x": found(-1.0, 3.0), "y": found(0.0, 5.1)}))
    ort_quantization.quantize_static(
        tmp_path / "m.onnx", tmp_path / "q.onnx", None, calibration_cache_path=cache
    )
    initialisers = {
        i.name: numpy_helper.to_array(i) for i in onnx.load(tmp_path / "q.onnx").graph.initializer
    }
    assert initialisers["x_scale"] == pytest.approx(4 / 255)
    assert initialisers["y_scale"] == pytest.approx(5.1 / 255)


def test_unknown_onnxruntime_method_is_refused():
    with pytest.raises(CalibrationError, match="expected MinMax, Entropy"):
        to_onnxruntime({"x": found(0.0, 1.0)}, calibrate_method="KL")


ENTRY = '{"CLS": "TensorData", "lowest": %s, "highest": 1.0}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n"CLS": oops', r"c\.json:2: not JSON"),
        ("[]", "is not an ONNX Runtime calibration cache"),
        ('{"CLS": "TensorsData", "data": {}}', "is not an ONNX Runtime"),
        ('{"CLS": "Other", "data": {"x": 1}}', "is not an ONNX Runtime"),
        ('{"CLS": "TensorsData",\n"data": {\n"x": {"highest": 1}}}', r"c\.json:3: tensor 'x'"),
        ('{"CLS": "TensorsData", "data": {\n"x": 7}}', r"c\.json:2: tensor 'x'"),
        ('{"CLS": "TensorsData", "data": {"x": %s}}' % (ENTRY % "2"), "out of order"),
        ('{"CLS": "TensorsData", "data": {"x": %s}}' % (ENTRY % "NaN"), "finite"),
        ('{"CLS": "TensorsData", "data": {"x": %s}}' % (ENTRY % f"-{10**400}"), "'x'"),
        ('{"CLS": "TensorsData", "data": {"x": %s}}' % (ENTRY % '{"data": [0, 1]}'), "2 values"),
        ('{"CLS": "TensorsData", "data": {"x": %s}}' % (ENTRY % '"a"'), "tensor 'x'"),
    ],
)
def test_bad_onnxruntime_caches_are_refused(text, message):
    with pytest.raises(CalibrationError, match=message):
        from_onnxruntime(text, source="c.json")


@given(tables)
def test_tensorrt_text_keeps_every_scale(ranges):
    text = to_tensorrt(ranges)
    back = from_tensorrt(text, source="c.cache")
    assert to_tensorrt(back) == text
    for name, before in ranges.items():
        reach = max(-before.min, before.max)
        if reach > 1e-30:
            assert back[name].max == pytest.approx(reach, rel=1e-6)
            assert back[name].min == -back[name].max


@given(st.floats(float(np.finfo(np.float32).tiny), 2.0**100, width=32))
def test_any_tensorrt_scale_comes_back_bit_for_bit(scale):
    text = f"TRT-8601-EntropyCalibration2\nx: {struct.pack('>f', scale).hex()}\n"
    assert to_tensorrt(from_tensorrt(text, source="c")) == text


def test_tensorrt_text_by_hand():
    ranges = {"b: c": found(-2.54, 1.0), "a": found(0.0, 127.0)}
    text = to_tensorrt(ranges, version=10300)
    assert text == "TRT-10300-EntropyCalibration2\na: 3f800000\nb: c: 3ca3d70a\n"
    assert list(from_tensorrt(text, source="c")) == ["a", "b: c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"c\.cache:1: header is ''"),
        ("x: 3f800000\n", r"c\.cache:1: header is 'x: 3f800000'"),
        ("TRT-8601-EntropyCalibration2\n", "no tensors"),
        ("TRT-8601-EntropyCalibration2\nx: 3f800000\ny 3f800000\n", r"c\.cache:3: 'y 3f8"),
        ("TRT-8601-EntropyCalibration2\nx: 3f80\n", r"c\.cache:2"),
        ("TRT-8601-EntropyCalibration2\n\nx: 3f80000g\n", r"c\.cache:3"),
        ("TRT-8601-EntropyCalibration2\nx: 3f800000\nx: 3f800000\n", r":3: tensor 'x' is given"),
        ("TRT-8601-EntropyCalibration2\nx: 7fc00000\n", r":2: the scale of 'x' is nan"),
        ("TRT-8601-EntropyCalibration2\nx: 00000000\n", r":2: the scale of 'x' is 0\.0"),
        ("TRT-8601-EntropyCalibration2\nx: bf800000\n", r":2: the scale of 'x' is -1\.0"),
    ],
)
def test_bad_tensorrt_caches_are_refused_with_the_line(text, message):
    with pytest.raises(CalibrationError, match=message):
        from_tensorrt(text, source="c.cache")


@pytest.mark.parametrize("name", ["", " x", "x\ny"])
def test_names_that_would_break_a_line_are_refused(name):
    with pytest.raises(CalibrationError, match="does not fit on a line"):
        to_tensorrt({name: found(0.0, 1.0)})


def test_a_range_without_width_has_a_usable_scale():
    flat = dataclasses.replace(found(0.0, 0.0))
    assert to_tensorrt({"x": flat}).endswith("x: 3f800000\n")
