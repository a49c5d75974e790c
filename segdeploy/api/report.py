"""Report: the pages of a run written again, or two runs side by side."""

from __future__ import annotations

import os
from pathlib import Path

from segdeploy.api.outputs import AnyPath
from segdeploy.benchmarks.report.compare import Comparison, compare_reports
from segdeploy.benchmarks.report.compare_page import write_comparison
from segdeploy.benchmarks.report.files import PAGES, read_report, write_pages
from segdeploy.benchmarks.report.records import Report
from segdeploy.deploy.system.checksums import CHECKSUMS, update_checksums
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.only_writer import require_new_in, writing_folder

PAGE = "compare.html"
"""Of a comparison."""

REPORT = PAGES[0]


def report(run: AnyPath) -> Report:
    """Write ``report.md`` and ``report.html`` of a run again, from its ``report.json``.

    Args:
        run: the output folder of a run, or its ``report.json``.

    Returns:
        What the run measured.

    Raises:
        InputError: the report cannot be read.
        UsageError: another process writes to the folder.
        OSError: the pages cannot be written.
    """
    path = Path(run)
    found = read_report(path)
    folder = path if path.is_dir() else path.parent
    with writing_folder(folder):
        write_pages(found, folder)
        if (folder / CHECKSUMS).is_file():
            update_checksums(folder, PAGES[1:])
    return found


def compare(
    before: AnyPath, after: AnyPath, *, out: AnyPath | None = None, overwrite: bool = False
) -> Comparison:
    """Say what changed from one run to another, in accuracy, speed, size and around them.

    Args:
        before: the output folder of a run, or its ``report.json``.
        after: of another.
        out: folder for ``compare.md`` and ``compare.html``; ``None`` writes nothing.
        overwrite: replace the comparison that the folder holds.

    Raises:
        InputError: a report cannot be read.
        UsageError: ``out`` is a file, holds a comparison, or lies in a folder that is sealed, as
            that of a run.
        OSError: the pages cannot be written.
    """
    if out is not None:
        _require_no_run(Path(out))
        require_new_in(Path(out), PAGE, overwrite=overwrite)
        if Path(out).exists() and not Path(out).is_dir():
            raise UsageError(f"-o {out} is a file; give a folder")
    found = compare_reports(read_report(Path(before)), read_report(Path(after)))
    if out is not None:
        write_comparison(found, Path(out))
    return found


def _require_no_run(out: Path) -> None:
    """Refuse a folder in which a page more would break a seal, or mix with a run's.

    Raises:
        UsageError: naming the folder.
    """
    whole = Path(os.path.realpath(out))
    sealed = next((f for f in (whole, *whole.parents) if (f / CHECKSUMS).is_file()), None)
    if sealed is None and (whole / REPORT).exists():
        sealed = whole
    if sealed is not None:
        raise UsageError(
            f"-o {out} lies in {sealed}, which belongs to a run or another finished folder; its "
            "files are listed and sealed. Give a folder of its own"
        )
