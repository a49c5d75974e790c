"""Image files that are damaged, hostile or of another kind, one line each, and what is said."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

Make = Callable[[Path], object]
"""Writes something under the name of an image."""

SIDE = 24
LIMIT = (256 << 20) // 3


@dataclass(frozen=True)
class BadImage:
    """One file: what it is, its name, how it is written, and what the refusal must say."""

    what: str
    name: str
    make: Make
    message: str


def picture(mode: str = "RGB", *, seed: int = 1) -> Image.Image:
    """A small picture of blocks in a Pillow mode."""
    blocks = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), np.uint8)
    return Image.fromarray(blocks).resize((SIDE, SIDE)).convert(mode)


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)  # type: ignore[arg-type]  # Pillow's own types
    return stream.getvalue()


def data(content: bytes) -> Make:
    """A file of these bytes."""
    return lambda path: path.write_bytes(content)


def cut(kind: str, part: float) -> Make:
    """A file that ends too early."""
    whole = stored(picture(), kind)
    return data(whole[: int(len(whole) * part)])


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def png(width: int, height: int, *, bits: int = 8, colour: int = 0, extra: bytes = b"") -> bytes:
    """A PNG file whose header says this, with as few data as pass for it."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    rows = zlib.compress(bytes(min(height * (1 + width * channels * bits // 8), 1 << 20)), 9)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def header_of(kind: str, width: int, height: int) -> bytes:
    """A small file that claims a size: the true header of another, changed."""
    content = bytearray(stored(picture(), kind))
    if kind == "JPEG":
        at = content.index(b"\xff\xc0") + 5
        content[at : at + 4] = struct.pack(">HH", height, width)
    elif kind == "BMP":
        content[18:26] = struct.pack("<ii", width, height)
    elif kind == "GIF":
        at = content.index(b"\x2c") + 5
        content[6:10] = content[at : at + 4] = struct.pack("<HH", width, height)
    else:
        old = struct.pack("<HHI", 256, 4, 1), struct.pack("<HHI", 257, 4, 1)
        for tag, side in zip(old, (width, height), strict=True):
            at = content.index(tag[:2], 8)
            content[at : at + 12] = tag + struct.pack("<I", side)
    return bytes(content)


def tiff16() -> bytes:
    """A 16-bit RGB TIFF file, which Pillow does not write."""
    pixels = np.full((4, 5, 3), 7000, "<u2").tobytes()
    tags = [(256, 5), (257, 4), (258, 0), (259, 1), (262, 2), (273, 0), (277, 3), (278, 4)]
    tags.append((279, len(pixels)))
    after = 8 + 2 + 12 * len(tags) + 4
    values = {258: (3, 3, after), 273: (4, 1, after + 6)}
    entries = b"".join(
        struct.pack("<HHII", tag, *values.get(tag, (4, 1, value))) for tag, value in tags
    )
    start = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    return start + struct.pack("<HHH", 16, 16, 16) + pixels


def text_bomb(kind: bytes) -> bytes:
    """A PNG file with a text of 64 MiB in a few KiB."""
    packed = zlib.compress(bytes(64 << 20), 9)
    heads = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\x01\0\0\0", b"iCCP": b"k\0\0"}
    return png(SIDE, SIDE, extra=chunk(kind, heads[kind] + packed))


def moving(kind: str) -> bytes:
    """Two pictures in one file."""
    return stored(picture(), kind, save_all=True, append_images=[picture(seed=2)])


def dangling(path: Path) -> None:
    """A link to nothing."""
    path.symlink_to("nowhere")


def loop(path: Path) -> None:
    """Two links to each other."""
    other = path.with_name(f".{path.name}.other")
    other.symlink_to(path.name)
    path.symlink_to(other.name)


def device(path: Path) -> None:
    """A link to a device that never ends."""
    path.symlink_to("/dev/zero")


def endless_pages() -> bytes:
    """A TIFF file whose page says that it is also the next page."""
    content = bytearray(stored(picture(), "TIFF"))
    (at,) = struct.unpack("<I", content[4:8])
    (tags,) = struct.unpack("<H", content[at : at + 2])
    after = at + 2 + 12 * tags
    content[after : after + 4] = struct.pack("<I", at)
    return bytes(content)


DEEP = "has 16 bits a channel, (the input contract takes 8|and .* has 8)"
LARGE = "is too large: at most 89478485 pixels.*cut it into parts"
HALF = "cannot be read .*is it complete"
NONE = "it is none of PNG, JPEG, TIFF, BMP, GIF"
SEVERAL = "holds several pictures .*expected one"

FILES = (
    BadImage("empty", "x.png", data(b""), "it is empty"),
    BadImage("empty", "x.jpg", data(b""), "it is empty"),
    BadImage("half a PNG", "x.png", cut("PNG", 0.5), HALF),
    BadImage("half a JPEG", "x.jpg", cut("JPEG", 0.9), HALF),
    BadImage("half a TIFF", "x.tif", cut("TIFF", 0.5), HALF),
    BadImage("half a BMP", "x.bmp", cut("BMP", 0.5), HALF),
    BadImage("text", "x.png", data(b"not an image\n" * 9), NONE),
    BadImage("HTML", "x.png", data(b"<!DOCTYPE html><html>404</html>"), NONE),
    BadImage("an SVG file", "x.png", data(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), NONE),
    BadImage("PostScript", "x.png", data(stored(picture(), "EPS")), NONE),
    BadImage("PPM", "x.bmp", data(stored(picture(), "PPM")), NONE),
    BadImage("zeros", "x.tif", data(bytes(4096)), NONE),
    BadImage("16-bit grey PNG", "x.png", data(png(4, 4, bits=16)), DEEP),
    BadImage("16-bit RGB PNG", "x.png", data(png(4, 4, bits=16, colour=2)), DEEP),
    BadImage("16-bit grey TIFF", "x.tif", data(stored(picture("I;16"), "TIFF")), DEEP),
    BadImage("16-bit RGB TIFF", "x.tif", data(tiff16()), DEEP),
    BadImage(
        "32-bit TIFF",
        "x.tif",
        data(stored(picture("I"), "TIFF")),
        "has 32 bits a channel|holds signed levels",
    ),
    BadImage(
        "float TIFF", "x.tif", data(stored(picture("F"), "TIFF")), "holds floating-point values"
    ),
    BadImage("animated GIF", "x.png", data(moving("GIF")), SEVERAL),
    BadImage("animated PNG", "x.png", data(moving("PNG")), SEVERAL),
    BadImage("pages of a TIFF", "x.tif", data(moving("TIFF")), SEVERAL),
    BadImage("claims 20000x20000", "x.png", data(png(20000, 20000)), LARGE),
    BadImage("claims 20000x20000, 1 bit", "x.png", data(png(20000, 20000, bits=1)), LARGE),
    BadImage("claims 20000x20000", "x.jpg", data(header_of("JPEG", 20000, 20000)), LARGE),
    BadImage("claims 20000x20000", "x.bmp", data(header_of("BMP", 20000, 20000)), LARGE),
    BadImage("claims 20000x20000", "x.tif", data(header_of("TIFF", 20000, 20000)), LARGE),
    BadImage("claims 20000x20000", "x.gif.png", data(header_of("GIF", 20000, 20000)), LARGE),
    BadImage("one pixel too many", "x.png", data(png(LIMIT + 1, 1)), LARGE),
    BadImage("between warning and error", "x.png", data(png(10000, 10000)), LARGE),
    BadImage("claims 2^31 columns", "x.png", data(png(2**31 - 1, 2**31 - 1)), LARGE),
    BadImage("no columns", "x.png", data(png(0, 5)), "cannot be read"),
    BadImage("text of 64 MiB, zTXt", "x.png", data(text_bomb(b"zTXt")), HALF),
    BadImage("text of 64 MiB, iTXt", "x.png", data(text_bomb(b"iTXt")), HALF),
    BadImage("profile of 64 MiB", "x.png", data(text_bomb(b"iCCP")), HALF),
)
"""Refused wherever an image or a mask is read."""

PATHS = (
    BadImage("link to nothing", "x.png", dangling, "does not exist; expected an image file"),
    BadImage("links in a circle", "x.png", loop, "cannot be reached .*expected an image file"),
    BadImage("pipe", "x.png", os.mkfifo, "is a pipe or a device; expected an image file"),
    BadImage("device", "x.png", device, "is a pipe or a device; expected an image file"),
)
"""No files at all, under the name of one."""

FOLDER = BadImage("folder", "x.png", Path.mkdir, "is a folder; expected an image file")

READABLE: tuple[tuple[str, str, bytes], ...] = (
    ("WebP", "x.png", stored(picture(), "WEBP", lossless=True)),
    ("grey", "x.png", stored(picture("L"), "PNG")),
    ("grey with alpha", "x.png", stored(picture("LA"), "PNG")),
    ("RGBA", "x.png", stored(picture("RGBA"), "PNG")),
    ("1 bit", "x.png", stored(picture("1"), "PNG")),
    ("palette", "x.png", stored(picture("P"), "PNG")),
    ("palette with a clear colour", "x.png", stored(picture("P"), "PNG", transparency=0)),
    ("palette with many", "x.png", stored(picture("P"), "PNG", transparency=bytes(range(99)))),
    ("CMYK JPEG", "x.jpg", stored(picture("CMYK"), "JPEG")),
    ("grey JPEG", "x.jpeg", stored(picture("L"), "JPEG")),
    ("CMYK TIFF", "x.tiff", stored(picture("CMYK"), "TIFF")),
    ("compressed TIFF", "x.tif", stored(picture(), "TIFF", compression="tiff_lzw")),
    ("PNG called .jpg", "x.jpg", stored(picture(), "PNG")),
    ("JPEG called .png", "x.png", stored(picture(), "JPEG")),
    ("a camera's previews (MPO)", "x.jpg", moving("MPO")),
    ("1x1", "x.png", stored(picture().resize((1, 1)), "PNG")),
    ("1x200", "x.bmp", stored(picture().resize((200, 1)), "BMP")),
    ("200x1", "x.tif", stored(picture().resize((1, 200)), "TIFF")),
    ("a page that leads to itself", "x.tif", endless_pages()),
    ("still GIF", "x.png", stored(picture("P"), "GIF")),
)
"""Taken as they are: the content decides, not the suffix."""
