"""``report.md``: the facts of ``report.html``, shorter, as GitHub tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from segdeploy.benchmarks.literature.file import PUBLISHED_COST_NOTE, PUBLISHED_NOTE
from segdeploy.benchmarks.report.layers import debug_rows, slowest_rows
from segdeploy.benchmarks.report.rows import (
    ABSENT,
    compared_rows,
    figure,
    float_layer_rows,
    iou_rows,
    skipped_rows,
    timed_rows,
    worst_rows,
)
from segdeploy.benchmarks.report.scores import (
    PER_IMAGE,
    PER_IMAGE_NOTE,
    POOLED,
    field_note,
    per_image_rows,
    pooled_rows,
)
from segdeploy.benchmarks.speed.timing_noise import noise_lines

Columns = tuple[tuple[str, str, str | None], ...]
"""Heading, dotted path into the row, and a key of ``FIGURES`` or ``None`` for text."""

ACCURACY: Columns = (
    ("Candidate", "name", None),
    ("Verdict", "verdict", None),
    ("IoU %", "scores.iou", "percent"),
    ("Change, points", "delta_iou_percentage_points", "points"),
    ("95 % interval", "interval", None),
    ("% of reference", "reference_iou_kept_percent", "percent"),
    ("MLPerf line", "line", None),
    ("Pixels changed %", "disagreement_percent", "share"),
    ("Runs in", "precision_executed", None),
)
SPEED: Columns = (
    ("Candidate", "name", None),
    ("Batch", "batch", "count"),
    ("p50 ms", "p50_ms", "fixed"),
    ("p99 ms", "p99_ms", "fixed"),
    ("Images/s", "images_per_s", "rate"),
    ("Times PyTorch", "speedup", "fixed"),
    ("Size MB", "file_bytes", "mega"),
    ("Int8 % of MACs", "int8_mac_share", "of_all"),
    ("Runs in", "precision_executed", None),
)
START: Columns = (
    ("Candidate", "name", None),
    ("Mode", "hint", None),
    ("Batch", "batch", "count"),
    ("Threads", "threads", "count"),
    ("Streams", "streams", "count"),
    ("Load s", "load_s", "fixed"),
    ("First call ms", "first_inference_s", "milli"),
    ("Peak memory MB", "peak_bytes", "memory"),
)
FLOAT: Columns = (
    ("Candidate", "name", None),
    ("Not in int8", "count", None),
    ("Which", "layers", None),
)
LAYERS: Columns = (
    ("Layer", "name", None),
    ("Alone dB", "sqnr_alone_db", "rate"),
    ("Pixels changed %", "disagreement_alone_percent", "share"),
    ("Accumulated dB", "sqnr_accumulated_db", "rate"),
    ("Clipped %", "clipped_percent", "small"),
    ("Weight spread", "weight_range_spread", "rate"),
    ("MACs %", "macs_percent", "percent"),
    ("Most from", "cause", None),
)
TIMES: Columns = (
    ("Candidate", "name", None),
    ("Together \u00b5s", "total_us", "count"),
    ("Slowest layers", "layers", None),
    ("Not in layers %", "others_percent", "rate"),
)
STAGES: Columns = (
    ("Stage", "name", None),
    ("Status", "status", None),
    ("Seconds", "seconds", "fixed"),
    ("Max difference", "check.max_abs_difference", "tiny"),
    ("SQNR dB", "check.sqnr_db", "rate"),
    ("Pixels changed %", "check.disagreement_percent", "share"),
    ("Artefact", "artifact.file", None),
)
WORST: Columns = (
    ("Image", "image", None),
    ("Candidate", "name", None),
    ("Reference IoU %", "reference_iou", "percent"),
    ("Candidate IoU %", "candidate_iou", "percent"),
)
SKIPPED: Columns = (("Where", "where", None), ("What", "name", None), ("Reason", "reason", None))
IOU: Columns = (
    ("IoU % at 96x96", "source", None),
    ("fp32", "fp32", None),
    ("fp16", "fp16", None),
    ("int8", "int8", None),
    ('"GFLOPs" by the published count', "gflops", None),
)


SHOWN_LAYERS = 10
"""Layers in the table of what int8 costs."""

SLOWEST = 5
"""Layers named of each candidate that was profiled."""


def markdown(report: dict[str, Any], *, word: str, verdict: str) -> str:
    """The page as one text.

    Args:
        report: what ``report.schema.json`` describes.
        word: the verdict in capitals.
        verdict: the reasons for it, in plain text.
    """
    timed = timed_rows(report)
    noise = ". ".join(noise_lines(report["benchmark"]))
    sections = {
        "Accuracy": _noted(table(ACCURACY, compared_rows(report)), field_note(report)),
        "All scores, in percent": table(POOLED, pooled_rows(report)),
        "Scores of each image, averaged": _noted(
            table(PER_IMAGE, per_image_rows(report)), PER_IMAGE_NOTE
        ),
        "Speed and size": _noted(table(SPEED, timed), noise),
        "Load and memory": table(START, timed),
        "Layers not in int8": table(FLOAT, float_layer_rows(report)),
        "Int8 by layer, worst first": _layers_text(report),
        "Time by layer": table(TIMES, slowest_rows(report, SLOWEST)),
        "Stages": table(STAGES, report["stages"]),
        "Cost": _cost_text(report),
        "Published figures": f"{table(IOU, iou_rows(report))}\n\n{PUBLISHED_NOTE}",
        "Worst images": table(WORST, worst_rows(report, 6)),
        "Not measured": table(SKIPPED, skipped_rows(report)),
        "What each score means": _definitions_text(report["definitions"]),
        "Calibration": _calibration_text(report["calibration"]),
        "Environment": _environment_text(report["environment"]),
        "Reproduce": "\n".join(f"    {line}" for line in report["command"].splitlines()),
    }
    return "\n\n".join(
        [
            f"# {escape(report['model']['name'])}: deployment report",
            f"**{word}.** {escape(verdict)}",
            *(f"## {title}\n\n{text}" for title, text in sections.items() if text),
            f"{report['tool']['name']} {report['tool']['version']}, {report['created_utc']}. "
            "Every figure, raw samples included, is in report.json.\n",
        ]
    )


def table(columns: Columns, rows: Iterable[dict[str, Any]]) -> str:
    """A GitHub table; empty text where there are no rows."""
    lines = [[escape(_cell(row, key, kind)) for _, key, kind in columns] for row in rows]
    if not lines:
        return ""
    head = [label for label, _, _ in columns]
    rule = ["---" if kind is None else "---:" for _, _, kind in columns]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines])


def _noted(text: str, note: str) -> str:
    """A table with its note; nothing where there is no table."""
    return f"{text}\n\n{escape(note)}" if text and note else text


def _cell(row: dict[str, Any], key: str, kind: str | None) -> str:
    """The value at a dotted path as text; a null on the way is a null at its end."""
    value: Any = row
    for part in key.split("."):
        value = None if value is None else value[part]
    if value is None:
        return ABSENT
    return str(value) if kind is None else figure(value, kind)


def escape(text: str) -> str:
    """Text that means itself in Markdown: no markup, no table cell boundary, one line."""
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", flat)


def _cost_text(report: dict[str, Any]) -> str:
    cost = report["cost"]
    if cost is None:
        return ""
    shape = "x".join(str(side) for side in cost["input_shape"])
    text = (
        f"At {shape}: {figure(cost['macs'], 'giga')} GMACs, {figure(cost['flops'], 'giga')} GFLOPs "
        f"(2 x MACs), {figure(cost['parameters'], 'count')} parameters."
    )
    if cost["published_gflops"] is None:
        return text
    return (
        f'{text} Published as {figure(cost["published_gflops"], "share")} "GFLOPs", reproduced as '
        f"{figure(cost['published_gflops_reproduced'], 'share')}: {PUBLISHED_COST_NOTE}"
    )


def _layers_text(report: dict[str, Any]) -> str:
    rows = debug_rows(report)
    worst = table(LAYERS, rows[:SHOWN_LAYERS])
    if not worst:
        return ""
    keep = " ".join(report["debug"]["exclude"])
    more = f"{SHOWN_LAYERS} of {len(rows)} layers. " if len(rows) > SHOWN_LAYERS else ""
    advice = f"To keep the worst in float: --exclude {keep}" if keep else ""
    return _noted(worst, f"{more}{advice}")


def _definitions_text(definitions: dict[str, str]) -> str:
    return "\n".join(f"- {escape(name)}: {escape(text)}" for name, text in definitions.items())


def _calibration_text(calibration: dict[str, Any] | None) -> str:
    if calibration is None:
        return ""
    return escape(
        f"{calibration['method']}, {figure(calibration['num_bins'], 'count')} bins, "
        f"{calibration['tensors']} tensors ({calibration['fallbacks']} fell back to min-max), "
        f"{calibration['images']} images, {figure(calibration['seconds'], 'fixed')} s"
    )


def _environment_text(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{k} {v or 'not installed'}" for k, v in machine["versions"].items())
    return escape(
        f"{machine['cpu'] or 'unknown processor'}, {figure(machine['cores'], 'count')} cores, "
        f"{figure(machine['memory_bytes'], 'gibi')} GiB, {' '.join(machine['isa'])}; "
        f"{machine['os']}, Python {machine['python']}; {versions}"
    )
