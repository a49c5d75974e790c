"""Two loss curves and their distance as a chart; matplotlib is imported when one is drawn."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segdeploy.calibration.files import atomic_writer
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.system.shown_command import shown_path
from segdeploy.training.align.curves import CurveAlignment

if TYPE_CHECKING:  # an optional package
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
SIZE_INCHES = (8.0, 5.5)
RESOLUTION = 150
REFERENCE_COLOUR, CANDIDATE_COLOUR = "#000000", "#D55E00"


def require_plots(path: Path) -> None:
    """Refuse a plot that could not be drawn, before the work and not after it.

    Raises:
        UsageError: a suffix that is not a picture's.
        InputError: matplotlib is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"--plot {path} ends in {path.suffix!r}; expected {' or '.join(SUFFIXES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("--plot needs matplotlib, which is not installed; pip install matplotlib")


def write_plot(alignment: CurveAlignment, path: Path) -> None:
    """Draw both curves and write them; the same curves give the same bytes.

    Raises:
        UsageError: a suffix that is not a picture's.
        InputError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    require_plots(path)
    import matplotlib

    metadata = {".png": {"Software": None}, ".svg": {"Date": None}}[path.suffix]
    with matplotlib.rc_context({"svg.hashsalt": "segdeploy", "font.size": 10}):
        chart = draw(alignment)
        with atomic_writer(path) as stream:
            chart.savefig(stream, format=path.suffix[1:], dpi=RESOLUTION, metadata=metadata)


def draw(alignment: CurveAlignment) -> Figure:
    """Above the two curves, below how far they are apart, with its mean."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    reference, candidate = alignment.reference, alignment.candidate
    chart = Figure(figsize=SIZE_INCHES, dpi=RESOLUTION, layout="constrained")
    FigureCanvasAgg(chart)
    curves, distance = chart.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for curve, colour, style in (
        (reference, REFERENCE_COLOUR, "-"),
        (candidate, CANDIDATE_COLOUR, "--"),
    ):
        curves.plot(
            curve.positions, curve.values, style, color=colour, label=shown_path(curve.source)
        )
    gaps = np.abs(np.subtract(candidate.values, reference.values))
    distance.plot(reference.positions, gaps, color=CANDIDATE_COLOUR)
    distance.axhline(
        alignment.mean_absolute,
        color="#666666",
        linewidth=0.8,
        linestyle=":",
        label=f"mean {alignment.mean_absolute:.3g}",
    )
    curves.set_ylabel(reference.column)
    distance.set_ylabel("absolute difference")
    distance.set_xlabel(reference.key)
    for axes in (curves, distance):
        axes.legend(frameon=False, fontsize=9)
        axes.grid(visible=True, color="#dddddd", linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    verdict = "aligned" if alignment.passed else "NOT aligned"
    chart.suptitle(
        f"{verdict}: mean relative error {alignment.mean_relative:.3g} (limit "
        f"{alignment.max_relative:g}), mean absolute error {alignment.mean_absolute:.3g} (limit "
        f"{alignment.max_absolute:g})",
        fontsize=10,
    )
    return chart
