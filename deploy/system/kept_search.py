"""The file in which an interrupted search waits for the same command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from segdeploy.calibration.json_record import record_of
from segdeploy.calibration.json_text import parse_json
from segdeploy.deploy.system.errors import InputError


@dataclass(frozen=True, kw_only=True)
class KeptSearch:
    """What decides whether a file is of the same search; a search adds what it found.

    Attributes:
        fingerprint: digest of all that decides the figures.
    """

    schema_version: int
    fingerprint: str


S = TypeVar("S", bound=KeptSearch)


def kept_search(path: Path, kind: type[S], *, schema_version: int, fingerprint: str) -> S | None:
    """What a search found so far; ``None`` where there is no file, or one of another search.

    Args:
        path: of the file.
        kind: what it holds.
        schema_version: that this version reads.
        fingerprint: of this search.

    Raises:
        InputError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        whose = record_of(content, KeptSearch, others=True, complete=True)
        if (whose.schema_version, whose.fingerprint) != (schema_version, fingerprint):
            return None
        return record_of(content, kind, others=True, complete=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} does not hold a search that can go on ({error}); delete it"
        ) from error
