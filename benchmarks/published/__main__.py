"""Published figures beside those of finished runs, as one table with its sources.

``python -m segdeploy.benchmarks.published REPORT.json`` reads ``published.yaml`` and the reports of
``segdeploy run``. Exit codes and streams are those of ``segdeploy``: 0 done; 2 usage; 3 an input
could not be loaded; 4 it failed while running; JSON on standard output with ``--format json``,
everything else on standard error.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from segdeploy.benchmarks.literature.file import load_rows
from segdeploy.benchmarks.published.beside import beside
from segdeploy.benchmarks.published.ours import our_rows
from segdeploy.benchmarks.published.page import published_page
from segdeploy.benchmarks.report.files import read_report
from segdeploy.calibration.files import write_atomic
from segdeploy.deploy.system.command import guarded, print_json
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.shown_command import shown_command

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; ``None`` takes the process's.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(arguments)

    def run() -> int:
        if options.output and options.output.is_dir():
            raise UsageError(f"-o {options.output} is a folder; give a file")
        ours = [
            row for path in options.reports for row in our_rows(read_report(path), source=str(path))
        ]
        command = shown_command(["python", "-m", "segdeploy.benchmarks.published"], arguments)
        result = beside(load_rows(), ours, command=command)
        page = published_page(result)
        log.info("%s", page)
        if options.output:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(options.output, page.encode())
            log.info("written: %s", options.output)
        if options.format == "json":
            print_json(result)
        return 0

    return guarded("segdeploy.benchmarks.published", run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m segdeploy.benchmarks.published",
        description="Published figures of R2U-Net and UNet++ beside those of finished runs.",
        epilog="example:\n  python -m segdeploy.benchmarks.published out/report.json "
        "-o published.md",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "reports",
        type=Path,
        nargs="*",
        metavar="REPORT.json",
        help="of `segdeploy run`, or its folder (default: the published side alone)",
    )
    parser.add_argument("-o", "--output", type=Path, help="write the table to this file too")
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="json: figures on stdout"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
