"""Sets as microscopes write them: 16 bits are kept, or become 8 by levels that are stated."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from segdeploy.api.prepare import prepare
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.data.raw_images import RawImages, percentile_levels
from segdeploy.deploy.system.errors import InputError, UsageError

GREY16 = Preprocess(size=(12, 10), channel_order="GREY", mean=(0.5,), std=(0.5,), source_bits=16)
COLOUR16 = Preprocess(size=(12, 10), source_bits=16)


@pytest.fixture
def stack() -> NDArray[np.uint16]:
    """Images of a 12-bit camera, (N, H, W)."""
    return np.random.default_rng(5).integers(0, 4096, (6, 12, 10)).astype(np.uint16)


@pytest.fixture
def raw(tmp_path: Path, stack: NDArray[np.uint16]) -> Path:
    """A set of grey TIFF files of 16 bits and their masks."""
    root = tmp_path / "raw"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for index, pixels in enumerate(stack):
        tifffile.imwrite(root / "images" / f"{index}.tif", pixels)
        Image.fromarray(np.where(pixels > 2000, 255, 0).astype(np.uint8)).save(
            root / "masks" / f"{index}.png"
        )
    return root


def test_16_bits_are_kept_byte_by_byte(raw: Path, stack: NDArray[np.uint16]) -> None:
    out = raw.parent / "set"
    prepare(raw, out)
    for sample, pixels in zip(open_set(out, None), stack, strict=True):
        assert (
            sample.image_path.read_bytes() == (raw / "images" / f"{sample.name}.tif").read_bytes()
        )
        assert np.array_equal(sample.image(GREY16)[..., 0], pixels)
        with pytest.raises(InputError, match=r"16 bits .*--range LOW HIGH"):
            sample.image()


def test_stated_levels_make_a_set_of_8_bits(raw: Path, stack: NDArray[np.uint16]) -> None:
    out = raw.parent / "set"
    prepare(raw, out, levels=(0, 4095))
    for sample, pixels in zip(open_set(out, None), stack, strict=True):
        expected = np.rint(pixels * (255 / 4095)).astype(np.uint8)
        assert np.abs(sample.image() - expected[..., None].astype(int)).max() == 0


def test_percentiles_are_of_the_set_and_said_as_numbers(
    raw: Path, stack: NDArray[np.uint16], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    prepare(raw, raw.parent / "first", percentiles=(1, 99))
    low, high = (int(np.percentile(stack, share, method="inverted_cdf")) for share in (1, 99))
    assert f"as with --range {low} {high}" in caplog.text
    prepare(raw, raw.parent / "second", levels=(low, high))
    for one, other in zip(
        open_set(raw.parent / "first", None), open_set(raw.parent / "second", None), strict=True
    ):
        assert one.image_path.read_bytes() == other.image_path.read_bytes()


def test_a_set_of_16_bits_is_judged_by_levels_that_are_stated(
    raw: Path, stack: NDArray[np.uint16]
) -> None:
    out = raw.parent / "set"
    prepare(raw, out)
    contract = Preprocess(size=(12, 10))
    images = open_set(out, None).of_source((0, 4095), None)
    expected = (stack * np.float32(255 / 4095) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(
        images.inputs(contract), np.repeat(expected[:, None], 3, axis=1), atol=1e-5
    )
    assert images.sha256() != open_set(out, None).sha256()
    assert images.pictures(contract).dtype == np.uint8


def test_a_page_is_the_image(tmp_path: Path, stack: NDArray[np.uint16]) -> None:
    for name in ("images", "masks"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    for index in range(3):
        pages = np.stack([stack[index], stack[index + 3]])
        tifffile.imwrite(tmp_path / "raw" / "images" / f"{index}.ome.tif", pages)
        Image.fromarray(np.zeros((12, 10), np.uint8)).save(
            tmp_path / "raw" / "masks" / f"{index}.ome.png"
        )
    with pytest.raises(InputError, match=r"2 pages.*--page 0 to 1"):
        prepare(tmp_path / "raw", tmp_path / "none")
    prepare(tmp_path / "raw", tmp_path / "set", page=1)
    for sample, pixels in zip(open_set(tmp_path / "set", None), stack[3:], strict=True):
        assert np.array_equal(sample.image(GREY16)[..., 0], pixels)


def test_what_cannot_be_is_refused(raw: Path) -> None:
    out = raw.parent / "none"
    paths = sorted((raw / "images").iterdir())
    with pytest.raises(UsageError, match="drop one"):
        prepare(raw, out, levels=(0, 1), percentiles=(1, 99))
    with pytest.raises(UsageError, match="expected two from 0 to 100"):
        percentile_levels(paths, (99, 1))
    with pytest.raises(InputError, match="both level"):
        percentile_levels(paths, (50, 50.0001))
    with pytest.raises(InputError, match="expected levels of 16 bits, 0 to 65535"):
        RawImages(levels=(0, 70000)).read(paths[0])
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(raw / "eight.png")
    with pytest.raises(InputError, match=r"8 bits .*leave --range out"):
        RawImages(levels=(0, 255)).read(raw / "eight.png")
