"""Files that are never half there."""

from __future__ import annotations

import os
from pathlib import Path

from calibration.errors import CalibrationError


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to a temporary name beside ``path``, then rename it into place.

    Raises:
        CalibrationError: the folder is missing or cannot be written; ``path`` is as it was.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CalibrationError(f"cannot write {path} ({error.strerror or error})") from error


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        CalibrationError: missing, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CalibrationError(f"cannot read {path} ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{path} is not UTF-8 text ({error.reason})") from error
