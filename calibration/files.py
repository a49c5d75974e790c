"""Files that are never half there."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from segdeploy.calibration.errors import CalibrationError

_PARTIAL = re.compile(r".+\.\d+\.partial")

LONGEST_NAME = 255
"""Bytes of a file name, on the file systems in use."""

_ROOM = 24
"""Of these, what a temporary name adds at most."""


class _Raw(io.FileIO):
    """A file that remembers its first failed write, for whoever wrote through a library."""

    failure: OSError | None = None

    def into_file(self, data: Any) -> int:
        """Hand bytes to the system."""
        return super().write(data)

    def write(self, data: Any, /) -> int:
        """As every file does."""
        try:
            return self.into_file(data)
        except OSError as error:
            self.failure = self.failure or error
            raise


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """A stream to a temporary name beside ``path``, which takes its place at the end.

    Whatever happens inside, or to the process, ``path`` is as it was or whole. The temporary file
    goes with a failure; only a killed process leaves one, for ``remove_partial``.

    Raises:
        OSError: naming ``path``: the folder is missing or cannot be written, or the disk is full.
    """
    partial = path.with_name(f"{_stem(path.name)}.{os.getpid()}.partial")
    try:
        with naming(path, instead_of=partial):
            with _noted(partial) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
    finally:
        with suppress(OSError):  # what failed before says more
            partial.unlink(missing_ok=True)


@contextmanager
def naming(path: Path, *, instead_of: Path | None = None) -> Iterator[None]:
    """Give a system error a file to name: a failed write does not know its own.

    Args:
        path: what was to be written.
        instead_of: a temporary name for it, which would tell a user nothing; or a folder of that
            name.
    """
    try:
        yield
    except OSError as error:
        named = None if error.filename is None else Path(str(error.filename))
        if named is None:
            error.filename = str(path)
        elif instead_of is not None and named.is_relative_to(instead_of):
            error.filename = str(path / named.relative_to(instead_of))
            error.filename2 = None
        raise


@contextmanager
def _noted(path: Path) -> Iterator[BinaryIO]:
    """A stream whose failed writes stay system errors, whatever a library makes of them."""
    raw = _Raw(path, "wb")
    try:
        with io.BufferedWriter(raw) as stream:
            yield cast(BinaryIO, stream)
    except Exception as error:
        if raw.failure is None or error is raw.failure:
            raise
        raise raw.failure from error  # torch.save calls a full disk an unexpected position


def _stem(name: str) -> str:
    """What a temporary name begins with: the name itself, or where that is too long its digest."""
    written = os.fsencode(name)
    if len(written) + _ROOM <= LONGEST_NAME:
        return name
    return hashlib.sha256(written).hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all.

    Raises:
        OSError: as ``atomic_writer``.
    """
    with atomic_writer(path) as stream:
        stream.write(data)


def remove_partial(folder: Path, *, of: Collection[str] | None = None) -> None:
    """Remove what killed writers left. The caller is the only one who writes there.

    Args:
        folder: where ``atomic_writer`` wrote, or whole folders were put together the same way.
        of: names of what they were writing; ``None`` takes everything.

    Raises:
        OSError: one cannot be removed.
    """
    stems = None if of is None else {_stem(name) for name in of}
    for path in folder.iterdir() if folder.is_dir() else ():
        whole = path.name.rsplit(".", 2)[0]
        if not _PARTIAL.fullmatch(path.name) or (stems is not None and whole not in stems):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
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
