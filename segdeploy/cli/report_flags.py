"""The flags of report. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from segdeploy.cli.flags import Group, output_flag


def report_flags(verb: Group) -> None:
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
