"""The report: one dict in, ``report.json``, ``report.md`` and ``report.html`` out.

``report.schema.json`` beside this file is the contract of the dict. Both pages are made from the
JSON as it was written, so ``segdeploy report DIR`` gives the same bytes as the run itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from segdeploy.benchmarks.report.html import html
from segdeploy.benchmarks.report.markdown import markdown
from segdeploy.benchmarks.report.records import SCHEMA_VERSION, Report
from segdeploy.benchmarks.report.schema import first_fault
from segdeploy.benchmarks.report.verdict import reasons, verdict_text, word_of
from segdeploy.calibration.files import write_atomic
from segdeploy.calibration.json_record import record_of
from segdeploy.calibration.json_text import parse_json
from segdeploy.deploy.system.errors import InputError, RunError

__all__ = [
    "PAGES",
    "SCHEMA_VERSION",
    "load_report",
    "pages_of",
    "read_report",
    "verdict_text",
    "write_report",
]

PAGES = ("report.json", "report.md", "report.html")


def write_report(report: dict[str, Any], output: Path) -> None:
    """Write the three files; each appears whole or not at all.

    Args:
        report: what ``report.schema.json`` describes.
        output: the folder, made if missing.

    Raises:
        InputError, RunError: as ``pages_of``.
        OSError: the folder cannot be written.
    """
    pages = pages_of(report)
    output.mkdir(parents=True, exist_ok=True)
    for name, content in pages.items():
        write_atomic(output / name, content)


def pages_of(report: dict[str, Any]) -> dict[str, bytes]:
    """The bytes of each of ``PAGES``.

    Args:
        report: what ``report.schema.json`` describes.

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
        word, verdict = word_of(written), reasons(written)
        markdown_page = markdown(written, word=word, verdict=verdict)
        pages = dict(zip(PAGES, (text, markdown_page, html(written, word=word)), strict=True))
    except (KeyError, TypeError, AttributeError, UndefinedError) as error:
        raise InputError(
            f"the report does not have the shape of schema version {SCHEMA_VERSION} ({error!r}); "
            "benchmarks/report/report.schema.json describes it; `segdeploy run` makes a whole one"
        ) from error
    return {name: page.encode("utf-8", "backslashreplace") for name, page in pages.items()}


def load_report(path: Path) -> dict[str, Any]:
    """Read a report back.

    Args:
        path: ``report.json``, or the folder that holds it.

    Raises:
        InputError: missing, not JSON, of another schema version, or not as the schema says.
    """
    path = path / "report.json" if path.is_dir() else path
    try:
        report: dict[str, Any] = parse_json(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path} does not exist; expected the output folder of `segdeploy run`"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is not readable as JSON ({error}); `segdeploy run` makes it again"
        ) from error
    _require_version(report, source=str(path))
    fault = first_fault(report)
    if fault is not None:
        raise InputError(
            f"{path} is not the report that a run wrote: {fault}; `segdeploy run` makes it again"
        )
    return report


def read_report(path: Path) -> Report:
    """Read a report back.

    Args:
        path: ``report.json``, or the folder that holds it.

    Raises:
        InputError: missing, not JSON, of another schema version, or not what a run wrote.
    """
    return record_of(load_report(path), Report, whole="the report")


def _require_version(report: object, *, source: str) -> None:
    found = report.get("schema_version") if isinstance(report, dict) else None
    if found != SCHEMA_VERSION or isinstance(found, bool):
        raise InputError(
            f"{source} has schema_version {found!r}, expected {SCHEMA_VERSION}; "
            "`segdeploy run` makes it again, or read it with the version that wrote it"
        )
