"""What a verification comes to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from segdeploy.deploy.system.checksums import Differences
from segdeploy.deploy.system.errors import SegdeployError


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing that is not as it was left.

    Attributes:
        file: by relative path.
        words: what is the matter.
    """

    file: str
    words: str


@dataclass(kw_only=True)
class Findings:
    """Collected while a folder is looked through.

    Attributes:
        files: hashed again.
        changes: in the order they were found.
        notes: what to know, and no change of the folder.
    """

    files: int = 0
    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, file: str, words: str) -> None:
        """Note a change; of one file only the first, which explains the others."""
        if file not in {change.file for change in self.changes}:
            self.changes.append(Change(file=file, words=words))

    def take(self, found: Differences) -> None:
        """Note what the checksums tell."""
        self.files = found.listed
        for file in found.changed:
            self.add(file, "changed: its bytes are others than when it was finished")
        for file in found.missing:
            self.add(file, "missing")
        if found.unlisted:
            self.notes.append(f"not part of it: {', '.join(found.unlisted)}")

    @contextmanager
    def reading(self, file: str) -> Iterator[None]:
        """Note an error of ours inside as a change of a file."""
        try:
            yield
        except SegdeployError as error:
            self.add(file, str(error))


@dataclass(frozen=True, kw_only=True)
class Verification:
    """How a finished folder stands.

    Attributes:
        kind: of folder: run, training, prediction or package.
        files: hashed again.
        changes: what is not as it was left.
        notes: what to know, and no change of the folder.
    """

    kind: str
    files: int
    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    @property
    def unchanged(self) -> bool:
        """Whether everything is as it was left."""
        return not self.changes
