"""``report.md``: the facts of ``report.html``, shorter, as GitHub tables."""

from __future__ import annotations

from dataclasses import replace

from segdeploy.benchmarks.literature.file import PUBLISHED_COST_NOTE, PUBLISHED_NOTE
from segdeploy.benchmarks.report.classes import (
    CLASSES,
    CLASSES_NOTE,
    MOST_IN_MARKDOWN,
    classes_of_rows,
    matrices,
)
from segdeploy.benchmarks.report.layers import debug_rows, slowest_layers
from segdeploy.benchmarks.report.records import Report
from segdeploy.benchmarks.report.rows import (
    compared_rows,
    float_layers,
    iou_rows,
    lost_images,
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
from segdeploy.benchmarks.report.tables import Column, Columns
from segdeploy.benchmarks.report.templates import render
from segdeploy.benchmarks.speed.timing_noise import noise_lines

COLUMNS: dict[str, Columns] = {
    "accuracy": (
        Column("Candidate", "row.name"),
        Column("Verdict", "verdict"),
        Column("IoU %", "row.iou", "percent"),
        Column("Change, points", "row.delta_iou_percentage_points", "points"),
        Column("95 % interval", "interval"),
        Column("% of reference", "row.reference_iou_kept_percent", "percent"),
        Column("MLPerf line", "line"),
        Column("Pixels changed %", "row.disagreement_percent", "share"),
        Column("Runs in", "row.precision_executed"),
    ),
    "classes": CLASSES,
    "pooled": POOLED,
    "per_image": PER_IMAGE,
    "speed": (
        Column("Candidate", "name"),
        Column("Batch", "batch", "count"),
        Column("p50 ms", "p50_ms", "fixed"),
        Column("p99 ms", "p99_ms", "fixed"),
        Column("Images/s", "images_per_s", "rate"),
        Column("Times PyTorch", "speedup", "fixed"),
        Column("Size MB", "file_bytes", "mega"),
        Column("Int8 % of MACs", "int8_mac_share", "of_all"),
        Column("Runs in", "precision_executed"),
    ),
    "start": (
        Column("Candidate", "name"),
        Column("Mode", "hint"),
        Column("Batch", "batch", "count"),
        Column("Threads", "threads", "count"),
        Column("Streams", "streams", "count"),
        Column("Load s", "load_s", "fixed"),
        Column("First call ms", "first_inference_s", "milli"),
        Column("Peak memory MB", "peak_bytes", "memory"),
    ),
    "float_layers": (
        Column("Candidate", "name"),
        Column("Not in int8", "count"),
        Column("Which", "layers"),
    ),
    "layers": (
        Column("Layer", "error.name"),
        Column("Alone dB", "error.sqnr_alone_db", "rate"),
        Column("Pixels changed %", "error.disagreement_alone_percent", "share"),
        Column("Accumulated dB", "error.sqnr_accumulated_db", "rate"),
        Column("Clipped %", "error.clipped_percent", "small"),
        Column("Weight spread", "error.weight_range_spread", "rate"),
        Column("MACs %", "macs_percent", "percent"),
        Column("Most from", "error.cause"),
    ),
    "times": (
        Column("Candidate", "name"),
        Column("Together \u00b5s", "total_us", "count"),
        Column("Slowest layers", "layers"),
        Column("Not in layers %", "others_percent", "rate"),
    ),
    "stages": (
        Column("Stage", "name"),
        Column("Status", "status"),
        Column("Seconds", "seconds", "fixed"),
        Column("Max difference", "check.max_abs_difference", "tiny"),
        Column("SQNR dB", "check.sqnr_db", "rate"),
        Column("Pixels changed %", "check.disagreement_percent", "share"),
        Column("Artefact", "artifact.file"),
    ),
    "iou": (
        Column("IoU % at 96x96", "source"),
        Column("fp32", "fp32"),
        Column("fp16", "fp16"),
        Column("int8", "int8"),
        Column('"GFLOPs" by the published count', "gflops"),
    ),
    "lost_images": (
        Column("Image", "image"),
        Column("Candidate", "name"),
        Column("Reference IoU %", "reference_iou", "percent"),
        Column("Candidate IoU %", "candidate_iou", "percent"),
    ),
    "unmeasured": (
        Column("Where", "where"),
        Column("What", "name"),
        Column("Reason", "reason"),
    ),
}

SHOWN_LAYERS = 10
"""Layers in the table of what int8 costs."""

SLOWEST = 5
"""Layers named of each candidate that was profiled."""

LOST_IMAGES = 6
"""In the table of the worst, over all candidates."""


def markdown(report: Report, *, word: str, verdict: str) -> str:
    """The page as one text.

    Args:
        report: what was measured.
        word: the verdict in capitals.
        verdict: the reasons for it, in plain text.
    """
    score = report.parity.score.shown if report.parity else "IoU"
    return render(
        "report.md.j2",
        report=report,
        word=word,
        verdict=verdict,
        columns=COLUMNS
        | {
            "accuracy": _of_score(COLUMNS["accuracy"], score),
            "speed": _speed_columns(report),
        },
        score=score,
        classes=classes_of_rows(report),
        classes_note=CLASSES_NOTE,
        looks=report.parity.classes if report.parity else (),
        matrices=[each for each in matrices(report) if len(each.names) <= MOST_IN_MARKDOWN],
        compared=compared_rows(report.parity),
        field_note=field_note(report.parity.field_of_view_percent if report.parity else None),
        pooled=pooled_rows(report),
        per_image=per_image_rows(report),
        per_image_note=PER_IMAGE_NOTE,
        timed=timed_rows(report.benchmark),
        noise=noise_lines(report.benchmark),
        float_layers=float_layers(report),
        layers=debug_rows(report),
        shown_layers=SHOWN_LAYERS,
        slowest=slowest_layers(report, SLOWEST),
        published_cost_note=PUBLISHED_COST_NOTE,
        iou_rows=iou_rows(report),
        published_note=PUBLISHED_NOTE,
        lost_images=lost_images(report, LOST_IMAGES),
        skipped=unmeasured(report),
    )


def _speed_columns(report: Report) -> Columns:
    """What speeds are compared with stands above them, unless it is PyTorch."""
    if report.model.source != "onnx":
        return COLUMNS["speed"]
    heading = "Times the reference"
    return tuple(
        replace(column, heading=heading) if column.path == "speedup" else column
        for column in COLUMNS["speed"]
    )


def _of_score(columns: Columns, score: str) -> Columns:
    """Columns headed by the score that is judged."""
    return tuple(
        replace(column, heading=f"{score} %") if column.path == "row.iou" else column
        for column in columns
    )
