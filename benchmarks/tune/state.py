"""What a search for a placement tried so far, kept on disk so that a rerun goes on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path

from segdeploy.benchmarks.speed.blocks import Ratio
from segdeploy.calibration.files import write_atomic
from segdeploy.deploy.quantize.qdq_placement import QdqPlacement
from segdeploy.deploy.system.kept_search import KeptSearch, kept_search

SCHEMA_VERSION = 1


class Outcome(str, Enum):
    """How a trial ended."""

    TAKEN = "taken"
    LESS_ACCURATE = "faster, but less accurate"
    NOT_FASTER = "not proven faster"
    SAME_GRAPH = "the device runs the same"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One change beside what was best until then.

    Attributes:
        pattern: what was changed.
        sites: at how many places.
        change: the departures, as ``QdqPlacement.to_json`` writes them.
        outcome: how it ended.
        ratio: time with it over time without; ``None`` where it was not timed.
        graph: what the device runs more and fewer of.
        accuracy: what was found of it, in words; empty where nobody asked.
        round_s: seconds of a round of its timing; ``None`` where it was not timed.
        seconds: the trial took.
    """

    pattern: str
    sites: int
    change: str
    outcome: Outcome
    ratio: Ratio | None
    graph: str
    accuracy: str
    round_s: float | None
    seconds: float

    def __post_init__(self) -> None:
        QdqPlacement.from_json(self.change)

    @property
    def placement(self) -> QdqPlacement:
        """The departures."""
        return QdqPlacement.from_json(self.change)

    def words(self) -> str:
        """The trial in one line."""
        timed = f", time x {self.ratio.words()}" if self.ratio else ""
        said = [f"{self.pattern} at {self.sites}{timed}: {self.outcome.value}"]
        said += filter(None, (self.graph, self.accuracy))
        return "; ".join(said)


@dataclass(frozen=True, kw_only=True)
class _Stored(KeptSearch):
    """What the file holds; see ``TuneState``."""

    order: tuple[str, ...] | None
    trials: tuple[Trial, ...]


@dataclass(kw_only=True)
class TuneState:
    """The order of patterns and the trials.

    Attributes:
        path: of the file.
        fingerprint: digest of all that decides the figures.
        order: patterns in the order they are tried; ``None`` before it is known.
        trials: in the order they were made.
    """

    path: Path
    fingerprint: str
    order: tuple[str, ...] | None = None
    trials: list[Trial] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, *, fingerprint: str) -> TuneState:
        """Go on from a file of the same inputs, else start anew.

        Raises:
            InputError: the file is damaged.
        """
        stored = kept_search(path, _Stored, schema_version=SCHEMA_VERSION, fingerprint=fingerprint)
        if stored is None:
            return cls(path=path, fingerprint=fingerprint)
        return cls(
            path=path, fingerprint=fingerprint, order=stored.order, trials=list(stored.trials)
        )

    def write(self) -> None:
        """Write the file.

        Raises:
            OSError: the folder cannot be written.
        """
        content = _Stored(
            schema_version=SCHEMA_VERSION,
            fingerprint=self.fingerprint,
            order=self.order,
            trials=tuple(self.trials),
        )
        write_atomic(self.path, (json.dumps(asdict(content), indent=1) + "\n").encode())
