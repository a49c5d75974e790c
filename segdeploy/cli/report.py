"""The verb report: the pages of one run written again, or two runs side by side."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.cli.flags import Group, output_flag, overwrite_flag
from segdeploy.cli.gate import gate_flags, require_gate_files, write_gate
from segdeploy.cli.inputs import GATE_FAILED, Options, Result
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.flag_values import percent

if TYPE_CHECKING:
    from segdeploy.benchmarks.report.compare import Comparison, ParityChange

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
    gate = verb.add_argument_group(
        "gate",
        "exit code 1 where a candidate lost more than the budget of its run or, of two runs,\n"
        "where one of B is proven to be slower than in A",
    )
    gate.add_argument("--gate", action="store_true", help="judge the accuracy of the run, or of B")
    gate.add_argument(
        "--max-slowdown",
        type=percent,
        metavar="PERCENT",
        help="with --compare: how much longer a call may take in B than in A, as 5%%; candidates\n"
        "of both are judged by the whole 95 %% interval of their ratio",
    )
    gate_flags(gate)


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
    judges = options.gate or options.max_slowdown is not None
    if (options.junit or options.summary) and not judges:
        raise UsageError("--junit and --summary hold verdicts; add --gate or --max-slowdown")
    require_gate_files(options)
    if options.compare:
        return _compare(options, *options.compare, output=options.output or COMPARED)
    if options.max_slowdown is not None:
        raise UsageError("--max-slowdown goes with --compare A B; one run has nothing to be slower")
    if options.output:
        raise UsageError("-o goes with --compare; the pages of one run are written beside it")
    from segdeploy.api.report import report
    from segdeploy.benchmarks.report.files import PAGES, verdict_text
    from segdeploy.benchmarks.report.gate import report_checks

    found = report(options.folder)
    folder = options.folder if options.folder.is_dir() else options.folder.parent
    log.info("%s", verdict_text(found))
    log.info("report: %s", folder / PAGES[-1])
    if not options.gate:
        return 0, found
    verdict = verdict_text(found)
    write_gate(options, report_checks(found), judged=found.model.name, verdict=verdict)
    return (0 if found.passed else GATE_FAILED), found


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
    return _judged(options, found, other), found


def _judged(options: Options, found: Comparison, other: Path) -> int:
    """What the gate says of two runs: the exit code.

    Args:
        options: parsed.
        found: both, side by side.
        other: the later one.
    """
    from segdeploy.benchmarks.report.files import read_report
    from segdeploy.benchmarks.report.gate import all_passed, report_checks, speed_checks

    if not options.gate and options.max_slowdown is None:
        return 0
    checks = report_checks(read_report(other)) if options.gate else ()
    if options.max_slowdown is not None:
        checks += speed_checks(found, max_slowdown_percent=options.max_slowdown)
    for check in checks:
        if not check.passed:
            log.warning("%s: %s, %s", check.word, check.name, check.why)
    passed = all_passed(checks)
    verdict = f"{'PASS' if passed else 'FAIL'}: {found.b.name} beside {found.a.name}"
    log.info("%s", verdict)
    write_gate(options, checks, judged=f"{found.b.name}, two runs", verdict=verdict)
    return 0 if passed else GATE_FAILED


def _change(row: ParityChange) -> str:
    from segdeploy.benchmarks.report.tables import figure, interval

    change = figure(row.change_percentage_points, "points")
    ends = row.ci95_percentage_points
    return f"{change} points" + (f" (95 % interval {interval(ends)})" if ends else "")
