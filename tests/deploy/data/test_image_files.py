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
    left_out,
    read_image,
    some_names,
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
    with pytest.raises(
        InputError, match="has 16 bits a channel, the input contract takes 8"
    ) as caught:
        read_image(path, mode)
    assert str(path) in str(caught.value)


def test_hidden_and_other_files_are_no_images(tmp_path: Path, write_png: WritePng) -> None:
    for name in ("b.PNG", "a.png", "._a.png"):
        write_png(tmp_path / name, np.zeros((2, 2), np.uint8))
    for name in ("LICENSE.txt", "a.svg", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in image_files(tmp_path)] == ["a.png", "b.PNG"]
    assert list(by_stem(tmp_path)) == ["a", "b"]
    assert image_files(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("suffix", "form"), [("gif", "GIF"), ("webp", "WEBP"), ("jfif", "JPEG"), ("jpe", "JPEG")]
)
def test_less_common_suffixes_are_images(tmp_path: Path, suffix: str, form: str) -> None:
    path = tmp_path / f"x.{suffix}"
    options = {"lossless": True} if form == "WEBP" else {}
    Image.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(path, format=form, **options)
    assert image_files(tmp_path) == [path]
    assert np.abs(read_image(path, "RGB").astype(int) - 90).max() <= 1


@pytest.mark.parametrize("form", ["GIF", "WEBP"])
def test_animations_are_refused(tmp_path: Path, form: str) -> None:
    frames = [Image.fromarray(np.full((4, 6, 3), level, np.uint8)) for level in (10, 200)]
    frames[0].save(tmp_path / "x.png", format=form, save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="holds several pictures"):
        read_image(tmp_path / "x.png", "RGB")


def test_what_is_left_out_is_counted_and_named(tmp_path: Path, write_png: WritePng) -> None:
    write_png(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    for name in ("b.png", "deep/c.png"):
        (tmp_path / "plate" / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(tmp_path / "plate" / name, np.zeros((2, 2), np.uint8))
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden").write_text("x")
    assert left_out(tmp_path) == ["notes.txt", "plate/ (2 images)"]
    assert left_out(tmp_path / "nowhere") == []
    assert some_names([str(number) for number in range(9)]) == "0, 1, 2, 3, 4, 5 and 3 more"
