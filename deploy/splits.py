"""Which split an image belongs to: the names of the splits, and reading ``splits.csv``."""

from __future__ import annotations

import csv
from pathlib import Path

from deploy.errors import InputError

SPLITS = ("train", "val", "test")
LAYOUT_HELP = (
    "expected a folder with images/<name>.png, masks/<name>.png and splits.csv "
    "(columns image_id,split); make one with `segdeploy data prepare RAW -o DIR`"
)


def read_splits(path: Path) -> dict[str, str]:
    """Read ``splits.csv``: image name to split.

    Raises:
        InputError: missing file or columns, no text, an unknown split, or a name listed twice.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; {LAYOUT_HELP}")
    try:
        rows = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
        columns = rows.fieldnames or []
        listed = list(rows)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a UTF-8 CSV file ({error}); {LAYOUT_HELP}") from error
    if not {"image_id", "split"} <= set(columns):
        raise InputError(f"{path} has columns {columns}; expected image_id and split")
    assignment: dict[str, str] = {}
    for number, row in enumerate(listed, start=2):
        name, split = row["image_id"], row["split"]
        if split not in SPLITS:
            raise InputError(f"{path}:{number}: split {split!r} is not one of {', '.join(SPLITS)}")
        if name in assignment:
            raise InputError(f"{path}:{number}: {name!r} is listed twice; each image has one split")
        assignment[name] = split
    return assignment
