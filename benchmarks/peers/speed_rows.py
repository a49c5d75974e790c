"""From what was measured to the rows of ``peers_speed.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.parity.evidence import compare
from segdeploy.benchmarks.parity.report import ParityReport
from segdeploy.benchmarks.peers.contenders import BASELINE, Contender, Group
from segdeploy.benchmarks.peers.timing import Timed
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.runtimes.base import Executed
from segdeploy.deploy.system.errors import RunError

Row = dict[str, Any]
ALLOWED_DROP = 100.0
"""No verdict here: the rows show what each lost."""

RANGE_PERCENT = (5.0, 95.0)
"""Percentiles of the rounds that a ratio is shown with."""


@dataclass(frozen=True, kw_only=True)
class Lap:
    """One contender with one setting.

    Attributes:
        executed: what really ran.
        timed: how long it took.
        probability: float32 (N, H, W) of the evaluation images, where they were predicted.
    """

    executed: Executed
    timed: Timed
    probability: NDArray[np.float32] | None


Laps = Mapping[str, Mapping[str, Lap]]
"""By setting, then by contender."""


def rows_of(
    everybody: Sequence[Contender],
    laps: Laps,
    skipped: Mapping[str, str],
    truths: NDArray[np.bool_],
    image_names: Sequence[str],
    fields: NDArray[np.bool_] | None = None,
) -> list[Row]:
    """A row for each contender, what was not measured ``None``.

    Args:
        everybody: in order.
        laps: what was measured.
        skipped: why a contender did not run, or not to the end, by name.
        truths: bool (N, H, W).
        image_names: N names.
        fields: bool (N, H, W), the fields of view; pixels outside count nowhere.

    Raises:
        RunError: the baseline was not measured, or predictions are not finite.
    """
    reports = _reports(laps, truths, image_names, fields)
    best = {key: fastest(everybody, field, Group.NNCF) for key, field in laps.items()}
    return [
        {
            "name": contender.name,
            "group": contender.group.value,
            "precision_requested": contender.requested.value,
            "skipped": skipped.get(contender.name),
            **_accuracy(reports.get(contender.name)),
            **_executed(contender.name, laps),
            "settings": {
                key: _figures(contender.name, field, best[key]) for key, field in laps.items()
            },
        }
        for contender in everybody
    ]


def comparisons_of(everybody: Sequence[Contender], laps: Laps) -> list[Row]:
    """Our fastest beside NNCF's fastest with each setting, round by round.

    Only those take part that are the whole network and whose other layers compute in fp32, as
    NNCF's are and do.

    Returns:
        For each setting where both ran: ``setting``, ``ours``, ``peer`` and the fields of
        ``Ratio``; above 1 ours is the faster.
    """
    found = []
    alike = [c for c in everybody if c.precision is Precision.FP32 and not c.pruned]
    for key, field in laps.items():
        ours, peer = (fastest(alike, field, group) for group in (Group.OURS, Group.NNCF))
        if ours and peer:
            ratio = paired_ratio(field[peer].timed.per_image_s, field[ours].timed.per_image_s)
            found.append({"setting": key, "ours": ours, "peer": peer} | asdict(ratio))
    return found


def fastest(everybody: Iterable[Contender], field: Mapping[str, Lap], group: Group) -> str | None:
    """The contender of a group with the smallest median time for an image."""
    names = [c.name for c in everybody if c.group is group and c.name in field]
    return min(
        names, key=lambda name: float(np.median(field[name].timed.per_image_s)), default=None
    )


def _reports(
    laps: Laps,
    truths: NDArray[np.bool_],
    image_names: Sequence[str],
    fields: NDArray[np.bool_] | None,
) -> dict[str, ParityReport]:
    """Everybody's predictions beside the baseline's, the baseline's own included."""
    predicted = {
        name: lap.probability
        for field in laps.values()
        for name, lap in field.items()
        if lap.probability is not None
    }
    if BASELINE.name not in predicted:
        raise RunError(f"{BASELINE.name} predicted nothing to compare with")
    return {
        name: compare(
            BASELINE.name,
            name,
            predicted[BASELINE.name],
            probability,
            truths,
            max_drop=ALLOWED_DROP,
            image_names=image_names,
            field=fields,
        )
        for name, probability in predicted.items()
    }


def _accuracy(report: ParityReport | None) -> Row:
    return {
        "iou": report.candidate_scores.iou if report else None,
        "delta_iou_percentage_points": report.delta if report else None,
        "ci95_percentage_points": list(report.ci95) if report else None,
        "disagreement_percent": report.disagreement_percent if report else None,
    }


def _executed(name: str, laps: Laps) -> Row:
    executed = next((field[name].executed for field in laps.values() if name in field), None)
    return {
        "precision_executed": executed.words if executed else None,
        "int8_mac_share": executed.int8_mac_share if executed else None,
    }


def _figures(name: str, field: Mapping[str, Lap], nncf_best: str | None) -> Row | None:
    """The figures of one setting, with the ratios to the baseline and to NNCF's fastest."""
    if name not in field:
        return None
    own = field[name].timed
    times = {"times_baseline": BASELINE.name, "times_nncf": nncf_best}
    return dict(own.figures) | {
        key: asdict(paired_ratio(field[other].timed.per_image_s, own.per_image_s))
        if other
        else None
        for key, other in times.items()
    }


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio of times over the rounds of one run; above 1 the candidate is the faster.

    Attributes:
        median: over the rounds.
        low: 5th percentile of the rounds.
        high: 95th percentile of the rounds.
        rounds: how many there were.
    """

    median: float
    low: float
    high: float
    rounds: int


def paired_ratio(reference_s: Sequence[float], candidate_s: Sequence[float]) -> Ratio:
    """Compare two candidates round by round, so that a slow moment of the machine cancels.

    Example:
        The machine is half as fast in the second round, for both:

        >>> paired_ratio([4.0, 8.0, 4.0], [2.0, 4.0, 2.0])
        Ratio(median=2.0, low=2.0, high=2.0, rounds=3)

    Args:
        reference_s: seconds of the reference in each round, above zero.
        candidate_s: seconds of the candidate for the same work in the same rounds.

    Raises:
        RunError: no rounds, or not the same number of both.
    """
    if not reference_s or len(reference_s) != len(candidate_s):
        raise RunError(
            f"{len(candidate_s)} rounds of a candidate beside {len(reference_s)} of its reference; "
            "expected the same number, 1 or more"
        )
    ratios = np.asarray(reference_s) / np.asarray(candidate_s)
    low, high = np.percentile(ratios, RANGE_PERCENT)
    return Ratio(
        median=float(np.median(ratios)), low=float(low), high=float(high), rounds=len(ratios)
    )
