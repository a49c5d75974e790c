"""What is written for one image: every file tells the same story as the probability."""

from __future__ import annotations

import io
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from segdeploy.deploy.prediction.outputs import TINT, Finding, encoded, overlay
from segdeploy.deploy.prediction.settings import Write
from segdeploy.deploy.system.errors import RunError

PROBABILITIES = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.one_of(
        st.floats(0, 1, width=32),
        st.sampled_from([0.5, float(np.nextafter(np.float32(0.5), np.float32(0)))]),
    ),
)
Probability = NDArray[np.float32]
FEW = settings(max_examples=40, deadline=None)


def written(write: Write, found: Finding) -> NDArray[np.generic]:
    """The pixels of a file, read back."""
    image = np.zeros((*found.mask.shape, 3), np.uint8)
    content = io.BytesIO(encoded(write, found, image))
    if write is Write.PROBABILITY_NPY:
        stored: NDArray[np.generic] = np.load(content, allow_pickle=False)
        return stored
    with Image.open(content) as opened:
        assert opened.format == "PNG"
        return np.asarray(opened)


@FEW
@given(PROBABILITIES)
def test_the_mask_is_the_probability_cut_at_a_half(probability: Probability) -> None:
    mask = written(Write.MASK, Finding.of(probability))
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, np.where(probability >= 0.5, 255, 0))


@FEW
@given(PROBABILITIES)
def test_16_bits_keep_the_probability_and_exactly_the_mask(probability: Probability) -> None:
    stored = written(Write.PROBABILITY, Finding.of(probability)).astype(np.int64)
    assert np.abs(stored / 65535 - probability).max() <= 0.5 / 65535 + 1e-12
    assert np.array_equal(stored >= 32768, probability >= 0.5)


@FEW
@given(PROBABILITIES)
def test_npy_keeps_every_bit(probability: Probability) -> None:
    stored = written(Write.PROBABILITY_NPY, Finding.of(probability))
    assert stored.dtype == np.float32
    assert np.array_equal(stored, probability)


@FEW
@given(PROBABILITIES)
def test_labels_are_the_mask_in_connected_parts(probability: Probability) -> None:
    found = Finding.of(probability)
    labels = written(Write.LABELS, found).astype(np.int64)
    assert np.array_equal(labels > 0, probability >= 0.5)
    assert sorted(set(labels.ravel()) - {0}) == list(range(1, found.instances + 1))
    height, width = labels.shape
    for y, x, dy, dx in product(range(height), range(width), (-1, 0, 1), (-1, 0, 1)):
        if 0 <= y + dy < height and 0 <= x + dx < width:
            here, there = labels[y, x], labels[y + dy, x + dx]
            assert here == there or not here or not there, "neighbours are one object"


@FEW
@given(PROBABILITIES)
def test_an_overlay_changes_the_foreground_alone(probability: Probability) -> None:
    mask = Finding.of(probability).mask
    image = np.full((*mask.shape, 3), 90, np.uint8)
    shown = overlay(image, mask)
    assert np.array_equal(shown[~mask], image[~mask])
    assert (shown[mask] != 90).any(axis=-1).all()
    assert (image == 90).all(), "the image itself stays"


def test_an_overlay_outlines_with_the_plain_tint() -> None:
    mask = np.zeros((7, 7), np.bool_)
    mask[1:6, 1:6] = True
    shown = overlay(np.zeros((7, 7, 3), np.uint8), mask)
    assert (shown[1, 1:6] == TINT).all()
    assert shown[3, 3].tolist() == [63, 50, 0]


def test_the_share_and_the_number_of_objects() -> None:
    probability = np.array([[1, 0, 0, 1], [0, 0, 0, 1]], np.float32)
    found = Finding.of(probability)
    assert (found.foreground_share, found.instances) == (0.375, 2)


def test_more_objects_than_16_bits_number_are_refused() -> None:
    dots = np.zeros((514, 514), np.float32)
    dots[::2, ::2] = 1
    with pytest.raises(RunError, match="66049 objects, and 16-bit labels number 65535"):
        encoded(Write.LABELS, Finding.of(dots), None)


def test_an_overlay_needs_its_image() -> None:
    with pytest.raises(ValueError, match="needs its image"):
        encoded(Write.OVERLAY, Finding.of(np.zeros((2, 2), np.float32)), None)
