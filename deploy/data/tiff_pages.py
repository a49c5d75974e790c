"""TIFF files beyond what Pillow reads right: 16 bits, planes, many bands, pages.

Pillow takes planar 16-bit colours for 8-bit ones, signed levels for unsigned ones, and knows no
more than four bands. What a page is made of is asked of its tags, never of a decoder's guess.
"""

from __future__ import annotations

import io
import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.system.errors import InputError

if TYPE_CHECKING:
    from tifffile import TiffPage

MOST_BYTES = 1 << 30
"""Of the levels of one page."""

UNSIGNED = 1
KINDS = {2: "signed levels", 3: "floating-point values", 5: "complex numbers", 6: "complex numbers"}
"""What ``SampleFormat`` says of levels that are not unsigned."""

WHITE_IS_ZERO = 0
BLACK_IS_ZERO = 1
RGB = 2
PALETTE = 3

STORED = 1
DEFLATE = (8, 32946)
UNPACKED = (STORED, *DEFLATE)
"""Compressions that need no other library: none, and Deflate."""

ORIENTATION = 274


@contextmanager
def opened_page(source: Path | bytes, *, path: Path, number: int | None) -> Iterator[Page]:
    """A page of a TIFF file, read lazily.

    Args:
        source: the file, or its bytes.
        path: for messages.
        number: which page, from 0; ``None`` expects one.

    Raises:
        InputError: several pages or none of this number, damaged, or other levels than unsigned
            ones.
    """
    import tifffile  # only where there is a TIFF file

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # of damaged files it says much
    try:
        with tifffile.TiffFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            count = len(file.pages)
            if not count:
                raise ValueError("it holds no page")
            if number is None and count > 1:
                raise InputError(
                    f"image {path} holds several pictures ({count} pages); expected one. State "
                    f"which: --page 0 to {count - 1}, or save it as a file of its own"
                )
            if not 0 <= (number or 0) < count:
                raise InputError(f"image {path} has the pages 0 to {count - 1}, not {number}")
            found: Any = file.pages[number or 0]
            yield Page(found, path)
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from error


class Page:
    """One page: what its tags say, and its levels."""

    def __init__(self, page: TiffPage, path: Path) -> None:
        self._page = page
        self._path = path
        self.bits = _each(page.bitspersample)
        """Of its channels."""
        self.size = (int(page.imagelength), int(page.imagewidth))
        """Height and width."""

    @property
    def plain(self) -> bool:
        """Whether Pillow reads it right: at most 8 unsigned bits of up to four channels."""
        return max(self.bits) <= 8 and self._formats == {UNSIGNED} and self.interleaved

    @property
    def interleaved(self) -> bool:
        """Whether it has one channel, or three or four side by side that make a colour."""
        page = self._page
        coloured = int(page.photometric) not in (WHITE_IS_ZERO, BLACK_IS_ZERO)
        return page.samplesperpixel == 1 or (
            page.samplesperpixel in (3, 4) and coloured and not self._planar
        )

    @property
    def colour(self) -> bool:
        """Whether its first three channels are red, green and blue."""
        page = self._page
        return page.samplesperpixel == 3 or (
            page.samplesperpixel == 4 and int(page.photometric) == RGB
        )

    @property
    def orientation(self) -> int:
        """What EXIF says of it, 1 where it says nothing."""
        tag = self._page.tags.get(ORIENTATION)
        return tag.value if tag is not None and tag.value in range(1, 9) else 1

    @property
    def unpacked(self) -> bool:
        """Whether its compression is one that ``levels`` takes."""
        return int(self._page.compression) in UNPACKED

    @property
    def compression(self) -> str:
        """Its compression by name."""
        found = self._page.compression
        return str(getattr(found, "name", found))

    @property
    def _formats(self) -> set[int]:
        return _each(self._page.sampleformat)

    def require_levels(self) -> None:
        """Refuse what is no picture of 8- or 16-bit levels.

        Raises:
            InputError: saying what it is.
        """
        page = self._page
        for form in self._formats - {UNSIGNED}:
            what = KINDS.get(form, "values of an unknown kind")
            raise InputError(
                f"image {self._path} holds {what} (TIFF SampleFormat {form}); expected unsigned "
                "levels of 8 or 16 bits. Convert it, and say how: no range is guessed"
            )
        if self.bits not in ({8}, {16}):
            raise InputError(
                f"image {self._path} has {', '.join(map(str, sorted(self.bits)))} bits a channel; "
                "expected 8 or 16. Convert it first"
            )
        if int(page.photometric) == PALETTE or page.imagedepth > 1:
            raise InputError(
                f"image {self._path} is a {'volume' if page.imagedepth > 1 else '16-bit palette'}; "
                "expected one picture of levels"
            )

    def levels(self) -> NDArray[np.unsignedinteger[Any]]:
        """Uint8 or uint16 (H, W, channels), more is brighter.

        Raises:
            InputError: too large, or it unpacks to more than it should hold.
        """
        page = self._page
        whole = self.size[0] * self.size[1] * page.samplesperpixel * max(self.bits) // 8
        segment = self._segment_bytes()
        if max(whole, segment) > MOST_BYTES:
            raise InputError(
                f"image {self._path} is too large: {max(whole, segment)} bytes of levels, at most "
                f"{MOST_BYTES} are read; cut it into parts"
            )
        self._require_complete(segment)
        found = np.asarray(page.asarray(maxworkers=1))
        planes = found.reshape(-1, *self.size) if self._planar else None
        pixels = found.reshape(*self.size, -1) if planes is None else np.moveaxis(planes, 0, -1)
        if int(page.photometric) == WHITE_IS_ZERO:
            pixels = np.iinfo(pixels.dtype).max - pixels
        return np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))

    @property
    def _planar(self) -> bool:
        return int(self._page.planarconfig or 1) == 2 and self._page.samplesperpixel > 1

    def _segment_bytes(self) -> int:
        """Bytes of one tile or strip once unpacked."""
        page = self._page
        if page.is_tiled:
            height, width = page.tilelength, page.tilewidth
        else:
            height, width = self._strip_rows(), self.size[1]
        samples = 1 if self._planar else page.samplesperpixel
        return int(height * width * samples * max(self.bits) // 8)

    def _require_complete(self, segment: int) -> None:
        """Refuse a file that holds less than its header says, or would unpack to more.

        What is missing would be read as black, and a small file could fill the memory.
        """
        page = self._page
        stream = page.parent.filehandle
        parts = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        count = math.prod(page.chunked)
        if len(parts) < count:
            raise ValueError(f"it lacks {count - len(parts)} of {count} strips or tiles")
        rows = -(-self.size[0] // self._strip_rows())
        for index, (start, length) in enumerate(parts[:count]):
            expected = segment
            if not page.is_tiled and index % rows == rows - 1:
                expected = segment * self._last_rows() // self._strip_rows()
            if int(page.compression) == STORED:
                found = min(length, stream.size - start)
            else:
                stream.seek(start)
                found = len(zlib.decompressobj().decompress(stream.read(length), segment + 1))
            if found < expected:
                raise ValueError(f"strip or tile {index} holds {found} of {expected} bytes")
            if found > segment and int(page.compression) in DEFLATE:
                raise ValueError("it unpacks to more than it says")

    def _strip_rows(self) -> int:
        return min(self._page.rowsperstrip or self.size[0], self.size[0])

    def _last_rows(self) -> int:
        """Rows of the last strip, which may be shorter than the others."""
        return (self.size[0] - 1) % self._strip_rows() + 1


def _each(value: Any) -> set[int]:
    """The values of a tag that has one for all channels, or one for each."""
    return {int(each) for each in (value if isinstance(value, tuple) else (value,))}
