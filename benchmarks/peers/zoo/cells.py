"""What is measured of one network with one tool, kept in a file each, so that a run goes on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from segdeploy.calibration.files import write_atomic
from segdeploy.calibration.json_record import (
    Count,
    NotNegative,
    Sha256,
    Share,
    Text,
    json_of,
    record_of,
)
from segdeploy.calibration.json_text import parse_json
from segdeploy.deploy.system.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """A model beside the float network, on the same images.

    Attributes:
        iou: published IoU, percent.
        delta: minus that of the float network, percentage points.
        ci95: 95 % paired bootstrap interval of it.
        sqnr_db: of the probabilities; ``None`` where they are the same.
        int8_mac_share: of the multiply-adds, read from the executed graph; ``None`` where it
            does not tell of every layer what ran.
        executed: precision that ran, in words.
    """

    iou: NotNegative
    delta: float
    ci95: tuple[float, float]
    sqnr_db: float | None
    int8_mac_share: Share | None
    executed: Text


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One network with one contender: figures, or the reason why there are none.

    Attributes:
        network: name in the zoo.
        contender: name in the table.
        model: what runs, of ``models.Model``.
        group: whose work it is.
        runtime: where it runs.
        decided_by: everything that decides the figures, by ``keys.key_of``.
        model_sha256: of the file that ran; ``None`` where none did.
        seconds: to make the model; ``None`` of the float model.
        peak_bytes: of the process that made it.
        accuracy: what it computes.
        skipped: why it could not be measured.

    Raises:
        ValueError: figures and a reason, or neither.
    """

    network: Text
    contender: Text
    model: Text
    group: Text
    runtime: Text
    decided_by: dict[str, str]
    model_sha256: Sha256 | None = None
    seconds: NotNegative | None = None
    peak_bytes: Count | None = None
    accuracy: Accuracy | None = None
    skipped: str | None = None

    def __post_init__(self) -> None:
        if (self.accuracy is None) == (self.skipped is None):
            raise ValueError("a cell holds figures or a reason, and not both")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """All contenders of one network, timed in turn in one run.

    Attributes:
        network: name in the zoo.
        decided_by: everything that decides the times, by ``keys.key_of``.
        models: contender to the digest of the file that ran.
        latency_s: contender to the seconds of each call of each block, one image a call.
        throughput_s: likewise, of calls of ``batch`` images.
        batch: images of a call.
        threads: of every runtime.
    """

    network: Text
    decided_by: dict[str, str]
    models: dict[str, Sha256]
    latency_s: dict[str, tuple[tuple[float, ...], ...]]
    throughput_s: dict[str, tuple[tuple[float, ...], ...]]
    batch: Count
    threads: Count


@dataclass(frozen=True, kw_only=True)
class FloatModel:
    """The float network that a folder's figures are of.

    Attributes:
        decided_by: everything that decides the file, by ``keys.key_of``.
        sha256: of the file.
    """

    decided_by: dict[str, str]
    sha256: Sha256


def save(record: Cell | Timing | FloatModel, path: Path) -> None:
    """Write a record; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(json_of(record), indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_atomic(path, text.encode())


def read_record(path: Path, kind: type[T]) -> T | None:
    """What an earlier run kept; ``None`` where there is nothing, or a record without its key.

    Such records are of a version that did not keep what decided them.

    Raises:
        InputError: the file holds something else.
    """
    if not path.exists():
        return None
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
        if isinstance(value, dict) and "network" in value and "decided_by" not in value:
            return None
        return record_of(value, kind)
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is no record of the zoo ({error}); delete it") from error
