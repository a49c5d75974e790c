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
from scipy import ndimage

from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.prediction.outputs import TINT, Finding, encoded, overlay, shown_mask
from segdeploy.deploy.prediction.settings import Write, files_of, is_own_file
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


# --- several classes ---------------------------------------------------------------------------

FOUR = OutputContract(activation=Activation.SOFTMAX, classes=("ground", "a", "b", "c"))
OVERLAP = OutputContract(classes=("cell", "nucleus"), colours=((0, 200, 0), (250, 0, 250)))
PLANES = arrays.arrays(
    np.float32,
    st.tuples(st.just(4), st.integers(1, 9), st.integers(1, 9)),
    elements=st.floats(0.0078125, 1, width=32),
).map(lambda planes: (planes / planes.sum(axis=0)).astype(np.float32))


@FEW
@given(PLANES)
def test_classes_that_exclude_each_other_are_an_index_with_a_palette(planes: Probability) -> None:
    content = encoded(Write.MASK, Finding.of(planes, FOUR), None)
    with Image.open(io.BytesIO(content)) as opened:
        assert opened.mode == "P"
        assert np.array_equal(np.asarray(opened), planes.argmax(axis=0))
        shown = np.asarray(opened.convert("RGB"))
    assert np.array_equal(shown, np.array(FOUR.palette, np.uint8)[planes.argmax(axis=0)])


@FEW
@given(PLANES)
def test_objects_are_parts_of_one_class_in_reading_order(planes: Probability) -> None:
    found = Finding.of(planes, FOUR)
    classes = planes.argmax(axis=0)
    labels = found.labels
    assert np.array_equal(labels > 0, classes > 0)
    firsts = [int(np.flatnonzero(labels.ravel() == n)[0]) for n in range(1, found.instances + 1)]
    assert firsts == sorted(firsts)
    for number in range(1, found.instances + 1):
        assert len(set(classes[labels == number])) == 1, "an object has one class"
    counted = sum(
        ndimage.label(classes == index, structure=np.ones((3, 3)))[1] for index in (1, 2, 3)
    )
    assert found.instances == counted
    assert found.foreground_share == pytest.approx((classes > 0).mean(), abs=1e-6)


def test_probabilities_of_chosen_classes() -> None:
    planes = np.random.default_rng(0).random((4, 3, 5)).astype(np.float32)
    found = Finding.of(planes, FOUR)
    stored = np.load(io.BytesIO(encoded(Write.PROBABILITY_NPY, found, None, classes=(1, 3))))
    assert np.array_equal(stored, planes[[1, 3]])
    assert np.array_equal(np.load(io.BytesIO(encoded(Write.PROBABILITY_NPY, found, None))), planes)
    for index in range(4):
        with Image.open(io.BytesIO(encoded(Write.PROBABILITY, found, None, index=index))) as image:
            assert np.abs(np.asarray(image) / 65535 - planes[index]).max() < 1e-5


def test_labels_that_overlap_have_a_mask_each() -> None:
    planes = np.array([[[0.9, 0.9, 0.1]], [[0.1, 0.5, 0.1]]], np.float32)
    found = Finding.of(planes, OVERLAP)
    for index, row in enumerate(([255, 255, 0], [0, 255, 0])):
        with Image.open(io.BytesIO(encoded(Write.MASK, found, None, index=index))) as image:
            assert np.asarray(image).tolist() == [row]
    assert shown_mask(planes, OVERLAP).shape == (2, 1, 3)
    assert found.foreground_share == round(2 / 3, 6)


def test_an_overlay_has_each_class_in_its_colour_and_no_background() -> None:
    planes = np.zeros((4, 1, 6), np.float32)
    for column, index in enumerate((0, 1, 1, 2, 3, 0)):
        planes[index, 0, column] = 1
    image = np.full((1, 6, 3), 90, np.uint8)
    content = encoded(Write.OVERLAY, Finding.of(planes, FOUR), image)
    with Image.open(io.BytesIO(content)) as opened:
        shown = np.asarray(opened)[0]
    assert (shown[[0, 5]] == 90).all()
    assert {tuple(pixel) for pixel in shown[3:5].tolist()} == set(FOUR.palette[2:])


@pytest.mark.parametrize(
    ("write", "output", "classes", "files"),
    [
        (Write.MASK, OutputContract(), (), ["x/a.png"]),
        (Write.PROBABILITY, OutputContract(), (), ["probability/x/a.png"]),
        (Write.MASK, FOUR, (), ["x/a.png"]),
        (Write.PROBABILITY, FOUR, (1, 3), ["probability/1/x/a.png", "probability/3/x/a.png"]),
        (Write.PROBABILITY_NPY, FOUR, (1,), ["probability/x/a.npy"]),
        (Write.MASK, OVERLAP, (), ["0/x/a.png", "1/x/a.png"]),
    ],
)
def test_files_of_classes(
    write: Write, output: OutputContract, classes: tuple[int, ...], files: list[str]
) -> None:
    found = [file for _, _, file in files_of("x/a", [write], output, classes)]
    assert found == files
    assert all(is_own_file(file, "x/a") for file in found)


@pytest.mark.parametrize(
    "file", ["a.png", "../x/a.png", "0/../x/a.png", "1000/x/a.png", "probability/0/x/a.npy", "0/a"]
)
def test_files_that_are_none_of_an_images_own(file: str) -> None:
    assert not is_own_file(file, "x/a")
