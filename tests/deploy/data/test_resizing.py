from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from segdeploy.deploy.data.resizing import resize

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
