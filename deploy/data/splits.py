"""Which split an image belongs to: the names of the splits, and reading ``splits.csv``."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from pathlib import Path

from segdeploy.deploy.system.errors import InputError

SPLITS = ("train", "val", "test")
LAYOUT_HELP = (
    "expected a folder with images/<name>.png, masks/<name>.png and splits.csv "
    "(columns image_id,split); make one with `segdeploy data prepare RAW -o DIR`"
)

NOT_PLAIN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Line breaks, control characters, and bytes of a file name that are not UTF-8."""


def read_splits(path: Path) -> dict[str, str]:
    """Read ``splits.csv``: image name, its accents composed, to split.

    Raises:
        InputError: missing file or columns, no text, an unknown split, no name, or one listed
            twice.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; {LAYOUT_HELP}")
    assignment: dict[str, str] = {}
    try:
        rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
        columns = rows.fieldnames or []
        if not {"image_id", "split"} <= set(columns):
            raise InputError(f"{path} has columns {columns}; expected image_id and split")
        for number, row in enumerate(rows, start=2):
            name, split = unicodedata.normalize("NFC", row["image_id"] or ""), row["split"]
            if split not in SPLITS:
                known = ", ".join(SPLITS)
                raise InputError(f"{path}:{number}: split {split!r} is not one of {known}")
            if not name:
                raise InputError(f"{path}:{number}: no image_id; expected the image's name")
            if name in assignment:
                raise InputError(
                    f"{path}:{number}: {name!r} is listed twice; each image has one split"
                )
            assignment[name] = SPLITS[SPLITS.index(split)]  # one text, not one for each image
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a UTF-8 CSV file ({error}); {LAYOUT_HELP}") from error
    return assignment


def require_plain_name(name: str, *, where: str) -> None:
    """Refuse a name that ``splits.csv`` and the lists of vendors' tools cannot hold.

    Args:
        name: of an image.
        where: it was found, for the message.

    Raises:
        InputError: it holds a line break, a control character or bytes that are not UTF-8.
    """
    if NOT_PLAIN.search(name):
        raise InputError(
            f"{where}: the image name {name!a} holds a line break, a control character or bytes "
            "that are not UTF-8; rename the image and its mask"
        )
