"""Checksums of a folder, in the format that ``sha256sum -c`` reads."""

from __future__ import annotations

import re
from pathlib import Path

from deploy.artifact import sha256_of
from deploy.errors import InputError
from deploy.packaging.base import CHECKSUMS

_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<path>.+)")


def files_of(folder: Path) -> list[str]:
    """Every file below a folder but the checksums, by relative path, in order."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if path != CHECKSUMS)


def write_checksums(folder: Path) -> Path:
    """Write ``checksums.sha256`` over every other file of a folder.

    Raises:
        InputError: a file name with a line break or a backslash, which the format escapes.
        OSError: a file cannot be read or written.
    """
    lines = []
    for path in files_of(folder):
        if "\n" in path or "\\" in path:
            raise InputError(f"{path!r} has a line break or a backslash in its name; rename it")
        lines.append(f"{sha256_of(folder / path)}  {path}\n")
    output = folder / CHECKSUMS
    output.write_text("".join(lines), encoding="utf-8")
    return output


def verify_checksums(folder: Path) -> dict[str, str]:
    """Check every file against ``checksums.sha256``.

    Returns:
        Path to digest, in the order of the file.

    Raises:
        InputError: a malformed line, a file that is missing, changed or not listed.
    """
    listed = read_checksums(folder / CHECKSUMS)
    present = files_of(folder)
    missing, unlisted = sorted(listed.keys() - set(present)), sorted(set(present) - listed.keys())
    if missing or unlisted:
        raise InputError(
            f"{folder}: {CHECKSUMS} lists {missing} that are not there and lacks {unlisted}"
        )
    for path, expected in listed.items():
        found = sha256_of(folder / path)
        if found != expected:
            raise InputError(
                f"{folder / path} was changed (sha256 {found[:12]}..., expected "
                f"{expected[:12]}...); package the model again"
            )
    return listed


def read_checksums(path: Path) -> dict[str, str]:
    """Path to digest of a checksum file.

    Raises:
        InputError: it cannot be read, or a line is malformed.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); is it a finished package?") from error
    listed = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise InputError(f"{path}:{number}: {line!r:.60} is not '<sha256>  <file>'")
        listed[match["path"]] = match["sha256"]
    return listed
