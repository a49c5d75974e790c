"""A package: its bytes, and that each of its files is still of its format."""

from __future__ import annotations

from pathlib import Path

from segdeploy.deploy.packaging.base import MANIFEST
from segdeploy.deploy.packaging.registry import verify_package
from segdeploy.deploy.system.checksums import differences
from segdeploy.verify.found import Findings

MARK = MANIFEST


def verify_written_package(folder: Path, found: Findings) -> None:
    """Hash a package's files again; where all are the same, read each with its format's parser.

    Raises:
        InputError: its list of files is damaged.
    """
    found.take(differences(folder))
    if not found.changes:
        with found.reading(MANIFEST):
            verify_package(folder)
