"""The verb report: the pages of one run written again, or two runs side by side."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.cli.flags import Group, output_flag, overwrite_flag
from segdeploy.cli.inputs import Options, Result
from segdeploy.deploy.system.errors import UsageError

if TYPE_CHECKING:
    from segdeploy.benchmarks.report.compare import ParityChange

log = logging.getLogger(__name__)


def add_flags(verb: Group) -> None:
    """One run to write again, or two to compare."""
    verb.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="output folder of a run, or its report.json; its report.md and report.html are "
        "written again",
    )
    verb.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("A", "B"),
        help="output folders of two runs, the earlier first; compare.md and compare.html say what "
        "changed in accuracy, speed, size and around them",
    )
    output_flag(verb, "with --compare: folder to write (default: segdeploy-compare)", default=None)
    overwrite_flag(verb, "with --compare: the comparison in that folder")


COMPARED = Path("segdeploy-compare")
"""Folder of a comparison where none is given."""


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Write the readable reports again from report.json, or compare two.

    Raises:
        UsageError: neither one run nor two are given, or both.
        InputError: a report cannot be read.
    """
    if (options.folder is None) == (options.compare is None):
        raise UsageError("give one run (segdeploy report DIR), or two with --compare A B")
    if options.compare:
        return _compare(options, *options.compare, output=options.output or COMPARED)
    if options.output:
        raise UsageError("-o goes with --compare; the pages of one run are written beside it")
    from segdeploy.api.report import report
    from segdeploy.benchmarks.report.files import PAGES, verdict_text

    found = report(options.folder)
    folder = options.folder if options.folder.is_dir() else options.folder.parent
    log.info("%s", verdict_text(found))
    log.info("report: %s", folder / PAGES[-1])
    return 0, found


def _compare(options: Options, one: Path, other: Path, *, output: Path) -> Result:
    """Both reports on one page; says the changes in a few lines."""
    from segdeploy.api.report import compare
    from segdeploy.benchmarks.report.compare_page import warnings
    from segdeploy.benchmarks.report.tables import figure

    found = compare(one, other, out=output, overwrite=options.overwrite)
    for warning in warnings(found):
        log.warning("%s", warning)
    for change in found.parity:
        if change.change_percentage_points is not None:
            log.info("%s: IoU %s", change.name, _change(change))
    for row in found.speed:
        if row.p50_ratio is not None:
            ratio = figure(row.p50_ratio, "fixed")
            log.info("%s, batch %d: %s times the latency of A", row.name, row.batch, ratio)
    log.info("compared: %s", output / "compare.html")
    return 0, found


def _change(row: ParityChange) -> str:
    from segdeploy.benchmarks.report.tables import figure, interval

    change = figure(row.change_percentage_points, "points")
    ends = row.ci95_percentage_points
    return f"{change} points" + (f" (95 % interval {interval(ends)})" if ends else "")
