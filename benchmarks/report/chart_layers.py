"""Charts of what int8 costs: SQNR of every layer, and what each layer reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segdeploy.benchmarks.report.chart_svg import ACCENT, BAR, FAIL, INK, SOFT, ZONE, both, svg
from segdeploy.benchmarks.report.records import Report
from segdeploy.deploy.sensitivity.rows import LayerError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYERS = 40
"""Layers in the chart, the worst first; the table has all."""

HISTOGRAMS = 24
"""Layers whose histogram is drawn, the worst first; ``report.json`` has all."""


def anchor(layer: LayerError) -> str:
    """Id of a layer on the page: of its histogram, or of its row where none is drawn."""
    return f"layer-{layer.position}"


def layer_sqnr(report: Report) -> str | None:
    """SQNR of each layer alone and accumulated; each links to its histogram."""
    debug = report.debug
    layers = debug.layers[:LAYERS] if debug else ()
    if debug is None or not any(layer.sqnr_alone_db is not None for layer in layers):
        return None
    keep = set(debug.exclude)

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        for place, layer in enumerate(layers):
            alone, together = layer.sqnr_alone_db, layer.sqnr_accumulated_db
            colour = FAIL if layer.fault else ACCENT if layer.name in keep else BAR
            link = f"#{anchor(layer)}"
            for bar in axes.barh(place, alone or 0, height=0.64, color=colour):
                bar.set_url(link)
            if together is not None:
                axes.plot(together, place, "D", ms=3.6, color=INK, mew=0)
        axes.set_yticks(range(len(layers)), [_short(layer.name) for layer in layers])
        for label, layer in zip(axes.get_yticklabels(), layers, strict=True):
            label.set_url(f"#{anchor(layer)}")
            label.set_color(INK)
            label.set_fontsize(7.5)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(layers) - 0.4, -0.6)
        axes.set_xlim(0, None)
        axes.set_xlabel("SQNR, dB (right is better)")
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)

    label = "Signal to quantization noise of each layer; the figures stand in the table."
    return both(draw, key="sqnr", label=label, height=0.6 + 0.19 * len(layers))


def histograms(report: Report) -> dict[str, str]:
    """What the worst layers read, by layer name: counts on a logarithmic scale, and the range."""
    worst = report.debug.layers[:HISTOGRAMS] if report.debug else ()
    return {layer.name: _histogram(layer) for layer in worst}


def _histogram(layer: LayerError) -> str:
    edges = np.array(layer.histogram.edges)
    counts = np.array(layer.histogram.counts)

    def draw(figure: Figure) -> None:
        from matplotlib.ticker import MaxNLocator, NullLocator

        axes = figure.add_subplot()
        left, right = float(edges[0]), float(edges[-1])
        room = 0.02 * (right - left) or 1.0
        axes.stairs(np.maximum(counts, 0.5), edges, baseline=0.5, fill=True, color=BAR, lw=0)
        for end, outer in ((layer.range_min, left - room), (layer.range_max, right + room)):
            if end is not None:
                if left < end < right:
                    axes.axvspan(*sorted((end, outer)), color=ZONE, lw=0, zorder=0)
                axes.axvline(end, color=ACCENT, lw=1.3)
        axes.set_yscale("log")
        axes.set_ylim(0.5, 3 * max(int(counts.max()), 1))
        ends = [e for e in (layer.range_min, layer.range_max) if e is not None]
        axes.set_xlim(min([left, *ends]) - room, max([right, *ends]) + room)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="x", labelsize=7.5, colors=SOFT)

    return svg(
        draw,
        key=f"h{layer.position}",
        label=f"Histogram of what {layer.name} reads.",
        width=2.5,
        height=1.1,
        kind="chart",
    )


def _short(name: str) -> str:
    """A name that leaves room for the bars: its end, where it is long."""
    return name if len(name) <= 22 else f"\u2026{name[-21:]}"
