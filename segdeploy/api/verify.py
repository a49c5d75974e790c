"""Verify a finished folder."""

from __future__ import annotations

from pathlib import Path

from segdeploy.api.outputs import AnyPath
from segdeploy.verify.found import Verification
from segdeploy.verify.verify import verify as verify_folder


def verify(folder: AnyPath) -> Verification:
    """Hash a finished folder again and say what changed. Nothing in it is written.

    Args:
        folder: of ``deploy``, ``train``, ``predict`` or ``package``.

    Raises:
        InputError: no such folder, or one that was not finished.
        OSError: a file cannot be read.
    """
    return verify_folder(Path(folder))
