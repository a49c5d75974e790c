"""Masks as run lengths in a table, one object a row, as Kaggle ships them.

``ImageId,EncodedPixels``: pairs of a first pixel and a count, pixels numbered from 1, down the
columns and then across (Data Science Bowl 2018, "Evaluation"). Solutions of closed stages add
``Height``, ``Width`` and ``Usage``; an image whose usage is "Ignored" never counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.system.errors import InputError, one_line

COLUMNS = ("imageid", "encodedpixels")
IGNORED = "ignored"
SUBMISSION = "submission"
HEADER_BYTES = 4096


@dataclass(kw_only=True)
class Listed:
    """The objects of one image.

    Attributes:
        objects: where the row stands, and the run lengths, of each object.
        ignored: whether the image never counted.
    """

    objects: list[tuple[str, str]] = field(default_factory=list)
    ignored: bool = False

    def agrees(self, other: Listed) -> bool:
        """Whether another table says the same of the image."""
        own, theirs = ([runs for _, runs in each.objects] for each in (self, other))
        return (own, self.ignored) == (theirs, other.ignored)


def tables_in(*folders: Path) -> tuple[Path, ...]:
    """The tables of run lengths in some folders, told by their first line.

    A submission has the same columns, and holds what somebody predicted: it is no truth.
    """
    return tuple(
        path
        for folder in dict.fromkeys(folders)
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.lower() == ".csv"
        and SUBMISSION not in path.name.lower()
        and path.is_file()
        and _is_table(path)
    )


def read_tables(paths: Iterable[Path]) -> dict[str, Listed]:
    """Every image of some tables, by its name without suffix.

    Raises:
        InputError: a table is no UTF-8 text, a row lacks a column, or two tables list one image.
    """
    found: dict[str, Listed] = {}
    for path in paths:
        own: dict[str, Listed] = {}
        columns: list[str] = []
        for number, line in _lines(path):
            cells = [cell.strip().strip('"') for cell in line.split(",")]
            if not columns:
                columns = [cell.lower() for cell in cells]
                if not set(COLUMNS) <= set(columns):
                    raise InputError(
                        f"{path} has columns {one_line(cells, limit=100)}; expected ImageId and "
                        "EncodedPixels"
                    )
                continue
            if len(cells) != len(columns):
                raise InputError(
                    f"{path}:{number} has {len(cells)} columns; expected {len(columns)}"
                )
            row = dict(zip(columns, cells, strict=True))
            name = row["imageid"].removesuffix(".png")
            listed = own.setdefault(name, Listed())
            listed.ignored |= row.get("usage", "").lower() == IGNORED
            if row["encodedpixels"]:
                listed.objects.append((f"{path}:{number}", row["encodedpixels"]))
        if not columns:
            raise InputError(f"{path} is empty; expected columns ImageId and EncodedPixels")
        twice = [name for name in found.keys() & own.keys() if not found[name].agrees(own[name])]
        if twice:
            raise InputError(
                f"{path} lists {min(twice)!r} otherwise than another table; keep the right one"
            )
        found |= own
    return found


def decoded_runs(text: str, size: tuple[int, int], *, where: str) -> NDArray[np.bool_]:
    """The mask of one object.

    Example:
        >>> decoded_runs("1 2 6 1", (3, 2), where="here").astype(int).tolist()  # down the columns
        [[1, 0], [1, 0], [0, 1]]

    Args:
        text: pairs of a first pixel and a count.
        size: (H, W) of the image.
        where: the text is from, for messages.

    Raises:
        InputError: no pairs of whole numbers, or pixels outside the image.
    """
    words = text.split()
    if len(words) % 2 or not all(word.isdecimal() and len(word) < 12 for word in words):
        raise InputError(
            f"{where} holds {one_line(repr(text), limit=40)}; expected pairs of a first pixel and "
            "a count"
        )
    numbers = np.array(words, np.int64).reshape(-1, 2)
    starts, ends = numbers[:, 0] - 1, numbers.sum(axis=1) - 1
    pixels = size[0] * size[1]
    if len(numbers) and (starts.min() < 0 or ends.max() > pixels):
        raise InputError(
            f"{where} covers pixels {starts.min() + 1} to {ends.max()}; its image has {size[1]}x"
            f"{size[0]} (width x height), pixels 1 to {pixels}"
        )
    steps = np.zeros(pixels + 1, np.int64)
    np.add.at(steps, starts, 1)
    np.add.at(steps, ends, -1)
    return (np.cumsum(steps[:-1]) > 0).reshape(size, order="F")


def _is_table(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            first = stream.readline(HEADER_BYTES)
    except OSError:
        return False
    names = first.decode("utf-8-sig", "replace").lower().replace('"', "").split(",")
    return set(COLUMNS) <= {name.strip() for name in names}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that hold something, and their numbers."""
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a UTF-8 CSV file ({one_line(error)})") from error
