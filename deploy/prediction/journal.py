"""What was done for which image, kept so that a killed prediction goes on where it stopped."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from segdeploy.calibration.files import atomic_writer, naming
from segdeploy.calibration.json_record import record_of
from segdeploy.calibration.json_text import parse_json
from segdeploy.deploy.prediction.settings import is_own_file
from segdeploy.deploy.prediction.sources import ImageSource
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.system.only_writer import LOCK, is_empty

JOURNAL = "index.jsonl"
TABLE = "index.csv"


class Status(str, Enum):
    """What became of an image."""

    DONE = "done"
    UNREADABLE = "unreadable"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image of the index.

    Attributes:
        image: its path as it was given; of one outside the working folder what lies below the
            folder that was given, with that folder's name.
        name: what its files are called.
        status: what became of it.
        error: why it is not done.
        width: in pixels.
        height: in pixels.
        exif_orientation: how a viewer would turn it, 1 for not at all; the outputs are not turned.
        foreground_share: share of its pixels that are foreground, 0 to 1.
        instances: connected components of the mask.
        image_sha256: digest of the image file.
        key: digest of all that decides the outputs: model, settings, image.
        outputs: file in the output folder to the digest of its bytes; of the files that an image
            of that name has, and no others.

    Raises:
        ValueError: an output that is not one of the image's own.
    """

    image: str
    name: str
    status: Status
    error: str | None = None
    width: int | None = None
    height: int | None = None
    exif_orientation: int | None = None
    foreground_share: float | None = None
    instances: int | None = None
    image_sha256: str | None = None
    key: str | None = None
    outputs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for file in self.outputs:
            if not is_own_file(file, self.name):  # it may lead out of the folder
                raise ValueError(f"image {self.name!r:.60} has no output {file!r:.60}")

    def line(self) -> bytes:
        """The row as one line of JSON; bytes of a path that are not UTF-8 become its escapes."""
        text = json.dumps(asdict(self), ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace") + b"\n"

    def cells(self) -> bytes:
        """The row as one line of the table."""
        shown = asdict(self) | {"status": self.status.value}
        return _cells([shown[column] for column in COLUMNS])

    @classmethod
    def read(cls, line: bytes) -> Row:
        """What ``line`` wrote.

        Raises:
            ValueError: it is no row.
        """
        try:
            return record_of(parse_json(line.decode()), cls)
        except ValueError as error:
            raise ValueError(f"no row of an index: {error}") from error


COLUMNS = tuple(f.name for f in fields(Row) if f.name not in ("key", "outputs"))
"""Of the table; the files themselves follow from ``name``."""


def _cells(values: Iterable[object]) -> bytes:
    """One line of a table; nothing for ``None``."""
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerow(values)
    return stream.getvalue().encode("utf-8", "backslashreplace")


HEADER = _cells(COLUMNS)


class Journal:
    """The rows of one output folder, appended one by one; the last one of a name counts.

    In memory are the names alone, with the place of each row in the file.
    """

    def __init__(self, folder: Path, *, overwrite: bool = False) -> None:
        """Start in a new folder, or go on in one that holds a prediction.

        Args:
            folder: held by ``writing_folder``.
            overwrite: take a folder that holds files and no journal, and replace a damaged one.

        Raises:
            UsageError: the folder holds files and no journal.
            InputError: the journal is none.
            OSError: the folder cannot be written.
        """
        self.folder = folder
        self.path = folder / JOURNAL
        self._places: dict[str, int] = {}
        if not overwrite and not self.path.exists() and not is_empty(folder):
            raise UsageError(
                f"{folder} is not empty and holds no {JOURNAL}; choose another -o, or --overwrite "
                "to write into it"
            )
        self._file: BinaryIO = self.path.open("a+b")
        self._read(overwrite=overwrite)

    def row(self, name: str) -> Row | None:
        """What is known of an image."""
        place = self._places.get(name)
        return None if place is None else self._row_at(place)

    def append(self, row: Row) -> None:
        """Note what became of an image; it survives the death of this process."""
        self._file.seek(0, os.SEEK_END)
        self._places[row.name] = self._file.tell()
        with naming(self.path):
            self._file.write(row.line())
            self._file.flush()

    def finish(self, sources: Iterable[ImageSource]) -> None:
        """Write the table, and the journal again: these images, each once, in their order.

        The bytes of both do not depend on the order in which images were done, nor on
        interruptions.

        Raises:
            OSError: the folder cannot be written.
        """
        with atomic_writer(self.path) as lines, atomic_writer(self.folder / TABLE) as cells:
            cells.write(HEADER)
            for row in self._rows(sources):
                lines.write(row.line())
                cells.write(row.cells())
            self._file.close()

    def close(self) -> None:
        """Let the file go; it goes itself where nothing was written, to it or beside it."""
        with naming(self.path):
            self._file.close()
        beside = {path.name for path in self.folder.iterdir()} - {JOURNAL, LOCK}
        if self.path.exists() and not self.path.stat().st_size and not beside:
            self.path.unlink()

    def _rows(self, sources: Iterable[ImageSource]) -> Iterator[Row]:
        for source in sources:
            yield self._row_at(self._places[source.name])

    def _row_at(self, place: int) -> Row:
        self._file.seek(place)
        return Row.read(self._file.readline())

    def _read(self, *, overwrite: bool) -> None:
        """Find every row; half a line at the end is what a killed process left, and goes."""
        self._file.seek(0)
        while line := self._file.readline():
            place = self._file.tell() - len(line)
            if not line.endswith(b"\n"):
                self._file.truncate(place)
                return
            try:
                self._places[Row.read(line).name] = place
            except ValueError as error:
                if overwrite:
                    self._file.truncate(place)
                    return
                raise InputError(
                    f"{self.path} is damaged at byte {place} ({error}); use --overwrite"
                ) from error


def key_of(decides: bytes, image_sha256: str) -> str:
    """Digest of what decides an image's outputs."""
    return hashlib.sha256(decides + image_sha256.encode()).hexdigest()


def digest(content: bytes) -> str:
    """sha256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
