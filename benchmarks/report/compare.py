"""Two runs side by side: scores and times of each candidate, and what differs around them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from segdeploy.benchmarks.parity.records import ParityRow
from segdeploy.benchmarks.report.records import Recommendation, Report
from segdeploy.benchmarks.report.rows import compared_rows, timed_rows
from segdeploy.benchmarks.scores.classes import change_of_images
from segdeploy.benchmarks.scores.paired_interval import paired_interval
from segdeploy.benchmarks.speed.records import BenchmarkRow, Setting
from segdeploy.benchmarks.speed.timing_noise import ratio_interval_of_two_runs, rounds_s
from segdeploy.deploy.runtimes.execution import Hint

Side = Literal["A", "B"]
Candidate = tuple[str] | tuple[str, int, int, int, Hint]
"""Its name; of a timing its setting, too: batch, threads, streams, hint."""

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """Which run one of the reports is of, and what came out."""

    name: str
    created_utc: str
    command: str
    passed: bool | None
    recommendation: Recommendation | None


@dataclass(frozen=True, kw_only=True)
class ParityChange:
    """A candidate that both runs scored; changes are B minus A.

    Attributes:
        change_percentage_points: of IoU, with several classes of mIoU, paired over the images;
            ``None`` where they differ.
        ci95_percentage_points: its 95 % interval.
        verdict_a: in the words of newer reports where it has them; ``None`` of the reference.
        verdict_b: likewise.
    """

    name: str
    iou_a_percent: float
    iou_b_percent: float
    change_percentage_points: float | None
    ci95_percentage_points: tuple[float, float] | None
    disagreement_a_percent: float | None
    disagreement_b_percent: float | None
    verdict_a: str | None
    verdict_b: str | None


@dataclass(frozen=True, kw_only=True)
class SpeedChange(Setting):
    """A candidate and setting that both runs timed; ratios are B over A.

    Attributes:
        time_ratio_ci95: 95 % interval of the ratio of the time of a call, or of throughput of an
            image, from the spread within each run; ``None`` where a run has no two rounds.
    """

    name: str
    p50_a_ms: float | None
    p50_b_ms: float | None
    p50_ratio: float | None
    images_per_s_a: float
    images_per_s_b: float
    images_per_s_ratio: float | None
    time_ratio_ci95: tuple[float, float] | None
    noise_percent: float | None
    file_a_bytes: int | None
    file_b_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Something that decides the figures and is not the same in both; ``None``: not there."""

    what: str
    a: str | None
    b: str | None


@dataclass(frozen=True, kw_only=True)
class OneSided:
    """A candidate, or one with a setting, that one run alone measured."""

    where: Literal["parity", "speed"]
    side: Side
    name: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What changed from run A to run B.

    Attributes:
        a: the earlier run.
        b: the later one.
        models_differ: in what the two networks are not the same, in a sentence; ``None`` where
            they are.
        images_differ: why IoU cannot be compared, in a sentence; ``None`` where it can.
        parity: candidates that both scored.
        speed: candidates and settings that both timed.
        around: what else differs.
        only: what one of them has alone.
    """

    a: RunIdentity
    b: RunIdentity
    models_differ: str | None
    images_differ: str | None
    parity: tuple[ParityChange, ...]
    speed: tuple[SpeedChange, ...]
    around: tuple[Difference, ...]
    only: tuple[OneSided, ...]

    @property
    def other_machine(self) -> bool:
        """Whether the runs were made on different machines, so that times cannot be compared."""
        changed = {difference.what for difference in self.around}
        return bool(changed & {"cpu", "cores", "instruction sets"})


def compare_reports(one: Report, other: Report) -> Comparison:
    """What changed from one report to another.

    IoU is compared only over the same images, as a paired change with its interval; over others
    both figures stand beside each other and ``images_differ`` says why there is no change.

    Args:
        one: the earlier one, A.
        other: the later one, B.
    """
    differ = images_differ(one, other)
    return Comparison(
        a=_identity(one),
        b=_identity(other),
        models_differ=models_differ(one, other),
        images_differ=differ,
        parity=_parity(one, other, same_images=differ is None),
        speed=_speed(one, other),
        around=_around(one, other),
        only=tuple(_only(one, other)),
    )


def models_differ(one: Report, other: Report) -> str | None:
    """In what the networks differ; ``None`` where both runs are of one network and its weights."""
    a, b = (_network(report) for report in (one, other))
    told = [f"{key} {a[key]} and {b[key]}" for key in a if a[key] != b[key]]
    if told:
        return (
            f"The runs are of different networks ({'; '.join(told)}), so that rows of one name are "
            "of two models: a change says which is better, not what an update did."
        )
    if one.model.checkpoint_sha256 != other.model.checkpoint_sha256:
        return (
            "The runs are of one network with different weights, so that rows of one name are of "
            "two models."
        )
    return None


def _network(report: Report) -> dict[str, str]:
    """What tells one network from another, weights aside."""
    model, cost = report.model, report.cost
    return {
        "architecture": model.arch,
        "parameters": f"{model.parameters:,}",
        "head": str(model.head),
        "recurrence": str(model.recurrence),
        "input contract": str(model.preprocess),
        "output contract": str(model.output),
        "multiply-adds": str(cost.macs if cost else None),
    }


def images_differ(one: Report, other: Report) -> str | None:
    """Why IoU cannot be compared; ``None`` where both scored the same images."""
    a, b = one.data.evaluation, other.data.evaluation
    if a is None or b is None:
        return "One of the runs scored no images, so no change of IoU is given."
    if a.sha256 == b.sha256:
        return None
    return (
        f"The runs scored different images (A: {a.images}, {a.split} of {a.root}; B: "
        f"{b.images}, {b.split} of {b.root}), so the IoU of one says nothing about the "
        "other and no change is given."
    )


def _identity(report: Report) -> RunIdentity:
    return RunIdentity(
        name=report.model.name,
        created_utc=report.created_utc,
        command=report.command,
        passed=report.passed,
        recommendation=report.recommendation,
    )


def _parity(one: Report, other: Report, *, same_images: bool) -> tuple[ParityChange, ...]:
    """A row for each candidate that both scored."""
    rows = []
    for a, b in _pairs(_scored(one), _scored(other)):
        differences = _differences(a, b) if same_images else None
        rows.append(
            ParityChange(
                name=a.name,
                iou_a_percent=a.iou,
                iou_b_percent=b.iou,
                change_percentage_points=(
                    sum(differences) / len(differences) if differences else None
                ),
                ci95_percentage_points=(
                    paired_interval(differences, seed=0)
                    if differences and len(differences) > 1
                    else None
                ),
                disagreement_a_percent=a.disagreement_percent,
                disagreement_b_percent=b.disagreement_percent,
                verdict_a=_verdict(a),
                verdict_b=_verdict(b),
            )
        )
    return tuple(rows)


def _speed(one: Report, other: Report) -> tuple[SpeedChange, ...]:
    """A row for each candidate and setting that both timed."""
    return tuple(
        SpeedChange(
            name=a.name,
            batch=a.batch,
            threads=a.threads,
            streams=a.streams,
            hint=a.hint,
            p50_a_ms=a.p50_ms,
            p50_b_ms=b.p50_ms,
            p50_ratio=_ratio(a.p50_ms, b.p50_ms),
            images_per_s_a=a.rate,
            images_per_s_b=b.rate,
            images_per_s_ratio=_ratio(a.rate, b.rate),
            time_ratio_ci95=ratio_interval_of_two_runs(rounds_s(a), rounds_s(b)),
            noise_percent=max(
                (row.noise_percent for row in (a, b) if row.noise_percent is not None),
                default=None,
            ),
            file_a_bytes=a.file_bytes,
            file_b_bytes=b.file_bytes,
        )
        for a, b in _pairs(_timed(one), _timed(other))
    )


def _around(one: Report, other: Report) -> tuple[Difference, ...]:
    """Everything that decides the figures and is not the same in both."""
    a, b = _decides(one), _decides(other)
    return tuple(
        Difference(what=key, a=a.get(key), b=b.get(key))
        for key in dict.fromkeys([*a, *b])
        if a.get(key) != b.get(key)
    )


def _decides(report: Report) -> dict[str, str]:
    """What a run was made of and with, each as text."""
    machine, model, data = report.environment, report.model, report.data
    found: dict[str, Any] = {report.tool.name: report.tool.version}
    found |= {
        "cpu": machine.cpu,
        "cores": machine.cores,
        "memory_bytes": machine.memory_bytes,
        "os": machine.os,
        "python": machine.python,
        "instruction sets": " ".join(machine.isa),
    }
    found |= machine.versions
    found |= {
        "arch": model.arch,
        "checkpoint_sha256": model.checkpoint_sha256,
        "head": model.head,
        "recurrence": model.recurrence,
        "input contract": model.preprocess,
    }
    for use, held in (("calibration", data.calibration), ("evaluation", data.evaluation)):
        found[f"{use} images"] = held and f"{held.images}, sha256 {held.sha256}"
    found["calibration method"] = report.calibration.method if report.calibration else None
    found["budget, points"] = report.parity.max_drop_percentage_points if report.parity else None
    found["multiply-adds"] = report.cost.macs if report.cost else None
    found |= {
        f"{stage.artifact.file} sha256": stage.artifact.sha256
        for stage in report.stages
        if stage.artifact
    }
    return {key: "none" if value is None else str(value) for key, value in found.items()}


def _only(one: Report, other: Report) -> Iterable[OneSided]:
    """Candidates and settings that one run alone measured."""
    yield from _on_one_side("parity", _scored(one), _scored(other))
    yield from _on_one_side("speed", _timed(one), _timed(other))


def _on_one_side(
    where: Literal["parity", "speed"],
    a: Iterable[Candidate],
    b: Iterable[Candidate],
) -> Iterable[OneSided]:
    sides: tuple[tuple[Side, Iterable[Candidate], set[Candidate]], ...] = (
        ("A", a, set(b)),
        ("B", b, set(a)),
    )
    for side, has, lacks in sides:
        for candidate in has:
            if candidate not in lacks:
                yield OneSided(where=where, side=side, name=_said(candidate))


def _said(candidate: Candidate) -> str:
    if len(candidate) == 1:
        return candidate[0]
    name, batch, threads, streams, hint = candidate
    return f"{name}, batch {batch}, threads {threads}, streams {streams}, {hint.value}"


def _scored(report: Report) -> dict[Candidate, ParityRow]:
    return {(shown.row.name,): shown.row for shown in compared_rows(report.parity)}


def _timed(report: Report) -> dict[Candidate, BenchmarkRow]:
    return {
        (row.name, row.batch, row.threads, row.streams, row.hint): row
        for row in timed_rows(report.benchmark)
    }


def _pairs(one: dict[Candidate, R], other: dict[Candidate, R]) -> list[tuple[R, R]]:
    return [(row, other[key]) for key, row in one.items() if key in other]


def _differences(one: ParityRow, other: ParityRow) -> list[float] | None:
    """B minus A on each image; ``None`` where the samples are not of the same images and classes.

    Of several classes what each image bears on the change of mIoU, whose mean is that change.
    """
    a, b = one.iou_per_image_percent, other.iou_per_image_percent
    if a and b and len(a) == len(b):
        return [y - x for x, y in zip(a, b, strict=True)]
    held = [[found for found in row.classes if found.iou is not None] for row in (one, other)]
    names = [[found.name for found in classes] for classes in held]
    images = {len(found.shared_per_image) for classes in held for found in classes}
    if not names[0] or names[0] != names[1] or len(images) != 1:
        return None
    before, after = (
        (
            np.array([found.shared_per_image for found in classes]).T,
            np.array([found.either_per_image for found in classes]).T,
        )
        for classes in held
    )
    bearing: list[float] = change_of_images(before, after).mean(axis=1).tolist()
    return bearing


def _ratio(a: float | None, b: float | None) -> float | None:
    return b / a if a and b is not None else None


def _verdict(row: ParityRow) -> str | None:
    """Of a row that was judged; in the words of newer reports where it has them."""
    if row.passed is None:
        return None
    return row.verdict.value if row.verdict else ("pass" if row.passed else "fail")
