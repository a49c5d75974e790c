import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.qparams import (
    SMALLEST_SCALE,
    QuantParams,
    QuantType,
    dequantize,
    from_range,
    quantize,
)

SCHEMES = [
    {"dtype": dtype, "symmetric": symmetric, "reduce_range": reduced}
    for dtype, symmetric, reduced in itertools.product(
        (QuantType.U8, QuantType.S8), (False, True), (False, True)
    )
]
scheme = st.sampled_from(SCHEMES)
end = st.floats(0, 2.0**100, width=32)
fraction = st.floats(0, 1)


@given(scheme, end, end, fraction)
def test_round_trip_is_within_half_a_scale_inside_the_range(options, below, above, where):
    params = from_range(-below, above, **options)
    value = np.float32(-below + where * (float(above) + float(below)))
    value = np.clip(value, np.float32(-below), np.float32(above)).reshape(1)
    error = abs(float(dequantize(quantize(value, params), params)[0]) - float(value[0]))
    rounding = 1e-6 * max(below, above)  # of the scale and the product, to float32
    assert error <= float(params.scale) / 2 * (1 + 1e-6) + rounding


@given(scheme, end, end)
def test_zero_is_exact(options, below, above):
    params = from_range(-below, above, **options)
    zero = np.zeros(1, np.float32)
    assert quantize(zero, params)[0] == params.zero_point
    assert dequantize(quantize(zero, params), params)[0] == 0


@given(scheme, end, end, st.lists(st.floats(width=32, allow_nan=False), min_size=2))
def test_quantizing_is_monotone_and_clips_to_the_integers_used(options, below, above, values):
    params = from_range(-below, above, **options)
    integers = quantize(np.sort(np.array(values, np.float32)), params).astype(int)
    assert (np.diff(integers) >= 0).all()
    assert params.quant_min <= integers.min()
    assert integers.max() <= params.quant_max


@given(scheme, end, end)
def test_integers_survive_the_way_back(options, below, above):
    params = from_range(-below, above, **options)
    integers = np.arange(params.quant_min, params.quant_max + 1).astype(params.dtype.numpy)
    if float(params.scale) * 256 < np.finfo(np.float32).max:
        np.testing.assert_array_equal(quantize(dequantize(integers, params), params), integers)


@given(scheme, end, end)
def test_scale_is_a_normal_float32(options, below, above):
    params = from_range(-below, above, **options)
    assert params.scale.dtype == np.float32
    assert SMALLEST_SCALE <= params.scale < np.inf


@pytest.mark.parametrize(
    ("low", "high", "options", "expected"),
    [
        (0, 25.5, {"dtype": QuantType.U8, "symmetric": True}, (0.1, 0, 0, 255)),
        (-12.7, 5, {"dtype": QuantType.U8, "symmetric": True}, (0.1, 128, 0, 255)),
        (-12.7, 5, {"dtype": QuantType.S8, "symmetric": True}, (0.1, 0, -127, 127)),
        (0, 25.5, {"dtype": QuantType.S8, "symmetric": False}, (0.1, -128, -128, 127)),
        (2, 25.5, {"dtype": QuantType.U8, "symmetric": False}, (0.1, 0, 0, 255)),
        (-25.5, -2, {"dtype": QuantType.U8, "symmetric": False}, (0.1, 255, 0, 255)),
        (
            -6.4,
            5,
            {"dtype": QuantType.S8, "symmetric": True, "reduce_range": True},
            (0.1, 0, -64, 64),
        ),
        (
            0,
            12.7,
            {"dtype": QuantType.U8, "symmetric": False, "reduce_range": True},
            (0.1, 0, 0, 127),
        ),
        (0, 0, {"dtype": QuantType.S8, "symmetric": False}, (1.0, 0, -128, 127)),
    ],
)
def test_schemes_by_hand(low, high, options, expected):
    params = from_range(low, high, **options)
    scale, point, quant_min, quant_max = expected
    assert params.scale == pytest.approx(scale)
    assert (params.zero_point, params.quant_min, params.quant_max) == (point, quant_min, quant_max)


def test_halves_go_to_the_even_number():
    params = from_range(-127, 127, dtype=QuantType.S8, symmetric=True)
    halves = np.array([-1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
    assert quantize(halves, params).tolist() == [-2, 0, 0, 2, 2]


def test_subnormal_ranges_get_a_normal_scale():
    params = from_range(0, 1e-40, dtype=QuantType.U8, symmetric=False)
    assert params.scale == np.float32(SMALLEST_SCALE)


def test_whole_float32_range_does_not_overflow():
    top = float(np.finfo(np.float32).max)
    params = from_range(-top, top, dtype=QuantType.U8, symmetric=False)
    assert np.isfinite(params.scale)
    assert quantize(np.array([top, -top], np.float32), params).tolist() == [255, 0]


@pytest.mark.parametrize(("low", "high"), [(1, -1), (np.nan, 1), (0, np.inf)])
def test_what_is_no_range_is_refused(low, high):
    with pytest.raises(CalibrationError, match="is not a range"):
        from_range(low, high, dtype=QuantType.U8, symmetric=False)


def test_s32_has_no_range():
    with pytest.raises(CalibrationError, match="s32"):
        from_range(-1, 1, dtype=QuantType.S32, symmetric=True)


@pytest.mark.parametrize(
    "change",
    [
        {"scale": np.float32(0).reshape(())},
        {"scale": np.array(np.nan, np.float32)},
        {"scale": np.array(1e-40, np.float32)},
        {"scale": np.array(0.1, np.float64)},
        {"zero_point": np.array(0, np.int8)},
        {"zero_point": np.array(9, np.uint8), "quant_max": 7},
        {"axis": 0},
    ],
)
def test_parameters_that_cannot_be_are_refused(change):
    valid = {
        "scale": np.array(0.1, np.float32),
        "zero_point": np.array(3, np.uint8),
        "dtype": QuantType.U8,
        "quant_min": 0,
        "quant_max": 255,
    }
    QuantParams(**valid)
    with pytest.raises(CalibrationError):
        QuantParams(**{**valid, **change})


def test_equal_parameters_are_equal():
    a, b = (from_range(-1, 3, dtype=QuantType.U8, symmetric=False) for _ in range(2))
    assert a == b
    assert hash(a) == hash(b)
    assert a != from_range(-1, 4, dtype=QuantType.U8, symmetric=False)
