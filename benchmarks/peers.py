"""Measure this project beside the tools people use today, in one run.

``python -m benchmarks.peers calibration`` compares calibration. Exit codes and streams are those of
``segdeploy``: 0 done; 2 usage; 3 an input could not be loaded; 4 it failed while running; JSON on
standard output with ``--format json``, everything else on standard error.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.environment import describe as describe_environment
from benchmarks.peers_calibration import Subject, compare_tools, measure_growth
from benchmarks.peers_markdown import calibration_page, growth_page
from benchmarks.peers_parser import build_parser
from benchmarks.peers_tools import STANDARD, Tool
from calibration.files import write_atomic
from deploy import bundled
from deploy.artifact import Artifact
from deploy.cli import guarded, print_json
from deploy.data import open_set, require_disjoint
from deploy.errors import UsageError
from deploy.onnx_file import contract_of, describe, require_fp32
from deploy.progress import bar
from deploy.runtimes.registry import usable_cores

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1

Options = argparse.Namespace
Result = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; ``None`` takes the process's.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = build_parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "benchmarks.peers", *arguments])

    def run() -> int:
        result = BENCHMARKS[options.benchmark](options, command)
        if options.format == "json":
            print_json(result)
        return 0

    return guarded("benchmarks.peers", run)


def calibration(options: Options, command: str) -> Result:
    """Compare calibration tools, or measure how our memory grows."""
    if options.output.exists() and not options.output.is_dir():
        raise UsageError(f"-o {options.output} is a file; give a folder")
    with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
        subject = _subject(options, Path(folder))
        result: Result = {
            "schema_version": SCHEMA_VERSION,
            "command": command,
            "environment": _environment(),
            "model": {"file": subject.model.path.name, "sha256": subject.model.sha256},
            "threads": subject.threads,
        }
        if options.growth:
            rows = measure_growth(
                subject, options.growth, progress=lambda n: bar(n, "calibrate", unit="run")
            )
            result["rows"] = rows
            result["peak_ratio"] = rows[-1]["peak_bytes"] / rows[0]["peak_bytes"]
            _write(result, options.output / "peers_calibration_growth", growth_page)
            return result
        float_iou, rows = compare_tools(
            subject,
            tuple(Tool) if options.search else STANDARD,
            progress=lambda tools: bar(tools, "calibrate", unit="tool"),
        )
    result |= {
        "calibration_images": len(subject.calibration),
        "calibration_sha256": subject.calibration.sha256(),
        "evaluation_images": len(subject.evaluation),
        "evaluation_sha256": subject.evaluation.sha256(),
        "float_iou": float_iou,
        "rows": rows,
    }
    _write(result, options.output / "peers_calibration", calibration_page)
    return result


def _subject(options: Options, folder: Path) -> Subject:
    data = options.data or bundled.sample()
    images, evaluation = open_set(data, "train"), open_set(data, "test")
    if not options.growth:
        images = images.take(options.num_samples, seed=0)
    require_disjoint(images, evaluation)
    model = _model(options, folder)
    require_fp32(model, "calibration is compared")
    return Subject(
        model=model,
        preprocess=contract_of(model),
        calibration=images,
        evaluation=evaluation,
        threads=_threads(options.threads),
    )


def _threads(asked: int | None) -> int:
    available = usable_cores()
    if asked is not None and asked > available:
        raise UsageError(f"--threads {asked}: this process may use {available} processors")
    return asked or available


def _model(options: Options, folder: Path) -> Artifact:
    """The model given, or a checkpoint exported and simplified into a folder."""
    if options.model:
        return describe(options.model.resolve())
    from deploy.export import export
    from deploy.models.checkpoint import load_checkpoint
    from deploy.simplify import simplify

    path = options.checkpoint or bundled.checkpoint("unet_plus_plus")
    exported = export(load_checkpoint(path), folder / f"{path.stem}.fp32.onnx")
    return simplify(exported, folder / f"{path.stem}.sim.onnx")


def _environment() -> dict[str, Any]:
    machine = asdict(describe_environment())
    try:
        machine["versions"]["nncf"] = importlib.metadata.version("nncf")
    except importlib.metadata.PackageNotFoundError:
        machine["versions"]["nncf"] = None
    return machine


def _write(result: Result, path: Path, page: Callable[[Result], str]) -> None:
    """Write the JSON and the page made from it, and show the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = page(result)
    content = json.dumps(result, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_atomic(path.with_name(path.name + ".json"), content.encode())
    write_atomic(path.with_name(path.name + ".md"), text.encode())
    log.info("%s\nwritten: %s.json and .md", text, path)


BENCHMARKS: dict[str, Callable[[Options, str], Result]] = {"calibration": calibration}

if __name__ == "__main__":
    sys.exit(main())
