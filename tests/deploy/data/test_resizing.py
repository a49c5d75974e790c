"""Each filter is the one of the library that made it common: OpenCV, Pillow, PyTorch.

``opencv_resized.json`` holds what OpenCV 5.0.0's ``resize`` gives for random images of 8 and 16
bits, so that no test needs it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from segdeploy.deploy.data.resizing import ANTIALIASED, INTERPOLATIONS, resize

Pixels = NDArray[np.uint8]

SIDES = st.integers(1, 40)
SIZES = st.tuples(SIDES, SIDES)
IMAGES = hnp.arrays(np.uint8, st.tuples(SIDES, SIDES, st.just(3)))


def torch_resize(image: Pixels, size: tuple[int, int], *, antialias: bool) -> NDArray[np.float64]:
    planes = torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None]
    resized = functional.interpolate(
        planes, size=size, mode="bilinear", align_corners=False, antialias=antialias
    )
    values: NDArray[np.float64] = resized[0].permute(1, 2, 0).numpy()
    return values


@settings(max_examples=60, deadline=None)
@given(IMAGES, SIZES)
def test_resize_is_torchs_bilinear(image: Pixels, size: tuple[int, int]) -> None:
    resized = resize(image, size)
    assert resized.dtype == np.uint8
    assert resized.shape == (*size, 3)
    expected = torch_resize(image, size, antialias=False)
    assert np.abs(resized - expected).max() <= 0.51  # rounding, and float32 weights


@settings(max_examples=30, deadline=None)
@given(IMAGES, st.tuples(SIDES, st.integers(2, 40)))
def test_antialiased_resize_is_torchs(image: Pixels, size: tuple[int, int]) -> None:
    # To width 1, torch 2.13 repeats the first row: (3, 0, 0) to height 2 gives (1.875, 1.875).
    expected = torch_resize(image, size, antialias=True)
    # Pillow rounds to a grey level after each of its two directions.
    assert np.abs(resize(image, size, antialias=True) - expected).max() <= 1.51


@given(IMAGES, st.booleans())
def test_equal_size_is_the_identity(image: Pixels, antialias: bool) -> None:
    assert np.array_equal(
        resize(image, (image.shape[0], image.shape[1]), antialias=antialias), image
    )


@given(IMAGES, SIZES)
def test_resize_stays_between_the_extremes_and_commutes_with_mirrors(
    image: Pixels, size: tuple[int, int]
) -> None:
    resized = resize(image, size)
    assert resized.min() >= image.min()
    assert resized.max() <= image.max()
    for mirror in (np.flipud, np.fliplr):
        difference = resize(mirror(image), size).astype(int) - mirror(resized)
        assert np.abs(difference).max() <= 1


def test_antialiasing_averages_what_bilinear_skips() -> None:
    image = np.zeros((64, 64, 1), np.uint8)
    image[::4] = 200
    assert resize(image, (16, 16)).max() == 0
    assert resize(image, (16, 16), antialias=True).min() > 30


# --- the other filters -------------------------------------------------------------------------

OPENCV: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "opencv_resized.json").read_text()
)
SMOOTH = ("bilinear", "bicubic", "area", "lanczos")


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("key", "dtype"), [("", np.uint8), ("_deep", np.uint16)])
@pytest.mark.parametrize("case", OPENCV, ids=["shrinks", "grows", "both"])
def test_a_filter_is_opencvs(
    case: dict[str, Any], key: str, dtype: type[np.unsignedinteger], interpolation: str
) -> None:
    image = np.array(case[key.strip("_") or "image"], dtype)[..., None]
    found = resize(image, tuple(case["size"]), interpolation=interpolation)[..., 0]
    expected = np.array(case[f"expected{key}"][interpolation])
    assert np.abs(found.astype(int) - expected).max() <= (interpolation in SMOOTH)


@settings(max_examples=40, deadline=None)
@given(IMAGES, SIZES, st.sampled_from([*ANTIALIASED, "nearest-exact"]))
def test_a_filter_with_antialiasing_is_pillows(
    image: Pixels, size: tuple[int, int], interpolation: str
) -> None:
    kinds = ANTIALIASED | {"nearest-exact": Image.Resampling.NEAREST}
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], kinds[interpolation]))
    smooth = interpolation in ANTIALIASED
    found = resize(image, size, interpolation=interpolation, antialias=smooth)
    assert np.array_equal(found, expected)


@settings(max_examples=40, deadline=None)
@given(IMAGES, SIZES)
def test_bicubic_is_torchs(image: Pixels, size: tuple[int, int]) -> None:
    planes = torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None]
    values = functional.interpolate(planes, size=size, mode="bicubic", align_corners=False)
    expected = values[0].permute(1, 2, 0).clamp(0, 255).numpy()
    assert np.abs(resize(image, size, interpolation="bicubic") - expected).max() <= 0.51


@given(IMAGES, SIZES, st.sampled_from(INTERPOLATIONS), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_flat_image_stays_flat_at_any_depth(
    image: Pixels, size: tuple[int, int], interpolation: str, deep: bool
) -> None:
    flat = np.full_like(image, 201, np.uint16 if deep else np.uint8) * (257 if deep else 1)
    for smooth in {False, interpolation in ANTIALIASED}:
        found = resize(flat, size, interpolation=interpolation, antialias=smooth)
        assert (found.dtype, found.shape) == (flat.dtype, (*size, 3))
        assert (found == flat[0, 0, 0]).all()


def test_area_is_the_mean_of_what_is_covered() -> None:
    image = np.arange(24, dtype=np.uint16).reshape(4, 6, 1) * 100
    found = resize(image, (2, 2), interpolation="area")[..., 0]
    assert np.array_equal(found, image.reshape(2, 2, 2, 3).mean(axis=(1, 3)))


def test_16_bits_are_resized_as_8_bits_are() -> None:
    image = np.random.default_rng(4).integers(0, 256, (30, 20, 2)).astype(np.uint8)
    for interpolation in INTERPOLATIONS:
        for smooth in {False, interpolation in ANTIALIASED}:
            options = {"interpolation": interpolation, "antialias": smooth}
            eight = resize(image, (17, 26), **options)  # type: ignore[arg-type]  # of two types
            deep = resize(image.astype(np.uint16), (17, 26), **options)  # type: ignore[arg-type]
            # Of 8 bits Pillow rounds after each of its two directions.
            assert np.abs(eight.astype(int) - np.clip(deep, 0, 255)).max() <= 1 + smooth
