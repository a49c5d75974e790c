"""The report: one dict in, ``report.json``, ``report.md`` and ``report.html`` out.

``report.schema.json`` beside this file is the contract of the dict. Both pages are made from the
JSON as it was written, so ``segdeploy report DIR`` gives the same bytes as the run itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

from benchmarks.report_markdown import markdown
from benchmarks.report_published import PUBLISHED, PUBLISHED_COST_NOTE, PUBLISHED_NOTE
from benchmarks.report_rows import (
    ABSENT,
    chosen_row,
    compared_rows,
    figure,
    float_layer_rows,
    interval,
    iou_rows,
    section_rows,
    skipped_rows,
    timed_rows,
)
from benchmarks.report_scores import (
    PER_IMAGE,
    PER_IMAGE_NOTE,
    POOLED,
    field_note,
    per_image_rows,
    pooled_rows,
)
from deploy.errors import InputError, RunError

SCHEMA_VERSION = 1


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
        word, verdict = _word(written), _reasons(written)
        pages = {
            "report.json": text,
            "report.md": markdown(written, word=word, verdict=verdict),
            "report.html": _html(written, word=word, verdict=verdict),
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
    return f"{_word(report)}. {_reasons(report)}"


def _require_version(report: object, *, source: str) -> None:
    found = report.get("schema_version") if isinstance(report, dict) else None
    if found != SCHEMA_VERSION or isinstance(found, bool):
        raise InputError(
            f"{source} has schema_version {found!r}, expected {SCHEMA_VERSION}; "
            "`segdeploy run` makes it again, or read it with the version that wrote it"
        )


def _word(report: dict[str, Any]) -> str:
    return {True: "PASS", False: "FAIL", None: "NOT JUDGED"}[report["passed"]]


def _reasons(report: dict[str, Any]) -> str:
    return f"{_judgement(report)} {_advice(report)}"


def _judgement(report: dict[str, Any]) -> str:
    """How many candidates keep the budget; those that do not, or else the lowest."""
    parity = report["parity"]
    rows = section_rows(report, "parity")
    judged = [row for row in rows if row["passed"] is not None]
    if not judged:
        return "No candidate was compared, so what the conversion cost is unknown."
    failed = [row for row in judged if not row["passed"]]
    shown = failed or [min(judged, key=lambda row: float(row["delta_iou_percentage_points"]))]
    changes = "; ".join(_change(row) for row in shown)
    skipped = ", ".join(row["name"] for row in rows if row["skipped"] is not None)
    return (
        f"{len(judged) - len(failed)} of {len(judged)} candidates keep the budget of at most "
        f"{parity['max_drop_percentage_points']:g} percentage points of IoU below "
        f"{parity['reference']} on {parity['images']} images. "
        f"{'Not kept' if failed else 'Lowest change'}: {changes}."
        + (f" Not measured: {skipped}." if skipped else "")
    )


def _change(row: dict[str, Any]) -> str:
    """What happened to a row: why it did not pass, or by how much it changed."""
    if row.get("failures"):
        return f"{row['name']}, {'; '.join(row['failures'])}"
    return (
        f"{row['name']}, {figure(row['delta_iou_percentage_points'], 'points')}"
        f" (95 % interval {interval(row['ci95_percentage_points'])})"
    )


def _advice(report: dict[str, Any]) -> str:
    """What to deploy, with its speed and size where they were measured."""
    chosen = report["recommendation"]
    if chosen is None:
        return "No artefact is recommended."
    advice = f"Deploy {chosen['file']} with {chosen['runtime']}: {chosen['reason'].rstrip('.')}."
    row = chosen_row(report, "benchmark")
    if row is None:
        return advice
    advice += f" At batch {row['batch']} one call takes {figure(row['p50_ms'], 'fixed')} ms (p50)"
    if row["speedup"] is not None:
        advice += f", {figure(row['speedup'], 'fixed')} times the speed of PyTorch"
    if row["file_bytes"] is not None:
        advice += f"; the file has {figure(row['file_bytes'], 'mega')} MB"
    return f"{advice}."


def _html(report: dict[str, Any], *, word: str, verdict: str) -> str:
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
        word=word,
        verdict=verdict,
        compared=compared_rows(report),
        score_tables={
            "pooled": {"columns": POOLED, "rows": pooled_rows(report)},
            "per_image": {"columns": PER_IMAGE, "rows": per_image_rows(report)},
        },
        per_image_note=PER_IMAGE_NOTE,
        field_note=field_note(report),
        timed=timed_rows(report),
        float_layers=float_layer_rows(report),
        best={section: chosen_row(report, section) for section in ("parity", "benchmark")},
        skipped=skipped_rows(report),
        iou_rows=iou_rows(report),
        published_note=PUBLISHED_NOTE,
        published_cost_note=PUBLISHED_COST_NOTE,
        published=PUBLISHED.get(report["model"]["arch"]),
        absent=ABSENT,
    )
