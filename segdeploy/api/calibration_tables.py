"""Calibration tables as verbs take them: the value, or the file that holds it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from segdeploy.api.outputs import AnyPath
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.system.checksums import sha256_of


def calibration_table_of(table: CalibrationTable | AnyPath) -> CalibrationTable:
    """A calibration table, read where it is given as a file.

    Raises:
        CalibrationError: the file cannot be read, or is no table.
    """
    return table if isinstance(table, CalibrationTable) else CalibrationTable.read(Path(table))


def table_sha256(table: CalibrationTable | AnyPath) -> str:
    """Digest of a table's file; of one that was never written, of the file that it would be."""
    if isinstance(table, CalibrationTable):
        return hashlib.sha256(table.to_json().encode()).hexdigest()
    return sha256_of(Path(table))


def file_of(table: CalibrationTable | AnyPath) -> tuple[Path, ...]:
    """The file of a table, where it is given as one."""
    return () if isinstance(table, CalibrationTable) else (Path(table),)
