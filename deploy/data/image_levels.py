"""The levels of an image file as they are stored, 8 or 16 bits, in the channels a contract takes.

Nothing is scaled here: how many bits a channel has is stated by the contract, and a file that has
others is refused.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segdeploy.deploy.data.image_opening import (
    is_tiff_file,
    opened_image,
    readable,
    require_bounded,
)
from segdeploy.deploy.data.orientation import orientation_in
from segdeploy.deploy.data.preprocess import BANDS, GREY, Pixels, Preprocess
from segdeploy.deploy.data.tiff_pages import opened_page
from segdeploy.deploy.system.errors import InputError

PLAIN = Preprocess()
"""Of 8-bit colour images."""

LUMA = np.array([19595, 38470, 7471], np.uint64)
"""ITU-R 601's weights of red, green and blue over 65536, as Pillow rounds them."""

MODES = ("L", "LA", "RGB", "RGBA", "CMYK")
"""Pillow's, whose levels are what the file holds."""

WIDE = ("I", "F", "I;32", "I;32B", "F;32")
"""Pillow's modes of 32 bits a channel."""

GREY_AND_ALPHA = 2
COLOUR_AND_ALPHA = 4


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """An image as it is stored.

    Attributes:
        pixels: (H, W, channels), uint8 or uint16 as the contract says, not turned.
        orientation: what EXIF says of it, 1 (upright) to 8; 1 where it says nothing.
    """

    pixels: Pixels
    orientation: int


def decode(path: Path, contract: Preprocess = PLAIN, *, content: bytes | None = None) -> Decoded:
    """Decode an image file to what a contract takes.

    A palette is applied; an alpha channel is dropped, and the colour below it kept, but for
    ``BANDS``, which take the file's channels as they are; CMYK becomes RGB without its colour
    profile. Pixels stay where they are stored, whatever EXIF says of turning them.

    Args:
        path: the file.
        contract: its channels, bits and pages.
        content: read in the place of the file where it is given.

    Raises:
        InputError: naming the file: it is refused by ``opened_image``, cannot be decoded, or has
            other bits, channels or pages than the contract's.
    """
    pages = contract.source_pages
    if pages is None or len(pages) == 1:
        return _page(path, content, contract, None if pages is None else pages[0])
    band = replace(
        contract,
        channel_order=GREY,
        mean=contract.mean[:1],
        std=contract.std[:1],
        source_pages=None,
    )
    found = [_page(path, content, band, page) for page in pages]
    for number, each in zip(pages, found, strict=True):
        if each.pixels.shape != found[0].pixels.shape:
            raise InputError(
                f"image {path}, page {number}, is {each.pixels.shape[:2]} pixels large, and page "
                f"{pages[0]} {found[0].pixels.shape[:2]}; expected one size: each becomes a band"
            )
    return Decoded(
        pixels=np.concatenate([each.pixels for each in found], axis=2),
        orientation=found[0].orientation,
    )


def decode_whole(path: Path, *, page: int | None = None) -> Pixels:
    """All channels of a file as they are stored, (H, W, channels), uint8 or uint16.

    Raises:
        InputError: naming the file, as ``decode``.
    """
    found = _of_tiff(path, None, page)
    if found is None:
        with opened_image(path, page=page) as image:
            found = _of_pillow(image, path, None, page)
    return found.pixels


def keeps_depth(path: Path, *, page: int | None = None) -> bool:
    """Whether a file holds more than 8-bit colours do, by its header: 16 bits, or bands.

    Raises:
        InputError: naming the file, when it is missing or no image.
    """
    if is_tiff_file(path):
        with readable(path), opened_page(path, path=path, number=page) as found:
            return not found.plain
    with opened_image(path, page=page) as image:
        return deep(image) and image.mode not in WIDE


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image file, from its header alone; of several pages the first's.

    Raises:
        InputError: naming the file, when it is missing or no image.
    """
    if is_tiff_file(path, None):
        with readable(path), opened_page(path, path=path, number=0) as page:
            require_bounded(path, page.size)
            return page.size
    with opened_image(path, single=False) as image:
        return image.height, image.width


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """All channels of a picture as they are: (H, W, channels)."""

    pixels: Pixels
    colour: bool
    orientation: int


def _page(path: Path, content: bytes | None, contract: Preprocess, number: int | None) -> Decoded:
    """One picture in a contract's channels."""
    found = _of_tiff(path, content, number)
    if found is None:
        with opened_image(path, content, page=number) as image:
            cut = deep(image)
            if cut and contract.source_bits == 8 and image.mode not in WIDE:
                raise InputError(_other_bits(path, np.dtype(np.uint16), contract))
            if contract.source_bits == 8 and contract.channel_order != BANDS and not cut:
                pixels = np.asarray(image.convert("L" if contract.channel_order == GREY else "RGB"))
                return Decoded(
                    pixels=pixels.reshape(*pixels.shape[:2], -1),
                    orientation=orientation_in(image),
                )
            found = _of_pillow(image, path, content, number)
    if found.pixels.dtype != contract.level_type:
        raise InputError(_other_bits(path, found.pixels.dtype, contract))
    return Decoded(pixels=_channels(found, contract, path), orientation=found.orientation)


def _of_tiff(path: Path, content: bytes | None, number: int | None) -> _Stored | None:
    """A picture of a TIFF file that Pillow would read wrongly or not at all; else ``None``."""
    if not is_tiff_file(path, content):
        return None
    source = path if content is None else content
    with readable(path, content), opened_page(source, path=path, number=number) as page:
        require_bounded(path, page.size)
        if page.plain:
            return None
        page.require_levels()
        if not page.unpacked:
            if page.interleaved:
                return None
            raise InputError(
                f"image {path} holds bands compressed by {page.compression}, which are not read; "
                "save it uncompressed, or with Deflate"
            )
        return _Stored(pixels=page.levels(), colour=page.colour, orientation=page.orientation)


def deep(image: Image.Image) -> bool:
    """Whether an open file holds more than 8 bits a channel.

    Pillow says so by the mode only where there is one channel: it cuts a 16-bit RGB file to 8
    bits and calls it RGB, and only the form of the stored data tells.
    """
    if image.mode.startswith(("I;16", *WIDE)):
        return True
    return image.format in ("PNG", "TIFF") and any(";16" in mode for mode in _raw_modes(image))


def _of_pillow(
    image: Image.Image, path: Path, content: bytes | None, number: int | None
) -> _Stored:
    """An open picture, not decoded yet: all of its channels and bits."""
    cut, forms = deep(image), _raw_modes(image)  # told before Pillow decodes
    orientation = orientation_in(image)
    if image.mode.startswith("I;16"):
        pixels: Pixels = np.asarray(image).astype(np.uint16)[..., None]
    elif image.mode in WIDE:
        raise InputError(
            f"image {path} has 32 bits a channel (mode {image.mode}); expected 8 or 16"
        )
    elif cut:
        with opened_image(path, content, page=number) as again:
            pixels = _both_bytes(image, again, grey=forms[0].startswith("LA"))
    elif image.mode in MODES:
        pixels = np.asarray(image).reshape(image.height, image.width, -1)
    else:
        raise InputError(
            f"image {path} holds no channels of levels (mode {image.mode}); expected grey, RGB or "
            "bands"
        )
    return _Stored(pixels=pixels, colour=pixels.shape[2] > 2, orientation=orientation)


def _both_bytes(image: Image.Image, again: Image.Image, *, grey: bool) -> Pixels:
    """16-bit channels of a file that Pillow cuts to their upper byte: it is read twice.

    As if its bytes stood the other way round, Pillow keeps the lower one.

    Args:
        image: the file.
        again: the same file, not decoded yet.
        grey: of a level and an alpha channel.
    """
    upper = np.asarray(image).astype(np.uint16)
    tiles: Any = vars(again)["tile"]
    tiles[:] = [tile._replace(args=_turned(tile.args, grey=grey)) for tile in tiles]
    lower = np.asarray(again)
    if grey:  # four bytes: level and alpha, upper byte first
        upper, lower = lower[..., 0::2].astype(np.uint16), lower[..., 1::2]
    whole: Pixels = upper * 256 + lower
    return whole


def _raw_modes(image: Image.Image) -> list[str]:
    """The form of the stored data, of each tile."""
    return [_raw_mode(tile[3]) for tile in getattr(image, "tile", ())]


def _raw_mode(args: object) -> str:
    return str(args[0] if isinstance(args, tuple) and args else args)


def _turned(args: Any, *, grey: bool) -> Any:
    """A tile's arguments with the bytes of each channel the other way round."""
    if isinstance(args, tuple):
        return (_turned(args[0], grey=grey), *args[1:])
    if grey:
        return "RGBA"  # four bytes a pixel as they are
    name, end = args.split(";16")
    little = end == "L" or (end == "N" and sys.byteorder == "little")
    return f"{name};16{'B' if little else 'L'}"


def _other_bits(path: Path, found: np.dtype[Any], contract: Preprocess) -> str:
    bits = 8 * found.itemsize
    if bits == 16:
        return (
            f"image {path} has 16 bits a channel, the input contract takes 8. Say which levels "
            "become 0 and 255: --range LOW HIGH (data prepare, predict, parity), or a contract "
            "with source_bits 16"
        )
    return (
        f"image {path} has {bits} bits a channel, the input contract takes {contract.source_bits} "
        "(source_bits); leave --range out where it is given, or give images as the network was "
        "trained on"
    )


def _channels(found: _Stored, contract: Preprocess, path: Path) -> Pixels:
    """The channels that a contract takes, of those that a file has.

    Raises:
        InputError: naming both numbers.
    """
    pixels, count = found.pixels, found.pixels.shape[2]
    if contract.channel_order == BANDS:
        if count == contract.channels:
            return pixels
    elif found.colour and count <= COLOUR_AND_ALPHA:
        return _grey(pixels[..., :3]) if contract.channel_order == GREY else pixels[..., :3]
    elif count <= GREY_AND_ALPHA:
        return np.repeat(pixels[..., :1], contract.channels, axis=2)
    raise InputError(
        f"image {path} has {count} channels; the input contract takes {contract.channels} "
        f"({contract.channel_order})"
    )


def _grey(pixels: Pixels) -> Pixels:
    """One channel of RGB (H, W, 3): ITU-R 601, rounded as Pillow does."""
    weighted = (pixels.astype(np.uint64) @ LUMA + (1 << 15)) >> 16
    return weighted.astype(pixels.dtype)[..., None]
