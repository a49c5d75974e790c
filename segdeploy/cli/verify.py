"""The verb that looks at a finished folder again: verify."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from segdeploy.calibration.errors import printable_line
from segdeploy.cli.flags import (
    Group,
)
from segdeploy.cli.inputs import GATE_FAILED, Options, Result

log = logging.getLogger(__name__)


def add_flags(verb: Group) -> None:
    """A finished folder."""
    verb.add_argument("folder", type=Path, help="finished output of run, train, predict or package")


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Say what changed; exit code 1 if anything did."""
    from segdeploy.api.verify import verify

    found = verify(options.folder)
    for change in found.changes:
        log.info("%s", printable_line(f"{change.file}: {change.words}"))
    for note in found.notes:
        log.info("%s", printable_line(note))
    word = "unchanged" if found.unchanged else f"{len(found.changes)} CHANGED"
    log.info("%s: %s of %d files, %s", options.folder, found.kind, found.files, word)
    return 0 if found.unchanged else GATE_FAILED, asdict(found)
