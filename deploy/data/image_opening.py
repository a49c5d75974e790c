"""Opening an image file: what is read at all, and what a file that is refused is told."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from segdeploy.deploy.system.errors import InputError, one_line
from segdeploy.deploy.system.regular_file import require_regular_file

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF")
"""Told by content, not by suffix; no other decoder of Pillow ever sees a file."""

MOST_PIXELS = (256 << 20) // 3
"""Of an image, 256 MiB as RGB: a small file that claims more is refused before it is decoded."""

EXPECTED = "an image file"

DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow's decoders raise on files that are damaged."""


@contextmanager
def opened_image(path: Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """An image file, read lazily; whatever fails to open or decode inside names the file.

    Args:
        path: of the file.
        content: read in the place of the file where it is given.

    Raises:
        InputError: no regular file, none of ``FORMATS``, damaged, of more than ``MOST_PIXELS``
            pixels, or several pictures in one file.
    """
    if content is None:
        require_regular_file(path, what="image", expected=EXPECTED)
    try:
        source = path if content is None else io.BytesIO(content)
        with Image.open(source, formats=FORMATS) as image:
            _require_bounded(image, path)
            _require_single(image, path)
            yield image
    except UnidentifiedImageError as error:  # its own words hold the address of what was read
        size = path.stat().st_size if content is None else len(content)
        found = f"it is none of {', '.join(FORMATS)}" if size else "it is empty"
        raise InputError(f"image {path} cannot be read ({found}); is it complete?") from error
    except Image.DecompressionBombError as error:
        raise InputError(_too_large(path, "its header claims more")) from error
    except MemoryError as error:
        raise InputError(
            f"image {path} does not fit into the memory that is free; cut it into parts"
        ) from error
    except DAMAGED as error:
        words = one_line(error) or type(error).__name__
        raise InputError(f"image {path} cannot be read ({words}); is it complete?") from error


def image_bytes(path: Path, *, shown: str | None = None) -> bytes:
    """The bytes of an image file.

    Args:
        path: of the file.
        shown: what the message calls it; ``None`` takes the path.

    Raises:
        InputError: it is no regular file, or cannot be read.
    """
    require_regular_file(path, what="image", expected=EXPECTED, shown=shown)
    try:
        return path.read_bytes()
    except OSError as error:
        name = path if shown is None else shown
        raise InputError(f"image {name} cannot be read ({error.strerror or error})") from error


def _require_bounded(image: Image.Image, path: Path) -> None:
    """Refuse what is too large, from the header alone."""
    if image.width * image.height > MOST_PIXELS:
        raise InputError(_too_large(path, f"it has {image.width}x{image.height}"))


def _too_large(path: Path, found: str) -> str:
    return (
        f"image {path} is too large: at most {MOST_PIXELS} pixels are read, and {found}; is it "
        "damaged? Else cut it into parts"
    )


def _require_single(image: Image.Image, path: Path) -> None:
    """Refuse animations and pages: any choice of one of them would be silent.

    The further pictures of a camera's JPEG file (MPO) are previews of the first, which is taken.
    """
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise InputError(
            f"image {path} holds several pictures (an animation or pages); expected one. Save the "
            "one that is meant as a file of its own"
        )
