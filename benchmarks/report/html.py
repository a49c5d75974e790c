"""``report.html``: one self-contained file from the template beside this module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from segdeploy.benchmarks.literature.file import PUBLISHED, PUBLISHED_COST_NOTE, PUBLISHED_NOTE
from segdeploy.benchmarks.report.chart_layers import LAYERS, histograms, layer_sqnr
from segdeploy.benchmarks.report.chart_speed import (
    accuracy_latency,
    batch_sweep,
    latency_distribution,
)
from segdeploy.benchmarks.report.classes import CLASSES_NOTE, classes_of_rows, matrices
from segdeploy.benchmarks.report.layers import debug_rows, excluded_percent, layer_table
from segdeploy.benchmarks.report.records import Report
from segdeploy.benchmarks.report.rows import (
    chosen_parity,
    chosen_timing,
    compared_rows,
    failed_candidates,
    float_layers,
    iou_rows,
    timed_rows,
    unmeasured,
)
from segdeploy.benchmarks.report.scores import (
    PER_IMAGE,
    PER_IMAGE_NOTE,
    POOLED,
    field_note,
    per_image_rows,
    pooled_rows,
)
from segdeploy.benchmarks.report.series import scored, series_of
from segdeploy.benchmarks.report.templates import render
from segdeploy.benchmarks.report.verdict import headline, telling_rows
from segdeploy.benchmarks.speed.timing_noise import noise_lines

PANELS = (
    ("Input", "input_png_base64"),
    ("Truth", "truth_png_base64"),
    ("Reference", "reference_png_base64"),
    ("Candidate", "candidate_png_base64"),
    ("Disagreement", "disagreement_png_base64"),
)


@dataclass(frozen=True, kw_only=True)
class PictureRow:
    """One of the worst images with its scores, and its pictures as (label, PNG in base64)."""

    name: str
    candidate: str
    candidate_iou: float
    change: float
    panels: tuple[tuple[str, str], ...]


def html(report: Report, *, word: str) -> str:
    """The page.

    Args:
        report: what was measured.
        word: the verdict in capitals.
    """
    return render(
        "report.html.j2",
        report=report,
        generator=f"{report.tool.name} {report.tool.version}",
        word=word,
        headline=headline(report),
        telling=telling_rows(report),
        failed=failed_candidates(report.parity),
        compared=compared_rows(report.parity),
        score_tables={
            "pooled": {"columns": POOLED, "rows": pooled_rows(report)},
            "per_image": {"columns": PER_IMAGE, "rows": per_image_rows(report)},
        },
        score=report.parity.score.shown if report.parity else "IoU",
        classes=classes_of_rows(report),
        classes_note=CLASSES_NOTE,
        matrices=matrices(report),
        per_image_note=PER_IMAGE_NOTE,
        field_note=field_note(report.parity.field_of_view_percent if report.parity else None),
        timed=timed_rows(report.benchmark),
        noise=noise_lines(report.benchmark),
        float_layers=float_layers(report),
        best={"parity": chosen_parity(report), "benchmark": chosen_timing(report)},
        skipped=unmeasured(report),
        iou_rows=iou_rows(report),
        published_note=PUBLISHED_NOTE,
        published_cost_note=PUBLISHED_COST_NOTE,
        published=PUBLISHED.get(report.model.arch),
        layers=debug_rows(report),
        layers_drawn=LAYERS,
        debug_share=excluded_percent(report),
        layer_table=layer_table(report),
        pictures=picture_rows(report),
        series=series_of(report),
        **charts_of(report),
    )


def charts_of(report: Report) -> dict[str, Any]:
    """Every chart, by the name the template knows it under; ``None`` where there is none."""
    return {
        "charts": {
            "accuracy_latency": drawn(accuracy_latency(report)),
            "latency_distribution": drawn(latency_distribution(report)),
            "batch_sweep": drawn(batch_sweep(report)),
            "layer_sqnr": drawn(layer_sqnr(report)),
        },
        "histograms": {name: drawn(chart) for name, chart in histograms(report).items()},
    }


def picture_rows(report: Report) -> list[PictureRow]:
    """The worst images with their scores and pictures; none where they were not drawn."""
    scores = {
        (name, image.name): image
        for name, row in scored(report).items()
        for image in row.worst_images
    }
    rows = []
    for image in report.worst_images or ():
        found = scores[image.candidate, image.name]
        rows.append(
            PictureRow(
                name=image.name,
                candidate=image.candidate,
                candidate_iou=found.candidate_iou,
                change=found.change,
                panels=tuple((label, getattr(image, name)) for label, name in PANELS),
            )
        )
    return rows


def drawn(chart: str | None) -> Markup | None:
    """A chart as it is: its texts were escaped when it was drawn."""
    return None if chart is None else Markup(chart)
