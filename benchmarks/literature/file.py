"""Reads ``published.yaml``, rejects what cannot be right, and says how to read the figures."""

from __future__ import annotations

from pathlib import Path

from segdeploy.benchmarks.literature.rows import PublishedRow
from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.json_record import record_of
from segdeploy.deploy.system.errors import InputError
from segdeploy.deploy.system.yaml_text import read_yaml

DATA = Path(__file__).with_name("published.yaml")


def load_rows(path: Path = DATA) -> tuple[PublishedRow, ...]:
    """Read and check the data file.

    Args:
        path: a list of entries; ``published.yaml`` says what each key means.

    Raises:
        InputError: unreadable, or a row has an unknown key, no source, a figure out of range, no
            figure at all, or the name of another; the message names the row.
    """
    content = read_yaml(path, what="published figures")
    if not isinstance(content, list) or not content:
        raise InputError(f"{path} holds no list of rows; expected one entry for each source row")
    rows = tuple(_row(entry, f"{path.name}, row {n}") for n, entry in enumerate(content, 1))
    names = [row.name for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path.name}: two rows are named {name!r}; a name must be unique")
    return rows


def _row(entry: object, where: str) -> PublishedRow:
    name = entry.get("name") if isinstance(entry, dict) else None
    where = f"{where} ({name:.60})" if isinstance(name, str) else where
    try:
        return record_of(entry, PublishedRow)
    except (CalibrationError, InputError) as error:
        raise InputError(f"{where}: {error}") from error


def _first_rows() -> dict[str, PublishedRow]:
    rows: dict[str, PublishedRow] = {}
    for row in load_rows():
        rows.setdefault(row.arch, row)
    return rows


PUBLISHED = _first_rows()
"""For each architecture the first row of ``published.yaml``."""

PUBLISHED_NOTE = (
    "The published figures come from other splits of the data, other weights and other devices: "
    "they say what to expect of the network, and no difference to ours can be read as better or "
    "worse."
)
PUBLISHED_COST_NOTE = (
    "a calculator's total, which counts more than multiply-adds, times 2 and divided by 0.9e9."
)
