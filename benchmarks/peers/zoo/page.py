"""The zoo as one table and one chart, and what it says of the aims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segdeploy.benchmarks.peers.chart import RESOLUTION, STYLES
from segdeploy.benchmarks.peers.contenders import Group
from segdeploy.benchmarks.peers.models import TUNED, Model
from segdeploy.benchmarks.peers.zoo.cells import Cell, Timing
from segdeploy.benchmarks.peers.zoo.networks import ZOO
from segdeploy.benchmarks.report.tables import ABSENT, figure, interval, table
from segdeploy.benchmarks.speed.blocks import Blocks, Ratio, ratio
from segdeploy.calibration.files import atomic_writer
from segdeploy.deploy.runtimes.registry import RuntimeName

ALLOWED_LOSS = 0.2
"""Points of IoU that int8 may cost."""

ALLOWED_BEHIND = 0.05
"""Points of IoU that ours may stay behind NNCF."""

EVERY_BOUND = 1.0
"""Time over a peer's that every network is to keep."""

SOME_BOUND = 0.9
"""Time over a peer's that some are to keep."""

WHOLE, WHOLE_BOUND = "unet_plus_plus", 0.97
"""The bundled whole UNet++, and the time over NNCF's that it is to keep."""

CHARTED: tuple[tuple[str, Group, bool, dict[str, str]], ...] = (
    ("segdeploy", Group.OURS, False, {}),
    ("segdeploy tuned", Group.OURS, True, {"facecolors": "none"}),
    ("NNCF", Group.NNCF, False, {}),
)
"""Whose best is drawn of each network: the label, who, whether tuned, and how it looks."""

MET, NOT_MET, NOT_PROVEN = "met", "not met", "not proven"
"""What the whole interval of a ratio says of a bound; not proven where the bound is inside."""

HEAD = (
    *("Network", "Size", "float IoU %", "Tool and runtime", "Change, points (95 % interval)"),
    *("SQNR dB", "int8 MACs %", "p50 ms", "images/s", "s to make", "Peak MB"),
)
NOTES = """\
Change: IoU minus that of the float network on the same images. SQNR: of the probabilities. int8
MACs: share of the multiply-adds that the runtime's own graph executes in int8, layers of NNCF's
files found by the names of the float network's; {absent} where that graph does not name what runs
some layer, or the network could not run. p50: one image;
images/s: calls of {batch} images, one stream. All tools of a network took turns in blocks of calls
in one run; times of one network compare, those of two do not. s to make and Peak MB: a fresh
process, from the float model to the int8 file, imports included."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One network of the zoo.

    Attributes:
        network: its name.
        cells: one for each contender.
        timing: of those that run; ``None`` where no times were taken.
        skipped: why it could not be measured at all.
    """

    network: str
    cells: tuple[Cell, ...] = ()
    timing: Timing | None = None
    skipped: str | None = None

    def best(self, group: Group, runtime: RuntimeName, *, tuned: bool = False) -> Cell | None:
        """The int8 model of a group on a runtime: the fastest where times were taken, else the
        one that keeps most of the IoU; accuracy control is no preset.

        Args:
            group: whose work.
            runtime: where it runs.
            tuned: among those whose placement was searched for on this machine; else the others.
        """
        able = [
            cell
            for cell in self.cells
            if (cell.group, cell.runtime) == (group.value, runtime.value)
            and cell.seconds is not None
            and cell.accuracy is not None
            and cell.model != Model.NNCF_ACCURACY.value
            and (cell.model in {model.value for model in TUNED}) == tuned
        ]
        if self.timing is not None:
            times = self.timing.latency_s
            timed = [cell for cell in able if cell.contender in times]
            return min(timed, key=lambda c: _median(times[c.contender]), default=None)
        return max(able, key=lambda c: c.accuracy.delta if c.accuracy else 0.0, default=None)

    def time_ratio(self, one: Cell | None, other: Cell | None) -> Ratio | None:
        """Time of one image over that of the other; ``None`` where either was not timed."""
        if self.timing is None or one is None or other is None:
            return None
        times = self.timing.latency_s
        first, second = (
            Blocks(name=c.contender, blocks_s=times[c.contender]) for c in (one, other)
        )
        return ratio(first, second)


def _median(blocks: Sequence[Sequence[float]]) -> float:
    return float(np.median([call for block in blocks for call in block]))


def rows_of(results: Sequence[Result]) -> str:
    """The GitHub table: every network with every tool."""
    body: list[list[str]] = []
    for result in results:
        entry = ZOO[result.network]
        if result.skipped is not None:
            body.append([f"{entry.title} (skipped)", entry.width, *[ABSENT] * 9])
        body += [_cells(result, cell, first=cell is result.cells[0]) for cell in result.cells]
    return table(HEAD, body)


def _cells(result: Result, cell: Cell, *, first: bool) -> list[str]:
    entry, accuracy, timing = ZOO[result.network], cell.accuracy, result.timing
    iou = accuracy.iou if accuracy and first else None
    shown = [entry.title, entry.width, figure(iou, "percent")] if first else ["", "", ""]
    if accuracy is None:
        return [*shown, f"{cell.contender} (skipped)", *[ABSENT] * 7]
    shown += [
        cell.contender,
        f"{figure(accuracy.delta, 'points')} ({interval(accuracy.ci95)})",
        figure(accuracy.sqnr_db, "rate"),
        ABSENT if accuracy.int8_mac_share is None else f"{100 * accuracy.int8_mac_share:.1f}",
    ]
    if timing is None or cell.contender not in timing.latency_s:
        shown += [ABSENT, ABSENT]
    else:
        many = _median(timing.throughput_s[cell.contender])
        shown.append(figure(1e3 * _median(timing.latency_s[cell.contender]), "fixed"))
        shown.append(figure(timing.batch / many, "fixed"))
    return [*shown, figure(cell.seconds, "fixed"), figure(cell.peak_bytes, "mega")]


def notes_of(results: Sequence[Result]) -> list[str]:
    """What a reader needs to judge the table, and every reason for a row without figures."""
    batch = next((r.timing.batch for r in results if r.timing), 8)
    notes = [" ".join(NOTES.format(batch=batch, absent=ABSENT).split())]
    notes += [f"{ZOO[r.network].title} was skipped: {r.skipped}." for r in results if r.skipped]
    notes += [
        f"{ZOO[r.network].title}, {cell.contender}: {cell.skipped}."
        for r in results
        for cell in r.cells
        if cell.skipped
    ]
    return notes


def summary_of(results: Sequence[Result]) -> list[str]:
    """What the figures say of the aims, a sentence each; what was not measured is said, too."""
    measured = [r for r in results if r.cells]
    lines = [f"{len(measured)} networks measured."]
    for tuned, who in ((False, "ours"), (True, "ours tuned")):
        lines += _beside_nncf(measured, who, tuned=tuned)
        ort = RuntimeName.ONNXRUNTIME
        static = [
            (
                r.network,
                r.time_ratio(r.best(Group.OURS, ort, tuned=tuned), r.best(Group.ONNXRUNTIME, ort)),
            )
            for r in measured
        ]
        lines.append(_times(f"{who} over quantize_static, ONNX Runtime", static))
    losses = [
        f"{r.network} with {cell.contender} ({cell.accuracy.delta:+.3f})"
        for r in measured
        for cell in r.cells
        if cell.group == Group.OURS.value
        and cell.accuracy is not None
        and cell.accuracy.delta < -ALLOWED_LOSS
    ]
    lines.append(f"Ours loses more than {ALLOWED_LOSS} points: {', '.join(losses) or 'nowhere'}.")
    return lines


def _beside_nncf(measured: Sequence[Result], who: str, *, tuned: bool) -> list[str]:
    """Accuracy and time beside NNCF's best preset on OpenVINO."""
    openvino = RuntimeName.OPENVINO
    pairs = [
        (r, r.best(Group.OURS, openvino, tuned=tuned), r.best(Group.NNCF, openvino))
        for r in measured
    ]
    behind: list[str] = []
    compared, clearer, judged = 0, 0, 0
    for r, ours, peer in pairs:
        if ours is None or ours.accuracy is None or peer is None or peer.accuracy is None:
            continue
        compared += 1
        difference = ours.accuracy.delta - peer.accuracy.delta
        if difference < -ALLOWED_BEHIND:
            behind.append(f"{r.network} ({difference:+.3f})")
        if ours.accuracy.sqnr_db is not None and peer.accuracy.sqnr_db is not None:
            judged += 1
            clearer += ours.accuracy.sqnr_db > peer.accuracy.sqnr_db
    times = [(r.network, r.time_ratio(ours, peer)) for r, ours, peer in pairs]
    against = f"{who} over NNCF's best preset, OpenVINO"
    whole = dict(times).get(WHOLE)
    shown = f"{_verdict(whole, WHOLE_BOUND)}, {whole.words()}" if whole else "not measured"
    lines = [
        f"Time of {against}, on the whole bundled {ZOO[WHOLE].title}: <= {WHOLE_BOUND:.2f} {shown}."
    ]
    if not compared:
        return [f"Accuracy of {against}: not measured.", _times(against, times), *lines]
    return [
        f"IoU of {who} behind NNCF's best preset by more than {ALLOWED_BEHIND} points, of "
        f"{compared}: {', '.join(behind) or 'none'}.",
        f"SQNR of {who} higher than NNCF's on {clearer} of {judged}.",
        _times(against, times),
        *lines,
    ]


def _verdict(found: Ratio, bound: float) -> str:
    """What the interval of a ratio proves: within the bound, above it, or neither."""
    if found.high <= bound:
        return MET
    return NOT_MET if found.low > bound else NOT_PROVEN


def _times(what: str, found: Sequence[tuple[str, Ratio | None]]) -> str:
    """Time ratios network by network, each with what its interval proves of 1.00."""
    timed = [(name, each) for name, each in found if each is not None]
    if not timed:
        return f"Time of {what}: not measured."
    verdicts = Counter(_verdict(each, EVERY_BOUND) for _, each in timed)
    counts = ", ".join(f"{word} on {verdicts[word]}" for word in (MET, NOT_MET, NOT_PROVEN))
    well_below = sum(_verdict(each, SOME_BOUND) == MET for _, each in timed)
    shown = ", ".join(
        f"{name} {each.words()} {_verdict(each, EVERY_BOUND)}" for name, each in timed
    )
    return (
        f"Time of {what}: <= {EVERY_BOUND:.2f} {counts}, of {len(timed)}; "
        f"<= {SOME_BOUND:.2f} met on {well_below}: {shown}."
    )


def write_chart(results: Sequence[Result], path: Path) -> None:
    """SQNR of ours and of NNCF's best, and the time ratio where it was measured, by network.

    Raises:
        OSError: the folder cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [r for r in results if r.cells]
    timed = any(r.timing for r in shown)
    with matplotlib.rc_context({"svg.hashsalt": "segdeploy", "font.size": 9}):
        chart = Figure(figsize=(11.0, 0.34 * len(shown) + 1.6), layout="constrained")
        FigureCanvasAgg(chart)
        grid = chart.subplots(1, 2 if timed else 1, sharey=True, squeeze=False)[0]
        places = list(range(len(shown)))
        for label, group, tuned, look in CHARTED:
            colour, marker = STYLES[group.value]
            best = [r.best(group, RuntimeName.OPENVINO, tuned=tuned) for r in shown]
            found = [
                (cell.accuracy.sqnr_db, place)
                for place, cell in zip(places, best, strict=True)
                if cell and cell.accuracy and cell.accuracy.sqnr_db is not None
            ]
            if not found:
                continue
            grid[0].scatter(
                [x for x, _ in found],
                [y for _, y in found],
                **{"facecolors": colour, **look},
                edgecolors=colour,
                marker=marker,
                s=45,
                label=label,
                zorder=3,
            )
        grid[0].set_yticks(places, [ZOO[r.network].title for r in shown])
        grid[0].invert_yaxis()
        grid[0].set_xlabel("SQNR of the int8 network, dB (right is better)")
        grid[0].legend(frameon=False)
        if timed:
            _draw_ratios(grid[1], shown)
        for axes in grid:
            axes.grid(visible=True, color="#dddddd", linewidth=0.6)
            axes.set_axisbelow(True)
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            with atomic_writer(path.with_name(f"{path.name}.{kind}")) as stream:
                chart.savefig(stream, format=kind, dpi=RESOLUTION, metadata=metadata)


def _draw_ratios(axes: Any, shown: Sequence[Result]) -> None:
    for place, r in enumerate(shown):
        peer = r.best(Group.NNCF, RuntimeName.OPENVINO)
        for _, group, tuned, look in CHARTED[:-1]:
            colour, marker = STYLES[group.value]
            found = r.time_ratio(r.best(group, RuntimeName.OPENVINO, tuned=tuned), peer)
            if found is not None:
                axes.plot([found.low, found.high], [place, place], color=colour, linewidth=1.5)
                fill = look.get("facecolors", colour)
                axes.plot(found.value, place, color=colour, marker=marker, markersize=10, mfc=fill)
    axes.axvline(1.0, color="#000000", linewidth=0.8)
    axes.set_xlabel("time of ours over NNCF's faster preset (left is faster)")
