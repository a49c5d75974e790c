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

from segdeploy.deploy.data.placement import ANCHORS, ASPECTS, PADS
from segdeploy.deploy.data.preprocess import (
    MASK_THRESHOLD,
    SIZE_MULTIPLE,
    Preprocess,
    require_multiple,
)
from segdeploy.deploy.data.resizing import ANTIALIASED, INTERPOLATIONS
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


# --- beyond the published models --------------------------------------------------------------

ORDERS = {"GREY": 1, "RGB": 3, "BGR": 3, "BANDS": 5}


@st.composite
def any_contract(draw: st.DrawFn) -> Preprocess:
    """A contract of any kind."""
    order = draw(st.sampled_from(sorted(ORDERS)))
    bits = draw(st.sampled_from([8, 16]))
    top = (1 << bits) - 1
    low = draw(st.integers(0, top - 1))
    interpolation = draw(st.sampled_from([*INTERPOLATIONS, "none"]))
    resizes = interpolation != "none"
    return Preprocess(
        size=draw(st.tuples(*[st.integers(1, 40)] * 2)),
        channel_order=order,
        interpolation=interpolation,
        antialias=draw(st.booleans()) if interpolation in ANTIALIASED else False,
        scale=draw(st.floats(1e-4, 1)),
        mean=tuple(draw(st.floats(-200, 200)) for _ in range(ORDERS[order])),
        std=tuple(draw(st.floats(1e-3, 200)) for _ in range(ORDERS[order])),
        source_bits=bits,
        source_range=draw(st.none() | st.just((low, draw(st.integers(low + 1, top))))),
        resize_to=draw(st.none() | st.tuples(*[st.integers(1, 40)] * 2)) if resizes else None,
        aspect=draw(st.sampled_from(ASPECTS)) if resizes else "stretch",
        anchor=draw(st.sampled_from(ANCHORS)),
        pad=draw(st.sampled_from(PADS)),
        pad_value=draw(st.integers(0, top)),
    )


def image_of(contract: Preprocess, size: tuple[int, int], *, seed: int = 0) -> NDArray[np.integer]:
    shape = (*size, contract.channels)
    drawn = np.random.default_rng(seed).integers(0, contract.levels, shape)
    return drawn.astype(contract.level_type)


@settings(max_examples=150, deadline=None)
@given(any_contract(), SIZES)
def test_any_contract_gives_its_size_and_travels(
    contract: Preprocess, size: tuple[int, int]
) -> None:
    assert Preprocess.from_json(contract.to_json(), source="x") == contract
    assert contract.words
    found = contract.apply(image_of(contract, size))  # type: ignore[arg-type]  # unsigned
    assert (found.shape, found.dtype) == ((contract.channels, *contract.size), np.float32)
    assert np.isfinite(found).all()
    mask = np.full(size, 255, np.uint8)
    truth, counted = contract.apply_mask(mask), contract.counted(size)
    whole = np.ones(contract.size, np.bool_)
    assert np.array_equal(truth, whole if counted is None else counted)
    labels = contract.apply_labels(np.full(size, 3, np.uint8), padding=9)
    assert np.array_equal(labels, np.where(truth, 3, 9))


@settings(max_examples=60, deadline=None)
@given(any_contract(), SIZES)
def test_what_is_found_returns_to_the_pixels_it_was_found_at(
    contract: Preprocess, size: tuple[int, int]
) -> None:
    place = contract.placement(size)
    back = place.back(place.inside().astype(np.float32) * 0.25, unseen=0.25)
    assert back.shape == size
    np.testing.assert_allclose(back, 0.25, atol=1e-6)
    if place.scaled == size:  # nothing was resized: pixel by pixel
        values = np.random.default_rng(1).random(contract.size).astype(np.float32)
        found = place.back(values, unseen=-1)
        seen = found != -1
        assert np.array_equal(found[seen], values[place.shown].ravel())


@pytest.mark.parametrize(
    ("order", "pixels", "expected"),
    [
        ("GREY", [[[7]]], [7]),
        ("RGB", [[[1, 2, 3]]], [1, 2, 3]),
        ("BGR", [[[1, 2, 3]]], [3, 2, 1]),
        ("BANDS", [[[1, 2, 3, 4, 5]]], [1, 2, 3, 4, 5]),
    ],
)
def test_channels_in_their_order(order: str, pixels: object, expected: list[int]) -> None:
    count = ORDERS[order]
    contract = Preprocess(
        size=(1, 1), channel_order=order, scale=1, mean=(0,) * count, std=(1,) * count
    )
    assert contract.apply(np.array(pixels, np.uint8)).ravel().tolist() == expected


def test_a_range_becomes_0_to_255_and_clips_beyond() -> None:
    contract = Preprocess(
        size=(1, 4),
        channel_order="GREY",
        scale=1,
        mean=(0,),
        std=(1,),
        source_bits=16,
        source_range=(1000, 2000),
    )
    image = np.array([[[0], [1000], [1500], [60000]]], np.uint16)
    assert contract.apply(image).ravel().tolist() == [0, 0, 127.5, 255]


def test_the_whole_range_of_a_type_is_one_contract_however_it_is_stated() -> None:
    assert Preprocess(source_range=(0, 255)) == Preprocess()
    deep = Preprocess(source_bits=16, source_range=(0, 65535))
    assert deep == Preprocess(source_bits=16)
    raw = Preprocess(size=(1, 1), source_bits=16, scale=257, mean=(0,) * 3, std=(1,) * 3)
    found = raw.apply(np.array([[[1, 40000, 65535]]], np.uint16)).ravel()
    np.testing.assert_allclose(found, [65535, 40000, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("image", "aspect", "scaled", "offset"),
    [  # LongestMaxSize and PadIfNeeded, SmallestMaxSize and CenterCrop of albumentations
        ((50, 100), "longer", (48, 96), (24, 0)),
        ((100, 50), "longer", (96, 48), (0, 24)),
        ((33, 64), "longer", (50, 96), (23, 0)),
        ((64, 63), "longer", (96, 94), (0, 1)),
        ((50, 100), "shorter", (96, 192), (0, -48)),
        ((63, 64), "shorter", (96, 98), (0, -1)),
    ],
)
def test_the_aspect_is_kept_and_the_rest_centred(
    image: tuple[int, int], aspect: str, scaled: tuple[int, int], offset: tuple[int, int]
) -> None:
    place = Preprocess(aspect=aspect).placement(image)
    assert (place.scaled, place.offset) == (scaled, offset)


def test_resize_to_256_and_crop_to_224_as_classifiers_do() -> None:
    contract = Preprocess(size=(224, 224), resize_to=(256, 256), aspect="shorter")
    place = contract.placement((300, 400))
    assert (place.scaled, place.offset) == ((256, 341), (-16, -58))


def test_an_image_of_100_is_padded_to_a_multiple_of_16_as_torch_and_opencv_do() -> None:
    contract = Preprocess(
        size=(112, 112),
        interpolation="none",
        pad="reflect",
        channel_order="RGB",
        scale=1,
        mean=(0,) * 3,
        std=(1,) * 3,
    )
    image = np.random.default_rng(0).integers(0, 256, (100, 100, 3)).astype(np.uint8)
    planes = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))
    expected = functional.pad(planes[None], (6, 6, 6, 6), mode="reflect")[0].numpy()
    assert np.array_equal(contract.apply(image), expected)
    start = Preprocess(size=(112, 112), interpolation="none", anchor="start", pad_value=7)
    assert (start.resized(image)[100:] == 7).all()
    assert np.array_equal(start.resized(image)[:100, :100], image)


def test_an_image_of_other_channels_or_bits_is_refused() -> None:
    for pixels in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 1), np.uint8)):
        with pytest.raises(InputError, match=r"takes \(height, width, 3\) of 8 bits \(BGR\)"):
            Preprocess().apply(pixels)
    with pytest.raises(InputError, match="an image is uint16"):
        Preprocess().apply(np.zeros((4, 4, 3), np.uint16))
    with pytest.raises(InputError, match="takes 8-bit pixels as they are"):
        Preprocess(source_bits=16).pixels(np.zeros((4, 4, 3), np.uint16))


def test_what_cannot_express_a_contract_says_which_part_and_what_to_do() -> None:
    contract = Preprocess(channel_order="RGB", aspect="longer", interpolation="area")
    with pytest.raises(InputError) as caught:
        contract.refuse_departures(what="it", but=("aspect",), advice="do that")
    assert str(caught.value) == (
        "it cannot express the input contract's interpolation area; do that"
    )
    Preprocess(antialias=True).refuse_departures(what="it", advice="do that")
