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

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")
"""Told by content, not by suffix; no other decoder of Pillow ever sees a file."""

MOST_PIXELS = (256 << 20) // 3
"""Of an image, 256 MiB as RGB: a small file that claims more is refused before it is decoded."""

EXPECTED = "an image file"

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""Little and big endian, and each of them as BigTIFF."""

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
def readable(path: Path, content: bytes | None = None) -> Iterator[None]:
    """Whatever fails to open or decode inside names the image file.

    Args:
        path: of the file.
        content: read in the place of the file where it is given.

    Raises:
        InputError: no regular file, none of ``FORMATS``, damaged, or too large.
    """
    if content is None:
        require_regular_file(path, what="image", expected=EXPECTED)
    try:
        yield
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
    except InputError:
        raise
    except DAMAGED as error:
        words = one_line(error) or type(error).__name__
        raise InputError(f"image {path} cannot be read ({words}); is it complete?") from error


@contextmanager
def opened_image(
    path: Path, content: bytes | None = None, *, page: int | None = None, single: bool = True
) -> Iterator[Image.Image]:
    """An image file, read lazily; whatever fails to open or decode inside names the file.

    Args:
        path: of the file.
        content: read in the place of the file where it is given.
        page: which picture of several, from 0; ``None`` expects one.
        single: whether several are refused where no page is stated.

    Raises:
        InputError: no regular file, none of ``FORMATS``, damaged, of more than ``MOST_PIXELS``
            pixels, several pictures in one file, or none of the number asked for.
    """
    with readable(path, content):
        source = path if content is None else io.BytesIO(content)
        with Image.open(source, formats=FORMATS) as image:
            require_bounded(path, (image.height, image.width))
            if page is None:
                if single:
                    _require_single(image, path)
            else:
                _turn_to(image, page, path)
            yield image


def is_tiff_file(path: Path, content: bytes | None = None) -> bool:
    """Whether an image is a TIFF file, by its first bytes.

    Raises:
        InputError: it is no regular file, or cannot be read.
    """
    if content is not None:
        return content.startswith(TIFF_STARTS)
    with readable(path), path.open("rb") as stream:
        return stream.read(4) in TIFF_STARTS


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


def require_bounded(path: Path, size: tuple[int, int]) -> None:
    """Refuse what is too large, from the header alone.

    Raises:
        InputError: more than ``MOST_PIXELS`` pixels.
    """
    height, width = size
    if height * width > MOST_PIXELS:
        raise InputError(_too_large(path, f"it has {width}x{height}"))


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
            f"image {path} holds several pictures (an animation or pages); expected one. State "
            "which: --page NUMBER, from 0, or save it as a file of its own"
        )


def _turn_to(image: Image.Image, page: int, path: Path) -> None:
    """Go to one of several pictures.

    Raises:
        InputError: there is none of this number.
    """
    count = getattr(image, "n_frames", 1)
    if page >= count:
        raise InputError(f"image {path} has the pages 0 to {count - 1}, not {page}")
    if page:
        image.seek(page)
        require_bounded(path, (image.height, image.width))
