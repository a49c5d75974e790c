"""Verify: hash a finished folder again, and check what its files say of each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from segdeploy.deploy.system.errors import InputError
from segdeploy.verify import package_folder, prediction_folder, run_folder, training_folder
from segdeploy.verify.found import Findings, Verification

KINDS: dict[str, tuple[str, Callable[[Path, Findings], None]]] = {
    "run": (run_folder.MARK, run_folder.verify_run),
    "training": (training_folder.MARK, training_folder.verify_training),
    "prediction": (prediction_folder.MARK, prediction_folder.verify_prediction),
    "package": (package_folder.MARK, package_folder.verify_written_package),
}
"""Each kind of folder, the file it is told by, and how it is verified."""


def verify(folder: Path) -> Verification:
    """Say what changed in a folder since it was finished. Nothing in it is written.

    Args:
        folder: of ``run``, ``train``, ``predict`` or ``package``.

    Raises:
        InputError: no such folder, or one that was not finished.
        OSError: a file cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give the output of run, train, predict, package")
    for kind, (mark, look) in KINDS.items():
        if (folder / mark).is_file():
            found = Findings()
            look(folder, found)
            return Verification(
                kind=kind,
                files=found.files,
                changes=tuple(found.changes),
                notes=tuple(found.notes),
            )
    marks = ", ".join(mark for mark, _ in KINDS.values())
    raise InputError(f"{folder} is no output of run, train, predict or package (none of {marks})")
