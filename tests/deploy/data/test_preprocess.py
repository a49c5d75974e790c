from __future__ import annotations

import json
import math
import re
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from segdeploy.deploy.data.preprocess import (
    MASK_THRESHOLD,
    SIZE_MULTIPLE,
    Preprocess,
    require_multiple,
)
from segdeploy.deploy.system.errors import InputError

Pixels = NDArray[np.uint8]

SIDES = st.integers(1, 40)
SIZES = st.tuples(SIDES, SIDES)
VALID_SIZES = st.tuples(*[st.integers(1, 8).map(lambda n: n * SIZE_MULTIPLE)] * 2)
IMAGES = hnp.arrays(np.uint8, st.tuples(SIDES, SIDES, st.just(3)))
CONTRACTS = st.builds(
    Preprocess,
    size=VALID_SIZES,
    channel_order=st.sampled_from(["RGB", "BGR"]),
    antialias=st.booleans(),
    scale=st.floats(1e-4, 1),
    mean=st.tuples(*[st.floats(-200, 200)] * 3),
    std=st.tuples(*[st.floats(1e-3, 200)] * 3),
)


# --- the contract ------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(IMAGES, VALID_SIZES, st.sampled_from(["RGB", "BGR"]))
def test_inputs_lie_between_minus_one_and_one(
    image: Pixels, size: tuple[int, int], order: str
) -> None:
    inputs = Preprocess(size=size, channel_order=order).apply(image)
    assert inputs.shape == (3, *size)
    assert inputs.dtype == np.float32
    assert inputs.flags.c_contiguous
    assert np.abs(inputs).max() <= 1


def test_published_contract_on_known_colours() -> None:
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 0], red[..., 1] = 255, 51
    inputs = Preprocess().apply(red)
    assert inputs.shape == (3, 96, 96)
    blue, green, red_plane = inputs
    assert (blue == -1).all()
    np.testing.assert_allclose(green, -0.6, atol=1e-6)  # (51 / 255 - 0.5) / 0.5
    assert (red_plane == 1).all()


@settings(max_examples=30, deadline=None)
@given(IMAGES, CONTRACTS)
def test_bgr_is_rgb_with_its_channels_reversed(image: Pixels, contract: Preprocess) -> None:
    fields = asdict(contract)
    rgb = Preprocess(**(fields | {"channel_order": "RGB"}))
    bgr = Preprocess(**(fields | {"channel_order": "BGR"}))
    assert np.array_equal(rgb.apply(image[..., ::-1]), bgr.apply(image))


def test_mean_and_std_belong_to_the_channels_in_network_order() -> None:
    contract = Preprocess(
        size=(16, 16), channel_order="BGR", scale=1.0, mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 4.0)
    )
    pixel = np.full((16, 16, 3), (11, 22, 33), np.uint8)
    assert contract.apply(pixel)[:, 0, 0].tolist() == [32.0, 10.0, 2.0]


@given(CONTRACTS)
def test_json_round_trip(contract: Preprocess) -> None:
    text = contract.to_json()
    assert "\n" not in text
    assert Preprocess.from_json(text, source="x") == contract


# --- masks -------------------------------------------------------------------------------------


@given(st.integers(0, 255), SIZES)
def test_a_flat_mask_is_foreground_from_the_threshold_up(value: int, size: tuple[int, int]) -> None:
    truth = Preprocess(size=(16, 32)).apply_mask(np.full(size, value, np.uint8))
    assert truth.shape == (16, 32)
    assert truth.dtype == np.bool_
    assert (truth == (value >= MASK_THRESHOLD)).all()


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.bool_, SIZES), CONTRACTS)
def test_truth_depends_on_nothing_but_the_size(
    mask: NDArray[np.bool_], contract: Preprocess
) -> None:
    grey = np.where(mask, np.uint8(255), np.uint8(0))
    plane = torch.from_numpy(grey.astype(np.float64))[None, None]
    blended = functional.interpolate(plane, size=contract.size, mode="bilinear")
    expected = np.rint(blended[0, 0].numpy())
    clear = np.abs(expected - MASK_THRESHOLD) > 1
    truth = contract.apply_mask(grey)
    assert np.array_equal(truth, Preprocess(size=contract.size).apply_mask(grey))
    assert np.array_equal(truth[clear], (expected >= MASK_THRESHOLD)[clear])


# --- bad contracts -----------------------------------------------------------------------------


@given(st.integers(-40, 400), st.integers(-40, 400))
@example(96, 96)
@example(0, 16)
def test_sizes_are_multiples_of_16_or_the_nearest_is_named(height: int, width: int) -> None:
    sides = (height, width)
    if all(side % 16 == 0 for side in sides):
        require_multiple(sides, 16, network="u_net")
        return
    with pytest.raises(InputError, match="not a multiple of 16, which u_net needs") as caught:
        require_multiple(sides, 16, network="u_net")
    assert f"{height}x{width} (height x width)" in str(caught.value)
    named = re.search(r"nearest valid size is (\d+)x(\d+)$", str(caught.value))
    assert named is not None
    nearest = (int(named[1]), int(named[2]))
    require_multiple(nearest, 16, network="u_net")
    for side, best in zip(sides, nearest, strict=True):
        assert abs(side - best) == min(abs(side - 16 * n) for n in range(1, 30))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": (96,)}, r"size \(96,\) is not a height and a width"),
        ({"size": ()}, "not a height and a width"),
        ({"size": (95,)}, "not a height and a width"),
        ({"size": (96, 96, 96)}, "not a height and a width"),
        ({"size": (96.0, 96.0)}, "not a height and a width"),
        ({"size": (0, 96)}, "0x96 .* holds no pixel"),
        ({"size": (96, -4)}, "holds no pixel"),
        ({"size": (96, 4097)}, "beyond 4096"),
        ({"channel_order": "GBR"}, "'GBR'; expected one of GREY, RGB, BGR, BANDS"),
        ({"interpolation": "quadratic"}, "'quadratic'; expected one of nearest, .*, none"),
        ({"interpolation": "area", "antialias": True}, "antialias is true for area"),
        ({"interpolation": "none", "aspect": "longer"}, "resizes nothing, but"),
        ({"interpolation": "none", "resize_to": (8, 8)}, "resizes nothing, but"),
        ({"resize_to": (8, 0)}, "resize_to 8x0 .* holds no pixel"),
        ({"aspect": "keep"}, "'keep'; expected one of stretch, longer, shorter"),
        ({"anchor": "end"}, "'end'; expected one of centre, start"),
        ({"pad": "wrap"}, "'wrap'; expected one of constant, reflect"),
        ({"pad_value": 256}, "256; expected a level of 8 bits, 0 to 255"),
        ({"pad_value": True}, "expected a level of 8 bits"),
        ({"source_bits": 12}, "12; expected 8 or 16"),
        ({"source_bits": True}, "True; expected 8 or 16"),
        ({"source_range": (0, 4095)}, "0 to 4095; expected levels of 8 bits, 0 to 255"),
        ({"source_range": (9, 9)}, "9 to 9; expected levels"),
        ({"source_range": (math.nan, 9)}, "nan to 9; expected levels"),
        ({"source_range": (1,)}, "expected two levels"),
        ({"source_pages": ()}, "expected one page"),
        ({"source_pages": (0, 1)}, "expected one page"),
        ({"source_pages": (-1,)}, "expected one page"),
        ({"channel_order": "GREY"}, "GREY needs one value each. Other channels are BANDS"),
        ({"channel_order": "BANDS", "mean": (), "std": ()}, "one for each channel"),
        ({"antialias": "no"}, "'no'; expected true or false"),
        ({"mean": (0.5, 0.5)}, "one for each channel"),
        ({"std": (0.5, 0.5, 0.5, 0.5)}, "one for each channel"),
        ({"std": (0.5, 0.0, 0.5)}, "std above zero"),
        ({"std": (0.5, math.nan, 0.5)}, "finite"),
        ({"mean": (0.5, math.inf, 0.5)}, "finite"),
        ({"scale": math.nan}, "finite"),
    ],
)
def test_a_contract_that_makes_no_sense(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocess(**fields)  # type: ignore[arg-type]  # wrong on purpose


def altered(**fields: object) -> str:
    return json.dumps(json.loads(Preprocess().to_json()) | fields)


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "",
        "[96, 96]",
        "null",
        "{}",
        json.dumps({"size": [96, 96]}),
        altered(sizes=[96, 96]),
        altered(size=96),
        altered(size="96x96"),
        altered(size=None),
        altered(size=[96]),
        altered(size=[0, 96]),
        altered(scale=float("nan")),
        altered(mean=["a", "b", "c"]),
        altered(std=["a", "b", "c"]),
        altered(scale="1/255"),
        altered(scale=None),
        altered(channel_order=3),
    ],
)
def test_text_that_is_not_a_contract_names_its_source(text: str) -> None:
    with pytest.raises(InputError, match=r"^contract\.json"):
        Preprocess.from_json(text, source="contract.json")


def test_missing_keys_are_named() -> None:
    fields = json.loads(Preprocess().to_json())
    del fields["mean"], fields["antialias"]
    with pytest.raises(InputError, match="lacks 'antialias', 'mean'"):
        Preprocess.from_json(json.dumps(fields), source="contract.json")


def test_whole_numbers_stay_whole_so_that_the_contract_is_written_as_it_was_read() -> None:
    text = altered(mean=[0, 0.5, 1], scale=1, std=[1, 1, 0.5])
    written = Preprocess.from_json(text, source="contract.json").to_json()
    assert written == json.dumps(json.loads(text), sort_keys=True)


def test_the_published_contract_is_written_as_ever() -> None:
    assert Preprocess().to_json() == (
        '{"antialias": false, "channel_order": "BGR", "interpolation": "bilinear", '
        '"mean": [0.5, 0.5, 0.5], "scale": 0.00392156862745098, "size": [96, 96], '
        '"std": [0.5, 0.5, 0.5]}'
    )
