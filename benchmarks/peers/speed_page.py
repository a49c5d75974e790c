"""The page of ``peers_speed.json``: one GitHub table and what a reader needs to judge it."""

from __future__ import annotations

from typing import Any

from segdeploy.benchmarks.peers.markdown import page
from segdeploy.benchmarks.peers.quantize import SETTINGS
from segdeploy.benchmarks.report.tables import ABSENT, figure, interval, table
from segdeploy.benchmarks.speed.latency import REST_S

Row = dict[str, Any]

NOTES = """\
Change: IoU minus that of PyTorch eager fp32 on the same images, percentage points, with its 95 %
paired bootstrap interval. The columns `x` say how many times as fast a row is as PyTorch eager
fp32, and as the faster NNCF preset: the median over the rounds in which all of them took turns.
Executed: precision of the convolutions in the runtime's own graph. + bf16: what lies between the
int8 layers computes in bf16. Latencies are taken {rest} ms apart, so that no tool's waiting
threads slow the next."""


def speed_page(result: dict[str, Any]) -> str:
    """The page, from the JSON alone."""
    rows, settings = result["rows"], result["settings"]
    head = ["Tool", "Executed", "IoU %", "Change, points (95 % interval)"]
    for setting in settings:
        head += [setting["title"], "x PyTorch / NNCF"]
    body = [_cells(row, settings) for row in rows]
    return page(
        "Speed beside its peers",
        _subject(result),
        table(head, body),
        [*_comparisons(result), *_notes(rows)],
        result,
    )


def _cells(row: Row, settings: list[dict[str, str]]) -> list[str]:
    measured = row["iou"] is not None
    cells = [
        row["name"] if measured else f"{row['name']} (skipped)",
        row["precision_executed"] or ABSENT,
        figure(row["iou"], "percent"),
        _change(row),
    ]
    for setting in settings:
        figures = row["settings"][setting["key"]]
        if figures is None:
            cells += [ABSENT, ABSENT]
            continue
        slow = "p50_ms" in figures
        cells.append(figure(figures["p50_ms" if slow else "images_per_s"], "fixed"))
        cells.append(f"{_times(figures['times_baseline'])} / {_times(figures['times_nncf'])}")
    return cells


def _change(row: Row) -> str:
    if row["iou"] is None:
        return ABSENT
    change = figure(row["delta_iou_percentage_points"], "points")
    return f"{change} ({interval(row['ci95_percentage_points'])})"


def _times(ratio: Row | None) -> str:
    return figure(ratio["median"] if ratio else None, "fixed")


def _comparisons(result: dict[str, Any]) -> list[str]:
    titles = {setting["key"]: setting["title"] for setting in result["settings"]}
    return [
        f"Ours beside NNCF, {titles[found['setting']]}: {found['ours']} is "
        f"{figure(found['median'], 'share')} times as fast as {found['peer']} (median of "
        f"{found['rounds']} rounds; 5 to 95 % of them {figure(found['low'], 'share')} to "
        f"{figure(found['high'], 'share')})."
        for found in result["comparisons"]
    ]


def _notes(rows: list[Row]) -> list[str]:
    notes = [" ".join(NOTES.format(rest=round(1e3 * REST_S)).split())]
    notes += [f"{recipe.value}: {words}." for recipe, words in SETTINGS.items()]
    notes += [f"{row['name']} was skipped: {row['skipped']}." for row in rows if row["skipped"]]
    return notes


def _subject(result: dict[str, Any]) -> str:
    model = result["model"]
    return (
        f"{model['arch']} of {model['file']} (sha256 {model['sha256'][:12]}), "
        f"{result['calibration_images']} calibration images, {result['evaluation_images']} "
        f"evaluation images, {result['threads']} threads"
    )
