"""The report: one dict in, ``report.json``, ``report.md`` and ``report.html`` out.

``report.schema.json`` beside this file is the contract of the dict. Both pages are made from the
JSON as it was written, so ``segdeploy report DIR`` gives the same bytes as the run itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

from deploy.errors import InputError, RunError

SCHEMA_VERSION = 1

ABSENT = "\N{EN DASH}"
"""Shown for a null: not measured, or not applicable."""

FIGURES: dict[str, tuple[float, str]] = {
    "percent": (1, ".2f"),
    "share": (1, ".3f"),
    "points": (1, "+.3f"),
    "fixed": (1, ".2f"),
    "rate": (1, ",.1f"),
    "tiny": (1, ".1e"),
    "count": (1, ",.0f"),
    "mega": (1e-6, ",.2f"),
    "giga": (1e-9, ",.3f"),
    "gibi": (2.0**-30, ".1f"),
}
"""How a figure is shown: factor, then format. The one place that decides on digits."""


class Published(NamedTuple):
    """The source tables at 96x96: IoU in percent, and the "GFLOPs" their calculator printed."""

    network: str
    fp32: float
    fp16: float
    int8: float
    gflops: float
    rule: str


PUBLISHED = {
    "unet_plus_plus": Published(
        network="UNet++",
        fp32=84.164,
        fp16=83.179,
        int8=83.052,
        gflops=10.897,
        rule="convolutions with bias, 2 per BatchNorm element, 11 per upsampled element",
    ),
    "r2u_net": Published(
        network="R2U-Net",
        fp32=77.443,
        fp16=77.421,
        int8=77.417,
        gflops=47.787,
        rule="convolutions without bias, 4 per BatchNorm element, 1 per upsampled element",
    ),
}
PUBLISHED_NOTE = (
    "The published figures come from another split of the data and other weights: they say what "
    "to expect of the network, and no difference to this run can be read from them."
)
PUBLISHED_COST_NOTE = (
    "a calculator's total, which counts more than multiply-adds, times 2 and divided by 0.9e9."
)

Columns = tuple[tuple[str, str, str | None], ...]
"""Heading, dotted path into the row, and a key of ``FIGURES`` or ``None`` for text."""

ACCURACY: Columns = (
    ("Candidate", "name", None),
    ("Verdict", "verdict", None),
    ("IoU %", "scores.iou", "percent"),
    ("Change, points", "delta_iou_percentage_points", "points"),
    ("95 % interval", "interval", None),
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
    ("Runs in", "precision_executed", None),
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


def write_report(report: dict[str, Any], output: Path) -> None:
    """Write the three files; each appears whole or not at all.

    Args:
        report: what ``report.schema.json`` describes.
        output: the folder, made if missing.

    Raises:
        InputError: another schema version, or keys the pages need are missing.
        RunError: the report holds what JSON cannot (NaN, an array).
    """
    _require_version(report, source="the report")
    try:
        text = json.dumps(report, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise RunError(f"the report cannot be written as JSON: {error}") from error
    try:
        written = json.loads(text)
        pages = {
            "report.json": text,
            "report.md": _markdown(written),
            "report.html": _html(written),
        }
    except (KeyError, TypeError, AttributeError, UndefinedError) as error:
        raise InputError(
            f"the report does not have the shape of schema version {SCHEMA_VERSION} ({error!r}); "
            "benchmarks/report.schema.json describes it; `segdeploy run` makes a whole one"
        ) from error
    output.mkdir(parents=True, exist_ok=True)
    for name, content in pages.items():
        temporary = output / f".{name}.tmp"
        temporary.write_bytes(content.encode("utf-8", "backslashreplace"))
        temporary.replace(output / name)


def load_report(path: Path) -> dict[str, Any]:
    """Read a report back.

    Args:
        path: ``report.json``, or the folder that holds it.

    Raises:
        InputError: missing, not JSON, or of another schema version.
    """
    path = path / "report.json" if path.is_dir() else path
    try:
        report: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path} does not exist; expected the output folder of `segdeploy run`"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is not readable as JSON ({error}); `segdeploy run` makes it again"
        ) from error
    _require_version(report, source=str(path))
    return report


def verdict_text(report: dict[str, Any]) -> str:
    """The verdict in one plain paragraph: passed or not and by how much, then what to deploy."""
    return f"{_word(report)}. {_judgement(report)} {_advice(report)}"


def figure(value: float | None, kind: str) -> str:
    """One figure as every page shows it; a zero carries no minus.

    Example:
        >>> figure(9163428, "mega"), figure(-0.0004, "points"), figure(-0.02, "points")
        ('9.16', '+0.000', '-0.020')

    Args:
        value: in the unit of its key in ``report.json``; ``None`` was not measured.
        kind: a key of ``FIGURES``.
    """
    if value is None:
        return ABSENT
    factor, pattern = FIGURES[kind]
    text = format(value * factor, pattern)
    is_zero = float(text.replace(",", "")) == 0
    return text.replace("-", "+" if "+" in pattern else "", 1) if is_zero else text


def _require_version(report: object, *, source: str) -> None:
    found = report.get("schema_version") if isinstance(report, dict) else None
    if found != SCHEMA_VERSION or isinstance(found, bool):
        raise InputError(
            f"{source} has schema_version {found!r}, expected {SCHEMA_VERSION}; "
            "`segdeploy run` makes it again, or read it with the version that wrote it"
        )


def _word(report: dict[str, Any]) -> str:
    return {True: "PASS", False: "FAIL", None: "NOT JUDGED"}[report["passed"]]


def _judgement(report: dict[str, Any]) -> str:
    """How many candidates keep the budget; those that do not, or else the lowest."""
    parity = report["parity"]
    rows = _rows(report, "parity")
    judged = [row for row in rows if row["passed"] is not None]
    if not judged:
        return "No candidate was compared, so what the conversion cost is unknown."
    failed = [row for row in judged if not row["passed"]]
    shown = failed or [min(judged, key=lambda row: float(row["delta_iou_percentage_points"]))]
    changes = "; ".join(
        f"{row['name']}, {figure(row['delta_iou_percentage_points'], 'points')}"
        f" (95 % interval {_interval(row['ci95_percentage_points'])})"
        for row in shown
    )
    skipped = ", ".join(row["name"] for row in rows if row["skipped"] is not None)
    return (
        f"{len(judged) - len(failed)} of {len(judged)} candidates keep the budget of at most "
        f"{parity['max_drop_percentage_points']:g} percentage points of IoU below "
        f"{parity['reference']} on {parity['images']} images. "
        f"{'Outside' if failed else 'Lowest'}: {changes}."
        + (f" Not measured: {skipped}." if skipped else "")
    )


def _advice(report: dict[str, Any]) -> str:
    """What to deploy, with its speed and size where they were measured."""
    chosen = report["recommendation"]
    if chosen is None:
        return "No artefact is recommended."
    advice = f"Deploy {chosen['file']} with {chosen['runtime']}: {chosen['reason'].rstrip('.')}."
    row = _chosen(report, "benchmark")
    if row is None:
        return advice
    advice += f" At batch {row['batch']} one call takes {figure(row['p50_ms'], 'fixed')} ms (p50)"
    if row["speedup"] is not None:
        advice += f", {figure(row['speedup'], 'fixed')} times the speed of PyTorch"
    if row["file_bytes"] is not None:
        advice += f"; the file has {figure(row['file_bytes'], 'mega')} MB"
    return f"{advice}."


def _interval(ends: list[float] | None) -> str:
    """Both ends of an interval in percentage points."""
    return ABSENT if ends is None else " to ".join(figure(end, "points") for end in ends)


def _rows(report: dict[str, Any], section: str) -> list[dict[str, Any]]:
    return list(report[section]["rows"]) if report[section] else []


def _chosen(report: dict[str, Any], section: str) -> dict[str, Any] | None:
    """The measured row of the recommended artefact, the smallest batch first."""
    chosen = report["recommendation"] or {"file": None, "runtime": None}
    rows = [
        row
        for row in _rows(report, section)
        if row["skipped"] is None and all(row[key] == chosen[key] for key in ("file", "runtime"))
    ]
    return min(rows, key=lambda row: int(row.get("batch") or 0), default=None)


def _compared(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The measured rows of parity, with the verdict and the interval in words."""
    words = {True: "pass", False: "FAIL"}
    return [
        row
        | {
            "interval": _interval(row["ci95_percentage_points"]),
            "verdict": words.get(
                row["passed"],
                "reference" if row["name"] == report["parity"]["reference"] else "not judged",
            ),
        }
        for row in _rows(report, "parity")
        if row["skipped"] is None
    ]


def _worst(report: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The images that lost most, over all candidates."""
    rows = [
        image | {"image": image["name"], "name": row["name"]}
        for row in _compared(report)
        for image in row["worst_images"]
    ]
    return sorted(rows, key=lambda row: float(row["candidate_iou"] - row["reference_iou"]))[:count]


def _skipped(report: dict[str, Any]) -> list[dict[str, str]]:
    """Every stage and row that was not measured, with its reason."""
    stages = [
        {"where": "stage", "name": stage["name"], "reason": stage["note"] or ABSENT}
        for stage in report["stages"]
        if stage["status"] == "skipped"
    ]
    return stages + [
        {"where": section, "name": row["name"], "reason": row["skipped"]}
        for section in ("parity", "benchmark")
        for row in _rows(report, section)
        if row["skipped"] is not None
    ]


def _iou_rows(report: dict[str, Any]) -> list[dict[str, str]]:
    """The published table, then this run, one row for each runtime."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in _compared(report):
        runs = found.setdefault(row["runtime"], {"fp32": [], "fp16": [], "int8": []})
        iou = figure(row["scores"]["iou"], "share")
        if iou not in runs.setdefault(row["precision_requested"], []):
            runs[row["precision_requested"]].append(iou)
    counted = report["cost"] and report["cost"]["published_gflops_reproduced"]
    own = [
        {"source": f"This run, {runtime}", "gflops": figure(counted, "share")}
        | {k: ", ".join(v) or ABSENT for k, v in runs.items()}
        for runtime, runs in found.items()
    ]
    published = [
        {"source": f"Published, {entry.network}", "gflops": figure(entry.gflops, "share")}
        | {p: figure(getattr(entry, p), "share") for p in ("fp32", "fp16", "int8")}
        for entry in PUBLISHED.values()
    ]
    return published + own


def _html(report: dict[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["figure"] = figure
    return environment.get_template("report.html.j2").render(
        report=report,
        word=_word(report),
        verdict=f"{_judgement(report)} {_advice(report)}",
        compared=_compared(report),
        best={section: _chosen(report, section) for section in ("parity", "benchmark")},
        skipped=_skipped(report),
        iou_rows=_iou_rows(report),
        published_note=PUBLISHED_NOTE,
        published_cost_note=PUBLISHED_COST_NOTE,
        published=PUBLISHED.get(report["model"]["arch"]),
        absent=ABSENT,
    )


def _markdown(report: dict[str, Any]) -> str:
    """The same facts, shorter, as GitHub tables."""
    measured = [row for row in _rows(report, "benchmark") if row["skipped"] is None]
    sections = {
        "Accuracy": _table(ACCURACY, _compared(report)),
        "Speed and size": _table(SPEED, measured),
        "Stages": _table(STAGES, report["stages"]),
        "Cost": _cost_text(report),
        "Published figures": f"{_table(IOU, _iou_rows(report))}\n\n{PUBLISHED_NOTE}",
        "Worst images": _table(WORST, _worst(report, 6)),
        "Not measured": _table(SKIPPED, _skipped(report)),
        "Calibration": _calibration_text(report["calibration"]),
        "Environment": _environment_text(report["environment"]),
        "Reproduce": "\n".join(f"    {line}" for line in report["command"].splitlines()),
    }
    return "\n\n".join(
        [
            f"# {_escape(report['model']['name'])}: deployment report",
            f"**{_word(report)}.** {_escape(_judgement(report))} {_escape(_advice(report))}",
            *(f"## {title}\n\n{text}" for title, text in sections.items() if text),
            f"{report['tool']['name']} {report['tool']['version']}, {report['created_utc']}. "
            "Every figure, raw samples included, is in report.json.\n",
        ]
    )


def _table(columns: Columns, rows: Iterable[dict[str, Any]]) -> str:
    """A GitHub table; empty text where there are no rows."""
    lines = [[_escape(_cell(row, key, kind)) for _, key, kind in columns] for row in rows]
    if not lines:
        return ""
    head = [label for label, _, _ in columns]
    rule = ["---" if kind is None else "---:" for _, _, kind in columns]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines])


def _cell(row: dict[str, Any], key: str, kind: str | None) -> str:
    """The value at a dotted path as text; a null on the way is a null at its end."""
    value: Any = row
    for part in key.split("."):
        value = None if value is None else value[part]
    if value is None:
        return ABSENT
    return str(value) if kind is None else figure(value, kind)


def _escape(text: str) -> str:
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


def _calibration_text(calibration: dict[str, Any] | None) -> str:
    if calibration is None:
        return ""
    return _escape(
        f"{calibration['method']}, {figure(calibration['num_bins'], 'count')} bins, "
        f"{calibration['tensors']} tensors ({calibration['fallbacks']} fell back to min-max), "
        f"{calibration['images']} images, {figure(calibration['seconds'], 'fixed')} s"
    )


def _environment_text(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{k} {v or 'not installed'}" for k, v in machine["versions"].items())
    return _escape(
        f"{machine['cpu'] or 'unknown processor'}, {figure(machine['cores'], 'count')} cores, "
        f"{figure(machine['memory_bytes'], 'gibi')} GiB, {' '.join(machine['isa'])}; "
        f"{machine['os']}, Python {machine['python']}; {versions}"
    )
