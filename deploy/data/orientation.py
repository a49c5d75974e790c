"""EXIF orientation of an image that is paired with a mask: which of the two was turned?

Pixels are read as they are stored, and tools for drawing masks show the picture turned. With an
orientation, neither choice is wrong alone: the pair is.
"""

from __future__ import annotations

import struct
from pathlib import Path

from PIL import Image

from segdeploy.deploy.data.image_opening import is_tiff_file, opened_image, readable
from segdeploy.deploy.data.tiff_pages import opened_page
from segdeploy.deploy.system.errors import InputError

EXIF_ORIENTATION = 274
"""The EXIF tag that says how a viewer should turn an image; no pixel here is ever turned by it."""

UPRIGHT = 1
MOST = 8
SIDEWAYS = range(5, MOST + 1)
"""Orientations that swap width and height."""

TEXTS = (b"tEXt", b"zTXt", b"iTXt")
"""Chunks of a PNG file in which older tools keep EXIF."""

LONGEST_KEYWORD = 79

REMEDIES = (
    "turn its pixels for good (`mogrify -auto-orient`) where the mask was drawn on the turned "
    "picture, or drop the tag (`exiftool -Orientation=`) where it was drawn on the stored pixels"
)


def orientation_in(image: Image.Image) -> int:
    """What EXIF says of an open image, 1 (upright) to 8; 1 where it says nothing."""
    found = image.getexif().get(EXIF_ORIENTATION, UPRIGHT)
    return found if isinstance(found, int) and UPRIGHT <= found <= MOST else UPRIGHT


def orientation_of(path: Path) -> int:
    """What EXIF says of an image file, from its headers alone.

    Raises:
        InputError: the file is missing or no image.
    """
    if is_tiff_file(path):
        with readable(path), opened_page(path, path=path, number=0) as page:
            return page.orientation
    with opened_image(path) as image:
        if image.format == "PNG" and not _png_has_exif(path):
            return UPRIGHT  # to be sure, Pillow would decode all of it
        return orientation_in(image)


def require_upright(path: Path, *, drawn: Path, size: tuple[int, int]) -> None:
    """Refuse an image that EXIF turns, where what was drawn on it may lie on either form.

    A quarter turn of an image that is no square is told by the sizes: a mask of the stored size
    lies on the pixels as stored, and any other is refused for its size. A mask that is turned as
    its image is lies on it as stored, too.

    Args:
        path: the image.
        drawn: its mask.
        size: (H, W) of the image, as stored.

    Raises:
        InputError: naming both files, the orientation and both remedies.
    """
    orientation, other = orientation_of(path), orientation_of(drawn)
    if orientation == other or (other == UPRIGHT and _told_by_size(orientation, size)):
        return
    if other != UPRIGHT:
        raise InputError(
            f"mask {drawn} is shown turned (EXIF orientation {other}), and its image {path.name} "
            f"is not turned so ({orientation}): turn the mask's pixels for good (`mogrify "
            "-auto-orient`), or drop its tag (`exiftool -Orientation=`)"
        )
    raise InputError(
        f"image {path} is shown turned (EXIF orientation {orientation}), and {drawn.name} fits it "
        f"either way: {REMEDIES}"
    )


def _told_by_size(orientation: int, size: tuple[int, int]) -> bool:
    """Whether a mask of an image's stored size can only lie on the pixels as stored."""
    return orientation in SIDEWAYS and size[0] != size[1]


def turned_hint(path: Path) -> str:
    """What to add where a mask has an image's size with width and height swapped."""
    orientation = orientation_of(path)
    if orientation not in SIDEWAYS:
        return ""
    return f". The image is shown turned (EXIF orientation {orientation}): {REMEDIES}"


def _png_has_exif(path: Path) -> bool:
    """Whether a PNG file has a chunk that may hold EXIF; reads the heads of its chunks."""
    with path.open("rb") as stream:
        stream.seek(8)
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            keyword = stream.read(min(length, LONGEST_KEYWORD)) if kind in TEXTS else b""
            if kind == b"eXIf" or keyword.startswith((b"Raw profile type", b"XML:com.adobe.xmp")):
                return True
            stream.seek(length - len(keyword) + 4, 1)
    return False
