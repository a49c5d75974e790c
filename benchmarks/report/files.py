"""The report: one record in, ``report.json``, ``report.md`` and ``report.html`` out.

Both pages are made from the JSON as it was written, so ``segdeploy report DIR`` gives the same
bytes as the run itself.
"""

from __future__ import annotations

import json
from pathlib import Path

from segdeploy.benchmarks.report.html import html
from segdeploy.benchmarks.report.markdown import markdown
from segdeploy.benchmarks.report.records import SCHEMA_VERSION, Report
from segdeploy.benchmarks.report.verdict import reasons, verdict_text, word_of
from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.files import write_atomic
from segdeploy.calibration.json_record import json_of, record_of
from segdeploy.calibration.json_text import parse_json
from segdeploy.deploy.system.errors import InputError, RunError

__all__ = ["PAGES", "pages_of", "read_report", "verdict_text", "write_pages", "write_report"]

PAGES = ("report.json", "report.md", "report.html")


def write_report(report: Report, output: Path) -> None:
    """Write the three files; each appears whole or not at all.

    Args:
        report: what was measured.
        output: the folder, made if missing.

    Raises:
        RunError: the report holds what its file cannot: NaN, or a value out of its range.
        OSError: the folder cannot be written.
    """
    pages = pages_of(report)
    output.mkdir(parents=True, exist_ok=True)
    for name, content in pages.items():
        write_atomic(output / name, content)


def write_pages(report: Report, output: Path) -> None:
    """Write what is to be read again from a ``report.json``, which stays as it is.

    Args:
        report: as it was read.
        output: the folder.

    Raises:
        OSError: the folder cannot be written.
    """
    pages = pages_of(report)
    for name in PAGES[1:]:
        write_atomic(output / name, pages[name])


def pages_of(report: Report) -> dict[str, bytes]:
    """The bytes of each of ``PAGES``.

    Args:
        report: what was measured.

    Raises:
        RunError: the report holds what its file cannot: NaN, or a value out of its range.
    """
    try:
        text = json.dumps(json_of(report), indent=2, sort_keys=True, allow_nan=False) + "\n"
        written = record_of(json.loads(text), Report, whole="the report")
    except (TypeError, ValueError) as error:
        raise RunError(f"the report cannot be written as JSON: {error}") from error
    word, verdict = word_of(written), reasons(written)
    pages = (text, markdown(written, word=word, verdict=verdict), html(written, word=word))
    return {
        name: page.encode("utf-8", "backslashreplace")
        for name, page in zip(PAGES, pages, strict=True)
    }


def read_report(path: Path) -> Report:
    """Read a report back, of this version or an older one.

    Args:
        path: ``report.json``, or the folder that holds it.

    Raises:
        InputError: missing, not JSON, of another schema version, or not what a run wrote.
    """
    path = path / "report.json" if path.is_dir() else path
    try:
        content = parse_json(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path} does not exist; expected the output folder of `segdeploy run`"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is not readable as JSON ({error}); `segdeploy run` makes it again"
        ) from error
    _require_version(content, source=str(path))
    try:
        return record_of(content, Report, whole="the report")
    except CalibrationError as fault:
        raise InputError(
            f"{path} is not the report that a run wrote: {fault}; `segdeploy run` makes it again"
        ) from fault


def _require_version(report: object, *, source: str) -> None:
    found = report.get("schema_version") if isinstance(report, dict) else None
    if found != SCHEMA_VERSION or isinstance(found, bool):
        raise InputError(
            f"{source} has schema_version {found!r}, expected {SCHEMA_VERSION}; "
            "`segdeploy run` makes it again, or read it with the version that wrote it"
        )
