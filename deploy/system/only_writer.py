"""One writer at a time for an output: a second process is refused while the first one lives.

The lock belongs to the process, not to the file it is taken on: the system lets go of it when the
process ends, however it ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from segdeploy.calibration.files import naming, remove_partial
from segdeploy.deploy.system.errors import UsageError

LOCK = ".lock"
"""The file of the lock in an output folder; it is gone when the writer is done."""


@contextmanager
def writing_folder(folder: Path) -> Iterator[None]:
    """Be the only process that writes to a folder.

    It is made where it is missing, and goes again where nothing was written to it. Half files that
    a killed writer left are removed.

    Raises:
        UsageError: it is a file, or another process is writing to it.
        OSError: it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o {folder} is a file; give a folder")
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder / LOCK, output=folder):
            remove_partial(folder)
            yield
    finally:
        for path in missing:
            with contextlib.suppress(OSError):  # not empty: something was written
                path.rmdir()


@contextmanager
def writing_file(path: Path, *, beside: Sequence[str] = ()) -> Iterator[None]:
    """Be the only process that writes a file, and whatever it keeps beside it until it is done.

    Its folder is made where it is missing. Half files that a killed writer left are removed.

    Args:
        path: the file; a folder that appears whole counts as one.
        beside: names of what else it writes into the same folder.

    Raises:
        UsageError: another process is writing it.
        OSError: its folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_name(f".{path.name}{LOCK}"), output=path):
        remove_partial(path.parent, of={path.name, *beside})
        yield


def require_new(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace a file in silence.

    Args:
        path: to write.
        overwrite: replace it all the same.

    Raises:
        UsageError: it exists.
    """
    if path.exists() and not overwrite:
        raise UsageError(
            f"-o {path} exists; choose another, or --overwrite (overwrite=True) to replace it"
        )


def require_new_in(folder: Path, file: str | None = None, *, overwrite: bool) -> None:
    """Refuse to replace in silence what a folder holds.

    Args:
        folder: to write to.
        file: what is written last, by whose name a finished output is told; ``None`` is any file.
        overwrite: replace it all the same.

    Raises:
        UsageError: it is there.
    """
    if overwrite or not folder.is_dir():
        return
    there = [file] if file else sorted(p.name for p in folder.iterdir() if p.name != LOCK)
    if there and (folder / there[0]).exists():
        raise UsageError(
            f"-o {folder} holds {there[0]}; choose another folder, or --overwrite (overwrite=True) "
            "to replace it"
        )


def is_empty(folder: Path) -> bool:
    """Whether a folder that exists holds nothing but the lock of its writer."""
    return all(path.name == LOCK for path in folder.iterdir())


@contextmanager
def _locked(path: Path, *, output: Path) -> Iterator[None]:
    lock = FileLock(path, timeout=0)
    try:
        with naming(output, instead_of=path.absolute()):  # as the lock names itself
            lock.acquire()
    except Timeout as error:
        raise UsageError(
            f"another process is writing to {output}; wait until it is done, or choose another -o"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps a file that is open
            path.unlink()
        lock.release()
