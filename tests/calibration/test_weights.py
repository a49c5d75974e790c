import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.qparams import dequantize, quantize
from segdeploy.calibration.weights import (
    INT32_LIMIT,
    bias_params,
    per_channel_weight,
    quantize_weight,
    smallest_weight_scale,
)

WEIGHTS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=4, max_side=4),
    elements=st.floats(-1e4, 1e4, width=32),
)


@given(WEIGHTS, st.booleans(), st.data())
def test_every_channel_round_trips_within_half_its_scale(weight, reduced, data):
    axis = data.draw(st.integers(-weight.ndim, weight.ndim - 1))
    params = per_channel_weight(weight, axis=axis, reduce_range=reduced)
    back = dequantize(quantize(weight, params), params)
    shape = [-1 if d == params.axis else 1 for d in range(weight.ndim)]
    scale = params.scale.astype(np.float64).reshape(shape)
    assert params.scale.shape == (weight.shape[axis],)
    assert (np.abs(back.astype(np.float64) - weight) <= scale / 2 * (1 + 1e-4)).all()
    assert (params.zero_point == 0).all()


def test_extremes_use_the_whole_reach_and_never_minus_128():
    weight = np.array([[-2.0, 1.0], [0.5, 0.25]], np.float32)
    assert quantize(weight, per_channel_weight(weight, axis=0)).tolist() == [[-127, 64], [127, 64]]
    reduced = per_channel_weight(weight, axis=0, reduce_range=True)
    assert quantize(weight, reduced).tolist() == [[-64, 32], [64, 32]]


def test_channel_of_zeros_takes_the_largest_scale_of_the_others():
    weight = np.array([[0, 0], [1.27, 0], [2.54, 0]], np.float32)
    assert per_channel_weight(weight, axis=0).scale.tolist() == pytest.approx([0.02, 0.01, 0.02])
    assert per_channel_weight(weight * 0, axis=0).scale.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("weight", "axis"),
    [
        (np.ones((2, 2)), 0),
        (np.ones((0, 2), np.float32), 0),
        (np.full((2, 2), np.nan, np.float32), 0),
        (np.ones((2, 2), np.float32), 2),
    ],
)
def test_weights_that_cannot_be_quantized_are_refused(weight, axis):
    with pytest.raises(CalibrationError):
        per_channel_weight(weight, axis=axis)


def test_bias_keeps_its_value_within_half_a_step():
    rng = np.random.default_rng(0)
    values = rng.normal(size=32).astype(np.float32)
    weight_scale = rng.uniform(1e-3, 1e-2, 32).astype(np.float32)
    params = bias_params(values, input_scale=np.float32(0.05), weight_scale=weight_scale)
    integers = quantize(values, params)
    assert integers.dtype == np.int32
    np.testing.assert_array_equal(params.scale, np.float32(0.05) * weight_scale)
    exact = integers * params.scale.astype(np.float64)
    assert (np.abs(exact - values) <= params.scale.astype(np.float64) / 2).all()


def test_bias_beyond_int32_is_refused_with_the_channel_and_the_remedy_works():
    values = np.array([0.1, 5.0], np.float32)
    weight = np.array([[1.0], [1e-9]], np.float32)
    scale = np.float32(0.01)
    narrow = per_channel_weight(weight, axis=0)
    with pytest.raises(CalibrationError, match="of channel 1 needs"):
        bias_params(values, input_scale=scale, weight_scale=narrow.scale)
    least = smallest_weight_scale(values, input_scale=scale)
    wide = per_channel_weight(weight, axis=0, min_scale=least)
    params = bias_params(values, input_scale=scale, weight_scale=wide.scale)
    assert abs(int(quantize(values, params)[1])) <= INT32_LIMIT
    assert wide.scale[0] == narrow.scale[0]


def test_product_of_scales_below_float32_is_refused():
    with pytest.raises(CalibrationError, match="too small for float32"):
        bias_params(
            np.zeros(1, np.float32),
            input_scale=np.float32(1e-30),
            weight_scale=np.array([1e-30], np.float32),
        )


def test_one_scale_for_the_whole_weight():
    params = bias_params(
        np.array([1, -1], np.float32), input_scale=np.float32(0.5), weight_scale=np.float32(0.5)
    )
    assert params.axis is None
    assert quantize(np.array([1, -1], np.float32), params).tolist() == [4, -4]


@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize("shape", [(5, 7, 3, 3), (4, 16, 1, 1), (3, 1, 2, 2), (2, 1, 1, 1), (6, 9)])
def test_errors_cancel_within_each_kernel_and_channel(shape: tuple[int, ...], reduce_range: bool):
    weight = np.random.default_rng(len(shape) + shape[0]).normal(size=shape).astype(np.float32)
    weight[0] = 0
    params = per_channel_weight(weight, axis=0, reduce_range=reduce_range)
    integers = quantize_weight(weight, params)
    assert integers.dtype == np.int8
    assert integers.shape == shape
    assert integers.min() >= params.quant_min
    assert integers.max() <= params.quant_max
    scale = params.scale.astype(np.float64).reshape(-1, 1, 1)
    steps = weight.astype(np.float64).reshape(*shape[:2], -1) / scale
    error = integers.reshape(*shape[:2], -1) - steps
    slack = 1e-4  # a scale is rounded to float32
    assert np.abs(error).max() < 1 + slack
    assert np.abs(error.sum(axis=2)).max() <= 1 + slack
    assert np.abs(error.sum(axis=(1, 2))).max() <= 0.5 + slack
    assert (integers[0] == 0).all()


def test_a_weight_whose_errors_cancel_is_rounded_to_the_nearest():
    weight = np.array([[[[0.25, -0.25], [3.0, 127.0]]]], np.float32)
    params = per_channel_weight(weight, axis=0)
    assert quantize_weight(weight, params).ravel().tolist() == [0, 0, 3, 127]


def test_an_even_image_comes_out_closer_than_with_rounding_to_the_nearest():
    generator = np.random.default_rng(3)
    weight = generator.normal(size=(64, 16, 3, 3)).astype(np.float32)
    params = per_channel_weight(weight, axis=0)
    even = generator.uniform(0, 1, (16, 1, 1)) * np.ones((1, 3, 3))  # a plain patch a channel

    def error(integers: NDArray[np.int8]) -> float:
        lost = dequantize(integers, params).astype(np.float64) - weight
        return float(np.square((lost * even).sum(axis=(1, 2, 3))).mean())

    assert error(quantize_weight(weight, params)) < error(quantize(weight, params)) / 4
