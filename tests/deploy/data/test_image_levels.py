"""Image files of any depth: the levels that are stored, in the channels a contract takes."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from segdeploy.deploy.data.image_levels import decode, image_size
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.system.errors import InputError

Levels = NDArray[np.unsignedinteger]

RGB16 = Preprocess(source_bits=16, channel_order="RGB")
GREY16 = Preprocess(source_bits=16, channel_order="GREY", mean=(0.5,), std=(0.5,))
GREY8 = Preprocess(channel_order="GREY", mean=(0.5,), std=(0.5,))

COLOURS = (np.arange(4 * 5 * 3).reshape(4, 5, 3) * 1000).astype(np.uint16)

LZW = base64.b64decode(
    "SUkqAD4AAACAAAAOgBtADrgFwiFQmGQuHQxMDpAD40EKHxeGxmEDA6hg8gA+xiRRoFshXrBZphbyOWQyAgAMAAABAwABAAAABQ"
    "AAAAEBAwABAAAABAAAAAIBAwADAAAA1AAAAAMBAwABAAAABQAAAAYBAwABAAAAAgAAABEBBAABAAAACAAAABUBAwABAAAAAwAA"
    "ABYBAwABAAAABAAAABcBBAABAAAANQAAABwBAwABAAAAAQAAAD0BAwABAAAAAgAAAFMBAwADAAAA2gAAAAAAAAAQABAAEAABAA"
    "EAAQA="
)
"""``COLOURS`` as OpenCV's ``imwrite`` stores them: LZW and a predictor."""


def bands(count: int, bits: int = 16, **more: object) -> Preprocess:
    return Preprocess(
        source_bits=bits,
        channel_order="BANDS",
        mean=(0.5,) * count,
        std=(0.5,) * count,
        **more,  # type: ignore[arg-type]  # fields of several types
    )


def png(path: Path, samples: Levels, kind: int) -> Path:
    """A 16-bit PNG file, which Pillow itself does not write in colour."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 16, kind, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


WRITERS: dict[str, Callable[[Path, Levels], object]] = {
    "PNG": lambda path, pixels: png(path, pixels, {1: 0, 2: 4, 3: 2, 4: 6}[pixels.shape[2]]),
    "TIFF": lambda path, pixels: tifffile.imwrite(path, pixels, photometric="rgb"),
    "big endian": lambda path, pixels: tifffile.imwrite(
        path, pixels, byteorder=">", photometric="rgb"
    ),
    "planes": lambda path, pixels: tifffile.imwrite(
        path, np.moveaxis(pixels, -1, 0), planarconfig="separate", photometric="rgb"
    ),
    "Deflate": lambda path, pixels: tifffile.imwrite(
        path, pixels, compression="zlib", rowsperstrip=2, photometric="rgb"
    ),
    "tiles": lambda path, pixels: tifffile.imwrite(path, pixels, tile=(16, 16), photometric="rgb"),
    "BigTIFF": lambda path, pixels: tifffile.imwrite(path, pixels, bigtiff=True, photometric="rgb"),
}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(WRITERS)), st.integers(0, 2**32 - 1))
def test_every_bit_of_16_bit_colours_is_kept(
    tmp_path_factory: pytest.TempPathFactory, form: str, seed: int
) -> None:
    drawn = np.random.default_rng(seed)
    sides = drawn.integers(1, 40, 2)
    pixels = drawn.integers(0, 1 << 16, (*sides, 3)).astype(np.uint16)
    path = tmp_path_factory.mktemp("deep") / "x.png"
    WRITERS[form](path, pixels)
    assert np.array_equal(decode(path, RGB16).pixels, pixels)
    assert np.array_equal(decode(path, RGB16, content=path.read_bytes()).pixels, pixels)
    assert image_size(path) == tuple(sides)


def test_what_opencv_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(LZW)
    assert np.array_equal(decode(path, RGB16).pixels, COLOURS)


@pytest.mark.parametrize("kind", [0, 4])
def test_16_bit_grey_with_alpha_or_without(tmp_path: Path, kind: int) -> None:
    grey = COLOURS[..., :1]
    stored = grey if kind == 0 else np.concatenate([grey, grey // 3], axis=2)
    path = png(tmp_path / "x.png", stored, kind)
    assert np.array_equal(decode(path, GREY16).pixels, grey)
    assert np.array_equal(decode(path, RGB16).pixels, np.repeat(grey, 3, axis=2))


def test_alpha_is_dropped_from_16_bit_colours(tmp_path: Path) -> None:
    alpha = COLOURS[..., :1] // 2
    path = png(tmp_path / "x.png", np.concatenate([COLOURS, alpha], axis=2), 6)
    assert np.array_equal(decode(path, RGB16).pixels, COLOURS)
    assert np.array_equal(decode(path, bands(4)).pixels[..., 3:], alpha)


def test_grey_of_colours_has_one_definition_at_both_depths(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    assert np.array_equal(decode(tmp_path / "x.png", GREY8).pixels[..., 0], expected)
    tifffile.imwrite(tmp_path / "x.tif", pixels.astype(np.uint16))
    assert np.array_equal(decode(tmp_path / "x.tif", GREY16).pixels[..., 0], expected)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_bands_come_as_they_are_stored(tmp_path: Path, bits: int, planar: str, count: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 1 << bits, (9, 6, count))
    pixels = pixels.astype(f"u{bits // 8}")
    stored = pixels if planar == "contig" else np.moveaxis(pixels, -1, 0)
    if count == 1:
        stored = pixels[..., 0]
    tifffile.imwrite(
        tmp_path / "x.tif",
        stored,
        photometric="minisblack",
        planarconfig=None if count == 1 else planar,  # type: ignore[arg-type]  # its words
    )
    assert np.array_equal(decode(tmp_path / "x.tif", bands(count, bits)).pixels, pixels)


def test_pages_are_chosen_and_become_bands(tmp_path: Path) -> None:
    pages = np.random.default_rng(2).integers(0, 1 << 16, (5, 6, 7)).astype(np.uint16)
    path = tmp_path / "x.ome.tif"
    tifffile.imwrite(path, pages, photometric="minisblack", metadata={"axes": "CYX"})
    one = Preprocess(**(vars(GREY16) | {"source_pages": (3,)}))
    assert np.array_equal(decode(path, one).pixels[..., 0], pages[3])
    found = decode(path, bands(2, source_pages=(4, 0))).pixels
    assert np.array_equal(found, pages[[4, 0]].transpose(1, 2, 0))
    with pytest.raises(InputError, match=r"5 pages.*--page 0 to 4"):
        decode(path, GREY16)
    with pytest.raises(InputError, match="pages 0 to 4, not 9"):
        decode(path, Preprocess(**(vars(GREY16) | {"source_pages": (9,)})))


def test_a_picture_of_an_animation_is_chosen_too(tmp_path: Path) -> None:
    grey = [np.full((4, 4), level, np.uint8) for level in (10, 200)]
    first, second = map(Image.fromarray, grey)
    first.save(tmp_path / "x.gif", save_all=True, append_images=[second])
    with pytest.raises(InputError, match=r"several pictures .*--page NUMBER"):
        decode(tmp_path / "x.gif")
    found = decode(tmp_path / "x.gif", Preprocess(source_pages=(1,))).pixels
    assert (found == 200).all()


def test_white_may_be_zero(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", COLOURS[..., 0], photometric="miniswhite")
    assert np.array_equal(decode(tmp_path / "x.tif", GREY16).pixels, 65535 - COLOURS[..., :1])


SIGNED = np.arange(-10, 10, dtype=np.int8).reshape(4, 5)


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (SIGNED, {}, "signed levels .TIFF SampleFormat 2.; expected unsigned"),
        (SIGNED.astype(np.int16), {}, "signed levels"),
        (SIGNED.astype(np.float32), {}, "floating-point values .TIFF SampleFormat 3"),
        (SIGNED.astype(np.complex64), {}, "complex numbers"),
        (COLOURS.astype(np.uint32), {}, "has 32 bits a channel; expected 8 or 16"),
        (COLOURS[None].repeat(3, 0), {"volumetric": True, "tile": (1, 16, 16)}, "is a volume"),
    ],
)
def test_other_values_are_refused_by_what_the_tags_say(
    tmp_path: Path, pixels: NDArray[np.generic], options: dict[str, object], message: str
) -> None:
    tifffile.imwrite(tmp_path / "x.tif", pixels, **options)  # type: ignore[arg-type]
    for contract in (Preprocess(), RGB16, GREY16):
        with pytest.raises(InputError, match=message) as caught:
            decode(tmp_path / "x.tif", contract)
        assert str(tmp_path / "x.tif") in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "bits", "contract", "message"),
    [
        ((4, 5, 3), 16, Preprocess(), "16 bits a channel, the input contract takes 8.*--range"),
        ((4, 5, 3), 8, RGB16, r"8 bits a channel, the input contract takes 16 \(source_bits\)"),
        ((4, 5, 3), 16, bands(4), r"3 channels; the input contract takes 4 \(BANDS\)"),
        ((4, 5, 5), 16, RGB16, r"5 channels; the input contract takes 3 \(RGB\)"),
        ((4, 5, 5), 16, GREY16, r"5 channels; the input contract takes 1 \(GREY\)"),
    ],
)
def test_a_file_that_does_not_fit_the_contract(
    tmp_path: Path, shape: tuple[int, ...], bits: int, contract: Preprocess, message: str
) -> None:
    photometric = "rgb" if shape[2] == 3 else "minisblack"
    pixels = np.zeros(shape, f"u{bits // 8}")
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric=photometric, planarconfig="contig")
    with pytest.raises(InputError, match=message):
        decode(tmp_path / "x.tif", contract)


def test_a_small_file_does_not_unpack_to_a_large_one(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.zeros((8, 8), np.uint16), compression="zlib")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        at, length = page.dataoffsets[0], page.tags["StripByteCounts"]
    bomb = zlib.compress(bytes(1 << 20), 9)
    content[length.valueoffset : length.valueoffset + 4] = struct.pack("<I", len(bomb))
    path.write_bytes(bytes(content[:at]) + bomb)
    with pytest.raises(InputError, match="unpacks to more than it says"):
        decode(path, GREY16)


@pytest.mark.parametrize("form", ["TIFF", "planes", "Deflate", "tiles", "PNG"])
def test_a_file_that_ends_early_is_refused_or_loses_no_pixel(tmp_path: Path, form: str) -> None:
    path = tmp_path / "x.tif"
    WRITERS[form](path, COLOURS + 1)
    content = path.read_bytes()
    refused = 0
    for length in range(len(content)):
        try:
            found = decode(path, RGB16, content=content[:length]).pixels
        except InputError:
            refused += 1
        else:
            assert np.array_equal(found, COLOURS + 1)
    assert refused > len(content) - 40


def test_a_page_that_claims_to_be_enormous(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.zeros((8, 8), np.uint16))
    with tifffile.TiffFile(path) as file:
        places = [file.pages.first.tags[name] for name in ("ImageWidth", "ImageLength")]
    content = bytearray(path.read_bytes())
    for place in places:
        content[place.valueoffset : place.valueoffset + place.dtype // 2] = b"\xff\xff"
    path.write_bytes(content)
    with pytest.raises(InputError, match="too large"):
        decode(path, GREY16)
