"""Cost and time of every layer, and what int8 costs there, as both pages show them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from segdeploy.benchmarks.report.chart_layers import anchor
from segdeploy.benchmarks.report.records import CostLayer, Report
from segdeploy.benchmarks.report.tables import figure
from segdeploy.benchmarks.speed.records import LayerTime, LayerTimeRow
from segdeploy.deploy.sensitivity.rows import LayerError

OTHERS_NAMED = 6
"""Operators named of everything that is no layer; ``report.json`` has them all."""


@dataclass(frozen=True, kw_only=True)
class DebugRow:
    """What int8 costs at a layer, its share of the multiply-adds, and its id on the page."""

    error: LayerError
    anchor: str
    macs_percent: float | None


@dataclass(frozen=True, kw_only=True)
class TimeCell:
    """Time of a layer in one candidate, and the length of its bar in percent."""

    us: float | None
    bar: float | None


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """A layer with what it costs; ``None`` where only a rewritten file has it.

    Attributes:
        times: one for each candidate that was profiled.
    """

    name: str
    op: str | None
    macs: int
    parameters: int | None
    macs_percent: float | None
    macs_bar: float | None
    times: tuple[TimeCell, ...]


@dataclass(frozen=True, kw_only=True)
class ProfiledColumn:
    """A candidate that was profiled: microseconds of a call, and what is not in layers."""

    name: str
    others_us: float
    total_us: float
    others: str


@dataclass(frozen=True, kw_only=True)
class LayerTable:
    """MACs, parameters and time of each layer.

    Attributes:
        columns: one for each candidate that was profiled.
        rows: with as many times.
        calls: behind each time.
        batch: of each call.
    """

    columns: tuple[ProfiledColumn, ...]
    rows: tuple[CostRow, ...]
    calls: int | None
    batch: int | None


@dataclass(frozen=True, kw_only=True)
class SlowestLayers:
    """Of a candidate the layers that take most of a call, with their shares, as text."""

    name: str
    layers: str
    others_percent: float | None
    total_us: float


def debug_rows(report: Report) -> list[DebugRow]:
    """What int8 costs at each layer, worst first; none where it was not measured."""
    layers = report.debug.layers if report.debug else ()
    macs = sum(layer.macs for layer in layers)
    return [
        DebugRow(
            error=layer,
            anchor=anchor(layer),
            macs_percent=100 * layer.macs / macs if macs else None,
        )
        for layer in layers
    ]


def excluded_percent(report: Report) -> float | None:
    """Share of the multiply-adds that the layers to exclude take."""
    keep = set(report.debug.exclude) if report.debug else set()
    shares = [row.macs_percent for row in debug_rows(report) if row.error.name in keep]
    known = [share for share in shares if share is not None]
    return sum(known) if known and len(known) == len(shares) else None


def profiled_rows(report: Report) -> list[LayerTimeRow]:
    """The candidates whose layers were timed."""
    return [row for row in report.layer_times or () if row.skipped is None]


def layer_table(report: Report) -> LayerTable:
    """MACs, parameters and time of each layer.

    A layer that only a rewritten file has follows those of the network.
    """
    profiled = profiled_rows(report)
    counted = report.cost.layers if report.cost else ()
    layers: dict[str, CostLayer | LayerTime] = {layer.name: layer for layer in counted}
    for row in profiled:
        for layer in row.layers or ():
            layers.setdefault(layer.name, layer)
    total = report.cost.macs if report.cost else 0
    most = max((layer.macs for layer in layers.values()), default=0)
    medians = [_medians(row) for row in profiled]
    longest = [max((us for us in times.values() if us), default=0.0) for times in medians]
    return LayerTable(
        columns=tuple(_column(row) for row in profiled),
        rows=tuple(
            CostRow(
                name=layer.name,
                op=layer.op if isinstance(layer, CostLayer) else None,
                macs=layer.macs,
                parameters=layer.parameters if isinstance(layer, CostLayer) else None,
                macs_percent=100 * layer.macs / total if total else None,
                macs_bar=100 * layer.macs / most if most else None,
                times=tuple(
                    _time_cell(times.get(layer.name), end)
                    for times, end in zip(medians, longest, strict=True)
                ),
            )
            for layer in layers.values()
        ),
        calls=profiled[0].calls if profiled else None,
        batch=profiled[0].batch if profiled else None,
    )


def slowest_layers(report: Report, count: int) -> list[SlowestLayers]:
    """Of each profiled candidate the layers that take most, with their share of a call."""
    found = []
    for row in profiled_rows(report):
        times = {name: us for name, us in _medians(row).items() if us}
        ranked = sorted(times.items(), key=lambda item: -item[1])[:count]
        whole = _whole_us(row)
        found.append(
            SlowestLayers(
                name=row.name,
                layers=", ".join(
                    f"{name} {figure(100 * us / whole, 'rate')} %" for name, us in ranked if whole
                ),
                others_percent=100 * _others_us(row) / whole if whole else None,
                total_us=whole,
            )
        )
    return found


def _time_cell(us: float | None, longest: float) -> TimeCell:
    return TimeCell(us=us, bar=100 * us / longest if us and longest else None)


def _medians(row: LayerTimeRow) -> dict[str, float | None]:
    return {
        layer.name: None if layer.times_us is None else median(layer.times_us)
        for layer in row.layers or ()
    }


def _others_us(row: LayerTimeRow) -> float:
    return float(sum(median(other.times_us) for other in row.others or ()))


def _whole_us(row: LayerTimeRow) -> float:
    """Of a call, as the sum of the medians, so that the shares add up."""
    return float(sum(us or 0.0 for us in _medians(row).values())) + _others_us(row)


def _column(row: LayerTimeRow) -> ProfiledColumn:
    ranked = sorted(row.others or (), key=lambda other: -median(other.times_us))
    named = [f"{o.op} {figure(median(o.times_us), 'count')} \u00b5s" for o in ranked]
    more = len(named) - OTHERS_NAMED
    return ProfiledColumn(
        name=row.name,
        others_us=_others_us(row),
        total_us=_whole_us(row),
        others=", ".join(named[:OTHERS_NAMED]) + (f" and {more} more" if more > 0 else ""),
    )
