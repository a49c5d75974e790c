"""The calibration table: every tensor's range and how it was found, as one JSON file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.estimate import CalibrationRange, Method
from segdeploy.calibration.files import read_text, write_atomic
from segdeploy.calibration.json_record import record_of, require_version
from segdeploy.calibration.json_text import parse_json_of
from segdeploy.calibration.threshold import NON_NEGATIVE_LEVELS, SIGNED_LEVELS

SCHEMA_VERSION = 1

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Levels of magnitude the searches assumed."""

    signed: int = SIGNED_LEVELS
    non_negative: int = NON_NEGATIVE_LEVELS


@dataclass(frozen=True, kw_only=True)
class CalibrationTable:
    """Ranges of the activations of one model over one calibration set.

    Attributes:
        method: asked for; a single range may have fallen back.
        num_bins: of the searches; 0 where not known (imported).
        num_samples: images; 0 where not known (imported).
        data_sha256: digest of the images, ``None`` where not known.
        model_sha256: digest of the model, ``None`` where not known.
        ranges: tensor name to range, kept in name order.
        num_levels: of the searches.
        schema_version: of the JSON form.

    Raises:
        CalibrationError: no ranges, a negative count, or a digest that is not one.
    """

    method: Method
    num_bins: int
    num_samples: int
    data_sha256: str | None
    model_sha256: str | None
    ranges: Mapping[str, CalibrationRange]
    num_levels: Levels = Levels()
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise CalibrationError(
                f"schema_version is {self.schema_version}; this release reads {SCHEMA_VERSION}"
            )
        if not self.ranges:
            raise CalibrationError("a calibration table must hold at least one range")
        if self.num_bins < 0 or self.num_samples < 0:
            raise CalibrationError("num_bins and num_samples must be 0 or more")
        for key in ("data_sha256", "model_sha256"):
            digest = getattr(self, key)
            if digest is not None and not _DIGEST.fullmatch(digest):
                raise CalibrationError(f"{key} is {digest!r}; expected 64 hexadecimal digits")
        object.__setattr__(self, "ranges", dict(sorted(self.ranges.items())))

    def to_json(self) -> str:
        """The table as JSON: keys sorted, floats exact, the same table the same bytes."""
        return json.dumps(asdict(self), sort_keys=True, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str) -> CalibrationTable:
        """Read a table back.

        Args:
            text: what ``to_json`` wrote.
            source: where the text came from, for the error message.

        Raises:
            CalibrationError: naming source and key: not JSON, an unknown version, unknown,
                missing or repeated keys, NaN, or a value of the wrong type or out of range.
        """
        value = parse_json_of(text, source=source)
        try:
            require_version(value, SCHEMA_VERSION)
            return record_of(value, cls, complete=True)
        except CalibrationError as error:
            raise CalibrationError(f"{source}: {error}") from error

    def write(self, path: Path) -> None:
        """Write the JSON to a file, atomically."""
        write_atomic(path, self.to_json().encode())

    @classmethod
    def read(cls, path: Path) -> CalibrationTable:
        """Read a file ``write`` made; errors as in ``from_json``, or it cannot be read."""
        return cls.from_json(read_text(path), source=str(path))


def imported_table(ranges: Mapping[str, CalibrationRange]) -> CalibrationTable:
    """A table of ranges from another tool's file, with nothing known about how it made them."""
    return CalibrationTable(
        method=Method.IMPORTED,
        num_bins=0,
        num_samples=0,
        data_sha256=None,
        model_sha256=None,
        ranges=ranges,
    )
