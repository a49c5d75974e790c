"""The output folder of a run: its manifest, what can be reused, and what may be replaced."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from segdeploy.calibration.files import write_atomic
from segdeploy.calibration.json_record import record_of, require_version
from segdeploy.calibration.json_text import parse_json
from segdeploy.deploy.system.checksums import CHECKSUMS, sha256_of, write_checksums
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.system.only_writer import is_empty

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One finished stage: the file it wrote, and the digest of everything that decides it.

    Raises:
        ValueError: a file that may lie outside the run's folder.
    """

    file: str
    sha256: str
    key: str

    def __post_init__(self) -> None:
        if self.file in ("", ".", "..") or self.file != Path(self.file).name:
            raise ValueError(f"file is {self.file!r:.60}, outside the folder; expected a name")


@dataclass(frozen=True, kw_only=True)
class _Manifest:
    """What the manifest holds.

    Attributes:
        schema_version: of its form.
        inputs: what decides the artefacts.
        stages: those that are finished, by name.
    """

    schema_version: int
    inputs: dict[str, Any]
    stages: dict[str, Entry]


@dataclass(kw_only=True)
class Workspace:
    """An output folder. Every stage that finishes is noted at once, so nothing is lost.

    Attributes:
        folder: where it lies.
        inputs: what decides the artefacts.
        entries: the stages that are finished.
        measured: digest of what decided each of the figures of its report, by name.
    """

    folder: Path
    inputs: dict[str, Any]
    entries: dict[str, Entry] = field(default_factory=dict)
    measured: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, inputs: dict[str, Any], *, overwrite: bool) -> Workspace:
        """Start in a new folder, or go on in one that holds a run of the same inputs.

        A folder that is started over is no longer a finished one, until ``finish``. One that is
        gone on in keeps its seal: what is made again has the same bytes.

        Args:
            folder: held by ``writing_folder``.
            inputs: what decides the artefacts: digests, parameters, versions.
            overwrite: start over whatever the folder holds.

        Raises:
            UsageError: the folder holds a run of other inputs, or files that are not a run's.
            InputError: the folder's manifest is damaged.
            OSError: the folder cannot be written.
        """
        manifest = folder / MANIFEST
        if overwrite or is_empty(folder):
            (folder / CHECKSUMS).unlink(missing_ok=True)
            started = cls(folder=folder, inputs=inputs)
            started.write()  # at once, so that a run interrupted at any moment is known as one
            return started
        if not manifest.is_file():
            raise UsageError(
                f"{folder} is not empty and holds no {MANIFEST}; choose another -o or --overwrite"
            )
        stored, entries = read_manifest(manifest)
        differing = sorted(key for key in {*stored, *inputs} if stored.get(key) != inputs.get(key))
        if differing:
            raise UsageError(
                f"{folder} holds a run with other inputs ({', '.join(differing)}); "
                "choose another -o, or --overwrite to replace it"
            )
        measured = _read_measured(manifest)
        return cls(folder=folder, inputs=inputs, entries=entries, measured=measured)

    def path(self, file: str) -> Path:
        """Where a file of the run lies."""
        return self.folder / file

    def finished(self, stage: str, *, file: str, key: str) -> bool:
        """Whether a stage was run with the same key and its file is unchanged."""
        entry = self.entries.get(stage)
        path = self.path(file)
        return (
            entry is not None
            and (entry.file, entry.key) == (file, key)
            and path.is_file()
            and sha256_of(path) == entry.sha256
        )

    def record(self, stage: str, *, file: str, key: str) -> None:
        """Note a finished stage and write the manifest.

        Raises:
            OSError: the folder cannot be written.
        """
        self.entries[stage] = Entry(file=file, sha256=sha256_of(self.path(file)), key=key)
        self.write()

    def finish(self, files: Iterable[str]) -> None:
        """List the bytes of every file of the run; from here on it is finished.

        Args:
            files: beside those of the stages and the manifest.

        Raises:
            OSError: the folder cannot be written.
        """
        stages = (entry.file for entry in self.entries.values())
        write_checksums(self.folder, {*stages, *files, MANIFEST})

    def write(self) -> None:
        """Write the manifest.

        Raises:
            OSError: the folder cannot be written.
        """
        content = _Manifest(schema_version=SCHEMA_VERSION, inputs=self.inputs, stages=self.entries)
        figures = {"measured": self.measured} if self.measured else {}
        text = json.dumps(asdict(content) | figures, indent=2, sort_keys=True) + "\n"
        write_atomic(self.path(MANIFEST), text.encode())


def key_of(**decides: object) -> str:
    """Digest of everything that decides a stage's output."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()


def read_manifest(manifest: Path) -> tuple[dict[str, Any], dict[str, Entry]]:
    """A run's inputs and its finished stages.

    Raises:
        InputError: unreadable, damaged, or of another schema.
    """
    try:
        content = parse_json(manifest.read_text(encoding="utf-8"))
        require_version(content, SCHEMA_VERSION)
        stored = record_of(content, _Manifest, others=True, complete=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{manifest} cannot be read ({error}); use --overwrite") from error
    return stored.inputs, stored.stages


def _read_measured(manifest: Path) -> dict[str, str]:
    """What decided a run's figures; nothing of older runs, or where it is no such thing."""
    found = parse_json(manifest.read_text(encoding="utf-8")).get("measured")
    held = found if isinstance(found, dict) else {}
    return {name: key for name, key in held.items() if isinstance(key, str)}
