"""Digests of files, and those of a folder in the format that ``sha256sum -c`` reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from segdeploy.calibration.files import write_atomic
from segdeploy.deploy.system.errors import InputError

CHECKSUMS = "checksums.sha256"

_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<path>.+)")


@dataclass(frozen=True, kw_only=True)
class Differences:
    """How a folder departs from its checksums, each by relative path.

    Attributes:
        listed: how many files the checksums name.
        changed: other bytes than when the checksums were written.
        missing: listed, and not there.
        unlisted: there, and not listed.
    """

    listed: int
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    unlisted: tuple[str, ...]


def sha256_of(path: Path) -> str:
    """Digest of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def files_of(folder: Path) -> list[str]:
    """Every file below a folder but the checksums, by relative path, in order."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if path != CHECKSUMS)


def write_checksums(folder: Path, files: Iterable[str]) -> None:
    """Write ``checksums.sha256``.

    Args:
        folder: where.
        files: by relative path.

    Raises:
        InputError: a file name with a line break or a backslash, which the format escapes.
        OSError: a file cannot be read or written.
    """
    digests = {}
    for path in files:
        if "\n" in path or "\\" in path:
            raise InputError(f"{path!r} has a line break or a backslash in its name; rename it")
        digests[path] = sha256_of(folder / path)
    _write(folder, digests)


def update_checksums(folder: Path, files: Iterable[str]) -> None:
    """State the digests of files that were written again on purpose; the others stay.

    Raises:
        InputError: the checksums cannot be read, or a line is malformed.
        OSError: a file cannot be read or written.
    """
    listed = read_checksums(folder / CHECKSUMS)
    _write(folder, listed | {path: sha256_of(folder / path) for path in files})


def _write(folder: Path, digests: dict[str, str]) -> None:
    lines = (f"{sha256}  {path}\n" for path, sha256 in sorted(digests.items()))
    write_atomic(folder / CHECKSUMS, "".join(lines).encode("utf-8", "surrogateescape"))


def differences(folder: Path) -> Differences:
    """Hash every file again.

    Raises:
        InputError: the checksums cannot be read, or a line is malformed.
        OSError: a file cannot be read.
    """
    listed = read_checksums(folder / CHECKSUMS)
    present = set(files_of(folder))
    return Differences(
        listed=len(listed),
        changed=tuple(
            path
            for path, expected in listed.items()
            if path in present and sha256_of(folder / path) != expected
        ),
        missing=tuple(path for path in listed if path not in present),
        unlisted=tuple(sorted(present - listed.keys())),
    )


def read_checksums(path: Path) -> dict[str, str]:
    """Path to digest of a checksum file.

    Raises:
        InputError: it cannot be read, a line is malformed, or a file is listed twice.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        lines = text.removesuffix("\n").split("\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); was the folder finished?") from error
    listed = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise InputError(f"{path}:{number}: {line!r:.60} is not '<sha256>  <file>'")
        if match["path"] in listed:
            raise InputError(f"{path}:{number}: {match['path']!r} is listed twice")
        listed[match["path"]] = match["sha256"]
    return listed
