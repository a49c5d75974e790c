"""Charts as SVG that takes the page's colours: one drawing for light, dark and paper."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # takes a second to import; only pages with charts do
    from matplotlib.figure import Figure

WIDE_INCHES, HALF_INCHES, NARROW_INCHES = 7.4, 5.2, 3.5
"""Widths of drawings: for a screen or paper, for two beside each other there, and for a phone."""

FONT_SIZE = 8.5

INK, SOFT, LINE, PAPER = "#010203", "#010204", "#010205", "#010206"
FAIL, ACCENT, BAR, ZONE = "#010207", "#010208", "#010209", "#01020a"
PYTORCH, ONNXRUNTIME, OPENVINO, OTHER = "#01020b", "#01020c", "#01020d", "#01020e"
COLOURS = {
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    LINE: "var(--line)",
    PAPER: "var(--paper)",
    FAIL: "var(--fail)",
    ACCENT: "var(--accent)",
    BAR: "var(--bar)",
    ZONE: "var(--zone)",
    PYTORCH: "var(--s0)",
    ONNXRUNTIME: "var(--s1)",
    OPENVINO: "var(--s2)",
    OTHER: "var(--s3)",
}
"""What is drawn in a colour of the left gets the page's own colour of the right."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "segdeploy",
    "font.size": FONT_SIZE,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "path.simplify": False,
}

Draw = Callable[["Figure"], None]


def svg(
    draw: Draw, *, key: str, label: str, width: float, height: float, kind: str = "chart"
) -> str:
    """One drawing as an element of a page.

    Args:
        draw: draws into an empty figure.
        key: goes before every id, which must be unique on a page.
        label: what it shows, for those who cannot see it.
        width: inches.
        height: inches.
        kind: the element's class.

    Returns:
        ``<svg ...>``, the same bytes for the same figure.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        file = io.BytesIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing, transparent=True)
    text = file.getvalue().decode("utf-8")
    return _for_page(text[text.index("<svg") :], key=key, label=label, kind=kind)


def both(
    draw: Callable[[Figure, bool], None],
    *,
    key: str,
    label: str,
    height: float,
    wide: float = WIDE_INCHES,
) -> str:
    """A chart in two widths, of which the page shows the one that fits.

    Args:
        draw: given the figure, and whether it is the narrow one.
        key: as for ``svg``.
        label: as for ``svg``.
        height: of both, inches.
        wide: width of the wide one, inches.
    """
    return "\n".join(
        svg(
            lambda figure, narrow=narrow: draw(figure, narrow),  # type: ignore[misc]  # mypy cannot infer it
            key=f"{key}-{name}",
            label=label,
            width=width,
            height=height,
            kind=f"chart {name}",
        )
        for name, width, narrow in (
            ("wide", wide, False),
            ("narrow", NARROW_INCHES, True),
        )
    )


def _for_page(text: str, *, key: str, label: str, kind: str) -> str:
    """An SVG file as part of an HTML page: no namespaces, own ids, the page's colours."""
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*|<style.*?</style>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\sid="([^"]+)"', rf' id="{key}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", text)
    text = re.sub(r'(<use [^>]*?)xlink:href="#', rf'\1href="#{key}-', text)
    text = text.replace("xlink:href", "href").replace(' target="_blank"', "")
    for drawn, shown in COLOURS.items():
        text = text.replace(drawn, shown)
    size = re.search(r'viewBox="[^"]+"', text)
    body = text[text.index(">") + 1 :]
    box = size.group(0) if size else ""
    body = re.sub(r"\n\s*", "\n", body)
    return (
        f'<svg class="{kind}" role="img" aria-label="{escape(label, quote=True)}" {box}>'
        f"{body.strip()}"
    )
