"""Measure this project beside the tools people use today, in one run.

``python -m segdeploy.benchmarks.peers calibration`` compares calibration, ``speed`` accuracy and
speed. Exit codes and streams are those of ``segdeploy``: JSON on standard output with ``--format
json``, everything else on standard error.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segdeploy.benchmarks.peers import chart as peers_chart
from segdeploy.benchmarks.peers.calibration import Subject, compare_tools, measure_growth
from segdeploy.benchmarks.peers.markdown import calibration_page, growth_page, page
from segdeploy.benchmarks.peers.models import SpeedSubject
from segdeploy.benchmarks.peers.parser import build_parser
from segdeploy.benchmarks.peers.speed_page import speed_page
from segdeploy.benchmarks.peers.tools import STANDARD, Tool
from segdeploy.benchmarks.speed.environment import describe as describe_environment
from segdeploy.calibration.files import write_atomic
from segdeploy.calibration.json_record import json_of
from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_set import open_set, require_disjoint
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import contract_of, describe, require_fp32
from segdeploy.deploy.runtimes.registry import usable_cores
from segdeploy.deploy.system.command import guarded, print_json
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.progress import bar, share_bar
from segdeploy.deploy.system.shown_command import shown_command

if TYPE_CHECKING:  # importing torch takes seconds
    from segdeploy.deploy.models.checkpoint import Checkpoint

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
PEER_PACKAGES = ("nncf",)

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
    command = shown_command(["python", "-m", "segdeploy.benchmarks.peers"], arguments)

    def run() -> int:
        result = BENCHMARKS[options.benchmark](options, command)
        if options.format == "json":
            print_json(result)
        return 0

    return guarded("segdeploy.benchmarks.peers", run)


def calibration(options: Options, command: str) -> Result:
    """Compare calibration tools, or measure how our memory grows."""
    _require_folder(options.output)
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


def speed(options: Options, command: str) -> Result:
    """Compare accuracy and speed, and draw them."""
    from segdeploy.benchmarks.peers.speed import Plan, compare_speed

    _require_folder(options.output)
    with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
        subject = _speed_subject(options, Path(folder))
        found = compare_speed(
            subject,
            Plan(
                batch=options.batch,
                warmup=options.warmup,
                duration_s=options.duration,
                with_compiled=not options.no_compile,
            ),
            bar=lambda items, label: bar(items, label, unit="step"),
            share_bar=share_bar,
        )
    checkpoint = subject.checkpoint
    result: Result = {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "environment": _environment(),
        "model": {
            "file": checkpoint.path.name,
            "sha256": checkpoint.sha256,
            "arch": checkpoint.arch.value,
            "size": list(checkpoint.preprocess.size),
        },
        "threads": subject.threads,
        "calibration_images": len(subject.calibration),
        "calibration_sha256": subject.calibration.sha256(),
        "evaluation_images": len(subject.evaluation),
        "evaluation_sha256": subject.evaluation.sha256(),
        "chart_missing": peers_chart.missing(),
        **found,
    }
    path = options.output / "peers_speed"
    _write(result, path, speed_page)
    if result["chart_missing"]:
        log.info("no chart: %s", result["chart_missing"])
    else:
        peers_chart.write_chart(result, path)
        log.info("written: %s.svg and .png", path)
    return result


def zoo(options: Options, command: str) -> Result:
    """Train, quantize, score and time public architectures; or sum up what was measured."""
    from segdeploy.benchmarks.peers.zoo.measure import Plan as ZooPlan
    from segdeploy.benchmarks.peers.zoo.page import notes_of, rows_of, summary_of, write_chart
    from segdeploy.benchmarks.peers.zoo.weights import default_cache
    from segdeploy.benchmarks.peers.zoo.zoo import (
        chosen,
        measure_all,
        stored,
        train_all,
        validation_of,
    )

    _require_folder(options.output)
    entries = chosen(options.only)
    data = options.data or bundled.sample()
    if options.summary:
        lines = summary_of(stored(entries, options.output))
        log.info("%s", "\n".join(lines))
        return {"schema_version": SCHEMA_VERSION, "command": command, "summary": lines}
    train = open_set(data, "train")
    weights = train_all(
        entries,
        cache=options.cache or default_cache(),
        data=data,
        images=train,
        threads=_threads(options.threads),
    )
    about: Result = {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "weights": {name: str(found) for name, found in weights.items()},
    }
    if options.train_only:
        return about
    plan = ZooPlan(
        calibration=train.take(options.num_samples, seed=0),
        evaluation=open_set(data, "test").take(options.eval_samples, seed=0),
        threads=_threads(options.threads),
        rounds=0 if options.no_timing else options.rounds,
        batch=options.batch,
        output=options.output,
        tune_s=options.tune,
        validation=validation_of(data),
    )
    for seen in (plan.calibration, *([plan.validation] if plan.validation else ())):
        require_disjoint(seen, plan.evaluation)
    results = measure_all(
        entries, weights, plan, bar=lambda each, label: bar(each, label, unit="tool")
    )
    del about["weights"]
    about |= {
        "environment": _environment(),
        "threads": plan.threads,
        "calibration_images": len(plan.calibration),
        "calibration_sha256": plan.calibration.sha256(),
        "evaluation_images": len(plan.evaluation),
        "evaluation_sha256": plan.evaluation.sha256(),
        "validation_images": len(plan.validation or ()),
        "networks": json_of(results),
        "summary": summary_of(results),
    }
    path = options.output / "peers_zoo"
    subject = (
        f"{len(plan.calibration)} calibration images, {len(plan.evaluation)} evaluation images, "
        f"{plan.threads} threads"
    )
    control = (
        f"the {len(plan.validation)} images of the val split"
        if plan.validation
        else "the calibration images, since the data has no val split"
    )
    about["summary"].append(f"NNCF's accuracy control validates on {control}.")
    notes = [*about["summary"], *notes_of(results)]
    _write(about, path, lambda r: page("The zoo", subject, rows_of(results), notes, r))
    if peers_chart.missing() is None:
        write_chart(results, path)
    return about


def _speed_subject(options: Options, folder: Path) -> SpeedSubject:
    data = options.data or bundled.sample()
    images = open_set(data, "train").take(options.num_samples, seed=0)
    evaluation = open_set(data, "test").take(options.eval_samples, seed=0)
    require_disjoint(images, evaluation)
    threads = _threads(options.threads)
    checkpoint, model = _exported(options.checkpoint, folder)
    pruned = None
    if checkpoint.head is not None and checkpoint.detected.deep_supervision:
        pruned = _exported(options.checkpoint, folder, head=checkpoint.head - 1)[1]
    return SpeedSubject(
        checkpoint=checkpoint,
        model=model,
        pruned=pruned,
        calibration=images,
        evaluation=evaluation,
        threads=threads,
    )


def _require_folder(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UsageError(f"-o {output} is a file; give a folder")


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
    return _exported(options.checkpoint, folder)[1]


def _exported(
    given: Path | None, folder: Path, *, head: int | None = None
) -> tuple[Checkpoint, Artifact]:
    """A checkpoint, the bundled one unless another is given, and its simplified export."""
    from segdeploy.deploy.models.checkpoint import load_checkpoint
    from segdeploy.deploy.stages.export import export
    from segdeploy.deploy.stages.simplify import simplify

    path = given or bundled.checkpoint("unet_plus_plus")
    checkpoint = load_checkpoint(path, head=head)
    stem = path.stem if head is None else f"{path.stem}_l{head}"
    exported = export(checkpoint, folder / f"{stem}.fp32.onnx")
    return checkpoint, simplify(exported, folder / f"{stem}.sim.onnx")


def _environment() -> dict[str, Any]:
    machine = asdict(describe_environment())
    for package in PEER_PACKAGES:
        try:
            machine["versions"][package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            machine["versions"][package] = None
    return machine


def _write(result: Result, path: Path, page: Callable[[Result], str]) -> None:
    """Write the JSON and the page made from it, and show the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = page(result)
    content = json.dumps(result, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_atomic(path.with_name(path.name + ".json"), content.encode())
    write_atomic(path.with_name(path.name + ".md"), text.encode())
    log.info("%s\nwritten: %s.json and .md", text, path)


BENCHMARKS: dict[str, Callable[[Options, str], Result]] = {
    "calibration": calibration,
    "speed": speed,
    "zoo": zoo,
}

if __name__ == "__main__":
    sys.exit(main())
