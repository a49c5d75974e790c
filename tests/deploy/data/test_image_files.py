from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segdeploy.deploy.data.image_files import (
    by_stem,
    image_files,
    image_size,
    read_image,
    read_mask,
)
from segdeploy.deploy.system.errors import InputError

WritePng = Callable[[Path, NDArray[np.generic]], Path]


def png_of(samples: NDArray[np.uint16], colour_type: int) -> bytes:
    """A 16-bit PNG file of (H, W, C) samples, which Pillow itself does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff_of(samples: NDArray[np.uint16]) -> bytes:
    """A 16-bit RGB TIFF file of (H, W, 3) samples."""
    height, width, _ = samples.shape
    data = samples.astype("<u2").tobytes()
    tags = [(256, width), (257, height), (258, None), (259, 1), (262, 2)]
    tags += [(273, None), (277, 3), (278, height), (279, len(data))]
    bits_at = 8 + 2 + 12 * len(tags) + 4
    entries = b""
    for tag, value in tags:
        if tag == 258:
            entries += struct.pack("<HHII", tag, 3, 3, bits_at)
        else:
            entries += struct.pack("<HHII", tag, 4, 1, bits_at + 6 if tag == 273 else value)
    start = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return start + entries + struct.pack("<I", 0) + struct.pack("<HHH", 16, 16, 16) + data


DEEP = np.arange(4 * 5 * 4, dtype=np.uint16).reshape(4, 5, 4) * 700
DEEP_FILES = {
    "grey.png": png_of(DEEP[..., :1], 0),
    "rgb.png": png_of(DEEP[..., :3], 2),
    "grey_alpha.png": png_of(DEEP[..., :2], 4),
    "rgba.png": png_of(DEEP, 6),
    "rgb.tif": tiff_of(DEEP[..., :3]),
}


@pytest.mark.parametrize("name", DEEP_FILES)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_16_bits_a_channel_are_refused_in_colour_too(tmp_path: Path, name: str, mode: str) -> None:
    path = tmp_path / name
    path.write_bytes(DEEP_FILES[name])
    with Image.open(path) as image:
        assert image.size == (5, 4)
        image.load()  # a whole file, refused for its depth alone
    with pytest.raises(InputError, match="has 16 bits a channel or more") as caught:
        read_image(path, mode)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".bmp", ".tif"])
@pytest.mark.parametrize("mode", ["1", "L", "P"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_mask_reads_the_same_however_it_is_stored(
    tmp_path: Path, suffix: str, mode: str, turned: bool
) -> None:
    mask = np.zeros((6, 7), np.uint8)
    mask[1:4, 2:6] = 255
    image = Image.fromarray(mask).convert(mode)
    if mode == "P" and turned:  # index 0 is white: the indices say the opposite of the colours
        image = Image.fromarray((mask == 0).astype(np.uint8))
        image.putpalette([255, 255, 255, 0, 0, 0])
    path = tmp_path / f"mask{suffix}"
    image.save(path)
    found = read_mask(path, image_path=tmp_path / "image.png", size=(6, 7))
    assert np.array_equal(found, mask)


def test_transparency_neither_hides_nor_shows(tmp_path: Path) -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[1:3] = 255
    clear = Image.merge("LA", [Image.fromarray(mask), Image.new("L", (4, 4), 0)])
    clear.save(tmp_path / "clear.png")
    Image.fromarray(mask).save(tmp_path / "keyed.png", transparency=255)
    Image.fromarray(mask).convert("P").save(tmp_path / "keyed.gif", transparency=0)
    for name in ("clear.png", "keyed.png", "keyed.gif"):
        found = read_mask(tmp_path / name, image_path=tmp_path / "image.png", size=(4, 4))
        assert np.array_equal(found, mask)


def test_a_mask_of_another_size_names_both_files_and_sizes(
    tmp_path: Path, write_png: WritePng
) -> None:
    path = write_png(tmp_path / "mask.png", np.zeros((3, 5), np.uint8))
    image = write_png(tmp_path / "image.png", np.zeros((5, 3, 3), np.uint8))
    assert image_size(image) == (5, 3)
    with pytest.raises(InputError, match=r"mask .*mask.png is 5x3 .* image.png is 3x5 \(width x"):
        read_mask(path, image_path=image, size=image_size(image))


def test_hidden_and_other_files_are_no_images(tmp_path: Path, write_png: WritePng) -> None:
    for name in ("b.PNG", "a.png", "._a.png"):
        write_png(tmp_path / name, np.zeros((2, 2), np.uint8))
    for name in ("LICENSE.txt", "a.gif", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in image_files(tmp_path)] == ["a.png", "b.PNG"]
    assert list(by_stem(tmp_path)) == ["a", "b"]
    assert image_files(tmp_path / "nowhere") == []
