"""One column of a training's history, read from a CSV file."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

from segdeploy.deploy.system.errors import InputError

KEYS = ("step", "epoch")
"""Columns that say where on the curve a row stands; the first that a file has counts."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One column of a training's history.

    Attributes:
        source: where it came from, for messages.
        column: its name.
        key: the column its positions come from.
        positions: steps or epochs, strictly rising.
        values: one for each position, finite.

    Raises:
        InputError: no values, positions that do not rise, or a figure that is not finite.
    """

    source: str
    column: str
    key: str
    positions: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values or len(self.values) != len(self.positions):
            raise InputError(f"{self.source} holds no rows; expected at least one")
        if any(b <= a for a, b in zip(self.positions, self.positions[1:], strict=False)):
            raise InputError(f"{self.source}: column {self.key!r} does not rise from row to row")
        if not all(map(math.isfinite, self.positions)):
            raise InputError(f"{self.source}: column {self.key!r} holds NaN or infinite positions")
        for position, value in zip(self.positions, self.values, strict=True):
            if not math.isfinite(value):
                raise InputError(
                    f"{self.source}: {self.column} is {value} at {self.key} {position:g}; the "
                    "training diverged"
                )

    def at(self, positions: tuple[float, ...]) -> Curve:
        """The part at some of its positions."""
        values = dict(zip(self.positions, self.values, strict=True))
        return Curve(
            source=self.source,
            column=self.column,
            key=self.key,
            positions=positions,
            values=tuple(values[position] for position in positions),
        )


def read_curve(path: Path, column: str) -> Curve:
    """Read one column of a CSV file with a header, as ``segdeploy train`` writes history.csv.

    Raises:
        InputError: no such file, column or key, a value that is no number, or no rows.
    """
    try:
        rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
        columns = list(rows.fieldnames or [])
        listed = list(rows)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV ({error})") from error
    key = next((name for name in KEYS if name in columns), None)
    if key is None or column not in columns:
        raise InputError(
            f"{path} has columns {columns}; expected {column!r} and one of {', '.join(KEYS)}"
        )
    found = []
    for number, row in enumerate(listed, start=2):
        try:
            found.append((float(row[key]), float(row[column])))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{path}:{number}: {key} is {row[key]!r} and {column} {row[column]!r}; expected "
                "numbers"
            ) from error
    return Curve(
        source=str(path),
        column=column,
        key=key,
        positions=tuple(position for position, _ in found),
        values=tuple(value for _, value in found),
    )
