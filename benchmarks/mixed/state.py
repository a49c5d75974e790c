"""What a search for mixed precision found so far, kept on disk so that a rerun goes on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from segdeploy.benchmarks.parity.evidence import ParityReport
from segdeploy.calibration.files import write_atomic
from segdeploy.deploy.recovery.methods import Recovery
from segdeploy.deploy.system.kept_search import KeptSearch, kept_search

SCHEMA_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What was measured with a number of layers in float.

    Attributes:
        layers: in float.
        delta: IoU against the reference, percentage points.
        low: lower end of its 95 % interval.
        high: upper end.
        disagreement_percent: pixels whose class differs.
        collapsed: an image lost all its foreground.
        seconds: the trial took.
    """

    layers: Annotated[int, Meta(ge=0)]
    delta: float
    low: float
    high: float
    disagreement_percent: float
    collapsed: bool
    seconds: float

    @classmethod
    def of(cls, report: ParityReport, *, layers: int, seconds: float) -> Trial:
        """From a comparison with the reference."""
        low, high = report.ci95
        return cls(
            layers=layers,
            delta=report.delta,
            low=low,
            high=high,
            disagreement_percent=report.disagreement_percent,
            collapsed=report.collapsed,
            seconds=seconds,
        )

    def within(self, max_drop: float) -> bool:
        """Proven within the budget: the interval's lower end, not the mean alone."""
        return self.low >= -max_drop and not self.collapsed

    def better_than(self, other: Trial) -> bool:
        """Closer to the reference: by the interval's lower end, of equals by the pixels."""
        mine = (not self.collapsed, self.low, -self.disagreement_percent)
        return mine > (not other.collapsed, other.low, -other.disagreement_percent)

    def words(self) -> str:
        """The measurement in one line."""
        return (
            f"delta {self.delta:+.3f} [{self.low:+.3f}, {self.high:+.3f}], "
            f"{self.disagreement_percent:.3f} % of pixels differ"
        )


@dataclass(frozen=True, kw_only=True)
class RecoveryTrial:
    """One step of recovery, measured beside the file without it on the same images.

    Attributes:
        method: which.
        before: the file without the step, no layer in float.
        after: with it; ``None`` where the step found nothing to change.
        kept: it came closer to the reference.
    """

    method: Recovery
    before: Trial
    after: Trial | None
    kept: bool

    def words(self) -> str:
        """What the step gained, in one line."""
        if self.after is None:
            return f"{self.method.value}: nothing to change"
        gained = self.after.low - self.before.low
        pixels = self.after.disagreement_percent - self.before.disagreement_percent
        verdict = "kept" if self.kept else "left out"
        return (
            f"{self.method.value}: {self.after.words()}; lower end {gained:+.3f}, "
            f"pixels {pixels:+.3f} %: {verdict}"
        )


@dataclass(frozen=True, kw_only=True)
class _Stored(KeptSearch):
    """What the file holds; see ``SearchState``.

    Raises:
        ValueError: parts with other layers than the first one, or a ranking of none.
    """

    noise: list[dict[str, float]]
    ranked: bool
    trials: tuple[Trial, ...]
    recovery: tuple[RecoveryTrial, ...]

    def __post_init__(self) -> None:
        if any(part.keys() != self.noise[0].keys() for part in self.noise):
            raise ValueError("parts of the images with other layers")
        if self.ranked and not self.noise:
            raise ValueError("layers ranked without noise")


@dataclass(kw_only=True)
class SearchState:
    """Noise of each layer, part by part of the images, and the trials.

    Attributes:
        path: of the file.
        fingerprint: digest of all that decides the figures.
        noise: for each part, layer to noise over signal of the output with it alone in int8.
        ranked: no part is added any more; the trials count layers in this order.
        trials: by number of float layers, with the steps of recovery that were kept.
        recovery: the steps that were tried, in order.
    """

    path: Path
    fingerprint: str
    noise: list[dict[str, float]] = field(default_factory=list)
    ranked: bool = False
    trials: dict[int, Trial] = field(default_factory=dict)
    recovery: list[RecoveryTrial] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, *, fingerprint: str) -> SearchState:
        """Go on from a file of the same inputs, else start anew.

        Raises:
            InputError: the file is damaged.
        """
        stored = kept_search(path, _Stored, schema_version=SCHEMA_VERSION, fingerprint=fingerprint)
        if stored is None:
            return cls(path=path, fingerprint=fingerprint)
        return cls(
            path=path,
            fingerprint=fingerprint,
            noise=stored.noise,
            ranked=stored.ranked,
            trials={trial.layers: trial for trial in stored.trials},
            recovery=list(stored.recovery),
        )

    def write(self) -> None:
        """Write the file.

        Raises:
            OSError: the folder cannot be written.
        """
        content = _Stored(
            schema_version=SCHEMA_VERSION,
            fingerprint=self.fingerprint,
            noise=self.noise,
            ranked=self.ranked,
            trials=tuple(self.trials.values()),
            recovery=tuple(self.recovery),
        )
        write_atomic(self.path, (json.dumps(asdict(content), indent=1) + "\n").encode())

    def ranking(self) -> tuple[str, ...]:
        """Layers by their noise over all parts, worst first; of equals the first in the model."""
        total = {name: sum(part[name] for part in self.noise) for name in self.noise[0]}
        return tuple(sorted(total, key=lambda name: -total[name]))
