"""``report.html``: one self-contained file from the template beside this module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from segdeploy.benchmarks.literature.file import PUBLISHED, PUBLISHED_COST_NOTE, PUBLISHED_NOTE
from segdeploy.benchmarks.report.chart_layers import LAYERS, histograms, layer_sqnr
from segdeploy.benchmarks.report.chart_speed import (
    accuracy_latency,
    batch_sweep,
    latency_distribution,
)
from segdeploy.benchmarks.report.layers import debug_rows, excluded_percent, layer_table
from segdeploy.benchmarks.report.rows import (
    ABSENT,
    chosen_row,
    compared_rows,
    failed_rows,
    figure,
    float_layer_rows,
    iou_rows,
    skipped_rows,
    timed_rows,
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
from segdeploy.benchmarks.report.verdict import headline, telling_rows
from segdeploy.benchmarks.speed.timing_noise import noise_lines

PANELS = (
    ("Input", "input_png_base64"),
    ("Truth", "truth_png_base64"),
    ("Reference", "reference_png_base64"),
    ("Candidate", "candidate_png_base64"),
    ("Disagreement", "disagreement_png_base64"),
)


def html(report: dict[str, Any], *, word: str) -> str:
    """The page.

    Args:
        report: what ``report.schema.json`` describes.
        word: the verdict in capitals.
    """
    return render(
        "report.html.j2",
        report=report,
        generator=f"{report['tool']['name']} {report['tool']['version']}",
        word=word,
        headline=headline(report),
        telling=telling_rows(report),
        failed=failed_rows(report, "parity"),
        compared=compared_rows(report),
        score_tables={
            "pooled": {"columns": POOLED, "rows": pooled_rows(report)},
            "per_image": {"columns": PER_IMAGE, "rows": per_image_rows(report)},
        },
        per_image_note=PER_IMAGE_NOTE,
        field_note=field_note(report),
        timed=timed_rows(report),
        noise=noise_lines(report["benchmark"]),
        float_layers=float_layer_rows(report),
        best={section: chosen_row(report, section) for section in ("parity", "benchmark")},
        skipped=skipped_rows(report),
        iou_rows=iou_rows(report),
        published_note=PUBLISHED_NOTE,
        published_cost_note=PUBLISHED_COST_NOTE,
        published=PUBLISHED.get(report["model"]["arch"]),
        layers=debug_rows(report),
        layers_drawn=LAYERS,
        debug_share=excluded_percent(report),
        layer_table=layer_table(report),
        pictures=picture_rows(report),
        series=series_of(report),
        **charts_of(report),
    )


def render(template: str, **values: Any) -> str:
    """A template beside this module, filled in; every value is escaped unless it was drawn here."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["figure"] = figure
    return environment.get_template(template).render(absent=ABSENT, **values)


def charts_of(report: dict[str, Any]) -> dict[str, Any]:
    """Every chart, by the name the template knows it under; ``None`` where there is none."""
    return {
        "charts": {
            "accuracy_latency": _drawn(accuracy_latency(report)),
            "latency_distribution": _drawn(latency_distribution(report)),
            "batch_sweep": _drawn(batch_sweep(report)),
            "layer_sqnr": _drawn(layer_sqnr(report)),
        },
        "histograms": {name: _drawn(chart) for name, chart in histograms(report).items()},
    }


def picture_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The worst images with their scores and pictures; none where they were not drawn."""
    scores = {
        (name, image["name"]): image
        for name, row in scored(report).items()
        for image in row["worst_images"]
    }
    rows = []
    for image in report.get("worst_images") or ():
        found = scores[image["candidate"], image["name"]]
        rows.append(
            {
                "name": image["name"],
                "candidate": image["candidate"],
                "candidate_iou": found["candidate_iou"],
                "change": found["candidate_iou"] - found["reference_iou"],
                "panels": [{"label": label, "png": image[key]} for label, key in PANELS],
            }
        )
    return rows


def _drawn(chart: str | None) -> Markup | None:
    """A chart as it is: its texts were escaped when it was drawn."""
    return None if chart is None else Markup(chart)
