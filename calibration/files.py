"""Files that are never half there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from calibration.errors import CalibrationError

_PARTIAL = re.compile(r".+\.\d+\.partial")


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """A stream to a temporary name beside ``path``, which takes its place at the end.

    Whatever happens inside, or to the process, ``path`` is as it was or whole. The temporary file
    goes with a failure; only a killed process leaves one, for ``remove_partial``.

    Raises:
        OSError: naming ``path``: the folder is missing or cannot be written, or the disk is full.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        if error.filename is None:  # a failed write does not know its file
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all.

    Raises:
        OSError: as ``atomic_writer``.
    """
    with atomic_writer(path) as stream:
        stream.write(data)


def remove_partial(folder: Path, *, of: str | None = None) -> None:
    """Remove what killed writers left. The caller is the only one who writes there.

    Args:
        folder: where ``atomic_writer`` wrote.
        of: name of the file they were writing; ``None`` takes every file.

    Raises:
        OSError: one cannot be removed.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        whole = path.name.rsplit(".", 2)[0]
        if _PARTIAL.fullmatch(path.name) and of in (None, whole):
            path.unlink(missing_ok=True)


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
