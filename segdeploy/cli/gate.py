"""What a continuous integration server reads of a verdict: JUnit XML, and a summary in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.cli.flags import Group
from segdeploy.cli.inputs import Options
from segdeploy.deploy.system.errors import UsageError

if TYPE_CHECKING:
    from segdeploy.benchmarks.report.gate import Check


def gate_flags(verb: Group) -> None:
    """Files for the verdicts."""
    verb.add_argument(
        "--junit",
        type=Path,
        metavar="FILE",
        help="write the verdict on each candidate as JUnit XML",
    )
    verb.add_argument(
        "--summary",
        type=Path,
        metavar="FILE",
        help="add the verdicts to a Markdown file, as $GITHUB_STEP_SUMMARY",
    )


def require_gate_files(options: Options) -> None:
    """Refuse, before the work, files that the verdict cannot be written to.

    Raises:
        UsageError: naming the flag.
    """
    from segdeploy.benchmarks.report.gate import require_junit

    if options.junit is not None:
        require_junit(options.junit)
    if options.summary is not None and options.summary.is_dir():
        raise UsageError(f"--summary {options.summary} is a folder; give a file")


def write_gate(options: Options, checks: Sequence[Check], *, judged: str, verdict: str) -> None:
    """Write the verdicts to the files that the flags name.

    Args:
        options: parsed.
        checks: in the order to show them.
        judged: what they are of, for a heading.
        verdict: in words.

    Raises:
        UsageError: ``--junit`` names something else.
        OSError: a file cannot be written.
    """
    from segdeploy.benchmarks.report.gate import append_summary, write_junit

    if options.junit is not None:
        write_junit(checks, options.junit, suite=judged)
    if options.summary is not None:
        append_summary(checks, options.summary, title=judged, verdict=verdict)
