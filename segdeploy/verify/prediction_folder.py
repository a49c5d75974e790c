"""A finished prediction: the files of each image, and the table that lists them."""

from __future__ import annotations

from pathlib import Path

from segdeploy.deploy.prediction.journal import HEADER, JOURNAL, TABLE, Row
from segdeploy.deploy.system.checksums import files_of, sha256_of
from segdeploy.deploy.system.errors import InputError
from segdeploy.verify.found import Findings

MARK = JOURNAL


def verify_prediction(folder: Path, found: Findings) -> None:
    """Hash every output again, and the images where they are.

    Raises:
        InputError: the prediction was not finished, or its journal is damaged.
    """
    if not (folder / TABLE).is_file():
        raise InputError(f"{folder} was not finished: {TABLE} is missing; run the same command")
    own = {JOURNAL, TABLE}
    gone = other = 0
    table = [HEADER]
    for row in _rows(folder / JOURNAL):
        table.append(row.cells())
        for file, sha256 in row.outputs.items():
            own.add(file)
            found.files += 1
            _check(folder, file, sha256, found)
        image = Path(row.image)
        gone += not image.is_file()
        other += image.is_file() and row.image_sha256 not in (None, sha256_of(image))
    found.files += 1
    if (folder / TABLE).read_bytes() != b"".join(table):
        found.add(TABLE, f"changed: not what {JOURNAL} gives")
    if unlisted := [file for file in files_of(folder) if file not in own]:
        found.notes.append(f"not part of it: {', '.join(unlisted)}")
    if gone or other:
        found.notes.append(
            f"images: {gone} are not found from the working folder, {other} hold other bytes now"
        )


def _check(folder: Path, file: str, sha256: str, found: Findings) -> None:
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()):
        found.add(JOURNAL, f"names {file}, which lies outside the folder")
    elif not path.is_file():
        found.add(file, "missing")
    elif sha256_of(path) != sha256:
        found.add(file, "changed: its bytes are others than when it was finished")


def _rows(journal: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(journal.read_bytes().splitlines(), start=1):
        try:
            rows.append(Row.read(line))
        except ValueError as error:
            raise InputError(f"{journal}:{number} is damaged ({error})") from error
    return rows
