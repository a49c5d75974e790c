"""Cost and time of every layer, and what int8 costs there, as both pages show them."""

from __future__ import annotations

from statistics import median
from typing import Any

from segdeploy.benchmarks.report.chart_layers import anchor
from segdeploy.benchmarks.report.rows import figure

OTHERS_NAMED = 6
"""Operators named of everything that is no layer; ``report.json`` has them all."""


def debug_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What int8 costs at each layer, worst first; none where it was not measured."""
    debug = report.get("debug")
    layers = debug["layers"] if debug else []
    macs = sum(layer["macs"] for layer in layers)
    return [
        layer
        | {
            "anchor": anchor(layer),
            "macs_percent": 100 * layer["macs"] / macs if macs else None,
        }
        for layer in layers
    ]


def excluded_percent(report: dict[str, Any]) -> float | None:
    """Share of the multiply-adds that the layers to exclude take."""
    rows = debug_rows(report)
    keep = set(report["debug"]["exclude"]) if rows else set()
    shares = [row["macs_percent"] for row in rows if row["name"] in keep]
    return sum(shares) if shares and None not in shares else None


def profiled_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The candidates whose layers were timed."""
    return [row for row in report.get("layer_times") or () if row["skipped"] is None]


def layer_table(report: dict[str, Any]) -> dict[str, Any]:
    """MACs, parameters and time of each layer.

    A layer that only a rewritten file has follows those of the network.

    Returns:
        ``columns``, one for each candidate that was profiled; ``rows`` with as many ``times``;
        the number of ``calls`` and the ``batch`` behind them.
    """
    cost = report["cost"]
    profiled = profiled_rows(report)
    layers: dict[str, dict[str, Any]] = {
        layer["name"]: dict(layer) for layer in (cost["layers"] if cost else ())
    }
    medians = [_medians(row) for row in profiled]
    for row in profiled:
        for layer in row["layers"]:
            layers.setdefault(
                layer["name"],
                {"name": layer["name"], "op": None, "macs": layer["macs"], "parameters": None},
            )
    total = cost["macs"] if cost else 0
    most = max((layer["macs"] for layer in layers.values()), default=0)
    longest = [max((us for us in times.values() if us), default=0.0) for times in medians]
    rows = [
        layer
        | {
            "macs_percent": 100 * layer["macs"] / total if total else None,
            "macs_bar": 100 * layer["macs"] / most if most else None,
            "times": [
                {"us": us, "bar": 100 * us / longest[index] if us and longest[index] else None}
                for index, us in enumerate(times.get(layer["name"]) for times in medians)
            ],
        }
        for layer in layers.values()
    ]
    return {
        "columns": [_column(row) for row in profiled],
        "rows": rows,
        "calls": profiled[0]["calls"] if profiled else None,
        "batch": profiled[0]["batch"] if profiled else None,
    }


def slowest_rows(report: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Of each profiled candidate the layers that take most, with their share of a call."""
    found = []
    for row in profiled_rows(report):
        times = {name: us for name, us in _medians(row).items() if us}
        ranked = sorted(times.items(), key=lambda item: -item[1])[:count]
        whole = _whole_us(row)
        found.append(
            {
                "name": row["name"],
                "layers": ", ".join(
                    f"{name} {figure(100 * us / whole, 'rate')} %" for name, us in ranked if whole
                ),
                "others_percent": 100 * _others_us(row) / whole if whole else None,
                "total_us": whole,
            }
        )
    return found


def _medians(row: dict[str, Any]) -> dict[str, float | None]:
    return {
        layer["name"]: None if layer["times_us"] is None else median(layer["times_us"])
        for layer in row["layers"]
    }


def _others_us(row: dict[str, Any]) -> float:
    return float(sum(median(other["times_us"]) for other in row["others"]))


def _whole_us(row: dict[str, Any]) -> float:
    """Of a call, as the sum of the medians, so that the shares add up."""
    return float(sum(us or 0.0 for us in _medians(row).values())) + _others_us(row)


def _column(row: dict[str, Any]) -> dict[str, Any]:
    ranked = sorted(row["others"], key=lambda other: -median(other["times_us"]))
    named = [f"{o['op']} {figure(median(o['times_us']), 'count')} \u00b5s" for o in ranked]
    more = len(named) - OTHERS_NAMED
    return {
        "name": row["name"],
        "others_us": _others_us(row),
        "total_us": _whole_us(row),
        "others": ", ".join(named[:OTHERS_NAMED]) + (f" and {more} more" if more > 0 else ""),
    }
