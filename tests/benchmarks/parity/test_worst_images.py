"""The pictures of the worst images: what is drawn where, and which images are chosen."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from report_builders import compared_row

from segdeploy.benchmarks.parity.records import ParityRow
from segdeploy.benchmarks.parity.worst_images import (
    GAINED,
    LONGEST_SIDE,
    LOST,
    SHOWN,
    Chosen,
    choose,
    disagreement,
    pictured,
    stretched,
)
from segdeploy.calibration.json_record import record_of


def decoded(text: str) -> NDArray[Any]:
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))))


def masks(seed: int, size: tuple[int, int]) -> tuple[NDArray[np.bool_], ...]:
    generator = np.random.default_rng(seed)
    return tuple(generator.random(size) < 0.5 for _ in range(3))


@given(seed=st.integers(0, 9), height=st.integers(1, 20), width=st.integers(1, 20))
def test_the_pictures_read_back_as_the_masks(seed: int, height: int, width: int) -> None:
    truth, reference, candidate = masks(seed, (height, width))
    image = np.full((height, width, 3), 90, np.uint8)
    found = pictured(Chosen(image="a", candidate="int8"), image, truth, reference, candidate)
    for key, mask in (("truth", truth), ("reference", reference), ("candidate", candidate)):
        assert (decoded(getattr(found, f"{key}_png_base64")) == mask).all()
    drawn = decoded(found.disagreement_png_base64)
    assert ((drawn == LOST).all(axis=2) == (reference & ~candidate)).all()
    assert ((drawn == GAINED).all(axis=2) == (candidate & ~reference)).all()


def test_a_single_differing_pixel_survives_the_reduction_of_a_large_image() -> None:
    size = (2 * LONGEST_SIDE, LONGEST_SIDE + 1)
    nothing, one = np.zeros(size, bool), np.zeros(size, bool)
    one[-1, -1] = True
    drawn = disagreement(np.zeros((*size, 3), np.uint8), nothing, one)
    assert max(drawn.shape) <= LONGEST_SIDE
    assert (drawn[-1, -1] == GAINED).all()
    assert (drawn == GAINED).all(axis=2).sum() == 1


@pytest.mark.parametrize("values", [(7, 7), (0, 255), (3, 90)])
def test_an_image_is_stretched_to_the_full_range(values: tuple[int, int]) -> None:
    image = np.array([[values, values]], np.uint8)
    low, high = int(stretched(image).min()), int(stretched(image).max())
    assert (low, high) == ((0, 0) if values[0] == values[1] else (0, 255))


def row(name: str, *images: tuple[str, float]) -> ParityRow:
    worst = [{"name": n, "reference_iou": 80.0, "candidate_iou": 80.0 - loss} for n, loss in images]
    content = compared_row(name, 0.0, 0.0, 0.0, worst_images=worst)
    return record_of(content, ParityRow, whole="the row")


def test_each_image_is_chosen_once_with_its_largest_loss() -> None:
    rows = [row("fp16", ("a", 1), ("b", 0)), row("int8", ("a", 3), ("c", 2)), row("skipped")]
    assert choose(rows) == [
        Chosen(image="a", candidate="int8"),
        Chosen(image="c", candidate="int8"),
        Chosen(image="b", candidate="fp16"),
    ]
    many = row("int8", *((f"image{n}", float(n)) for n in range(SHOWN + 3)))
    assert [found.image for found in choose([many])] == [
        f"image{n}" for n in range(SHOWN + 2, 2, -1)
    ]
