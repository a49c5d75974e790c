"""What each verb does with its flags: load, call one function, say what was written.

Importing torch takes seconds and 250 MB, so only the verbs that need it do, when they are called:
calibrating, converting and quantizing run without it.
"""

from __future__ import annotations

import argparse
import logging
import platform
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.entries import entries_for
from benchmarks.environment import describe as describe_environment
from benchmarks.parity_run import gate_passed, parity_section
from benchmarks.report import load_report, verdict_text, write_report
from benchmarks.report_rows import figure
from benchmarks.speed_run import speed_section
from calibration.estimate import Method
from calibration.table import CalibrationTable
from deploy import bundled
from deploy.artifact import Artifact, sha256_of
from deploy.calibrate import calibrate
from deploy.data import open_set
from deploy.errors import InputError, UsageError
from deploy.exchange import ExchangeFormat, export_table, import_table
from deploy.onnx_file import describe, load_model, metadata
from deploy.prepare import prepare_raw
from deploy.preprocess import Preprocess
from deploy.progress import bar, share_bar
from deploy.run_config import RunConfig
from deploy.runtimes.base import Runtime
from deploy.runtimes.registry import RuntimeName, availability, open_runtime, usable_cores
from deploy.sharding import shard_from_environment
from deploy.simplify import simplify
from deploy.targets.profiles import native_profile, profile_named
from deploy.to_fp16 import to_fp16
from deploy.to_int8 import to_int8

if TYPE_CHECKING:
    from deploy.models.checkpoint import Checkpoint

log = logging.getLogger(__name__)

Options = argparse.Namespace
Result = tuple[int, dict[str, Any]]

GATE_FAILED = 1


def doctor(options: Options, arguments: Sequence[str]) -> Result:
    """Say what this machine has."""
    machine = asdict(describe_environment())
    runtimes = [availability(name) for name in RuntimeName]
    for key in ("os", "python", "cpu", "cores", "memory_bytes"):
        log.info("%-12s %s", key, machine[key])
    log.info("%-12s %s", "isa", " ".join(machine["isa"]) or "unknown")
    for state in runtimes:
        word = f"ready, {state.version}" if state.ready else f"missing: {state.reason}"
        log.info("%-12s %s", state.name, word)
    return 0, {"environment": machine, "runtimes": [asdict(state) for state in runtimes]}


def data(options: Options, arguments: Sequence[str]) -> Result:
    """Prepare the raw Kaggle layout."""
    rows = prepare_raw(
        options.raw,
        options.output,
        seed=options.seed,
        ratios=tuple(options.ratios),
        progress=lambda folders: bar(folders, "prepare", unit="image"),
    )
    counts = {s: sum(row.split == s for row in rows) for s in ("train", "val", "test")}
    shown = ", ".join(f"{count} {split}" for split, count in counts.items())
    log.info("%s: %d images (%s)", options.output, len(rows), shown)
    return 0, {"output": str(options.output), "images": len(rows), "splits": counts}


def train(options: Options, arguments: Sequence[str]) -> Result:
    """Train a network."""
    import torch

    from deploy.models.families import Architecture
    from training.augment import AUGMENTATIONS
    from training.loop import Recipe
    from training.loop import train as train_network

    torch.set_num_threads(options.threads or usable_cores())
    result = train_network(
        Recipe(
            arch=Architecture(options.arch),
            epochs=options.epochs,
            batch=options.batch,
            learning_rate=options.learning_rate,
            recurrence=options.recurrence,
            width=options.width,
            augmentation=AUGMENTATIONS[options.augment],
            pretrained=options.pretrained,
            seed=options.seed,
        ),
        train_set=open_set(options.data, "train"),
        val_set=open_set(options.data, "val"),
        preprocess=Preprocess(),
        output=options.output,
    )
    log.info(
        "%s: val IoU %.3f at epoch %d", result.checkpoint, result.best_val_iou, result.best_epoch
    )
    return 0, asdict(result)


def export_model(options: Options, arguments: Sequence[str]) -> Result:
    """Export a checkpoint."""
    from deploy.export import export

    output = _output_file(options, options.checkpoint)
    return _wrote(export(_checkpoint(options, options.checkpoint), output))


def simplify_model(options: Options, arguments: Sequence[str]) -> Result:
    """Simplify a graph."""
    output = _output_file(options, options.model)
    return _wrote(simplify(describe(options.model), output))


def convert(options: Options, arguments: Sequence[str]) -> Result:
    """Convert to fp16."""
    output = _output_file(options, options.model)
    return _wrote(to_fp16(describe(options.model), output))


def calibrate_model(options: Options, arguments: Sequence[str]) -> Result:
    """Find every range, or take them from another tool's file; under torchrun, in shards."""
    output = _output_file(options, options.model)
    source = describe(options.model)
    with shard_from_environment() as shard:
        if options.import_file:
            table = import_table(options.import_file, source)
        else:
            images = open_set(options.calib_data or bundled.sample(), "train")
            own = f".{shard.rank}-of-{shard.size}" if shard.size > 1 else ""
            table = calibrate(
                source,
                images.take(options.num_samples, seed=options.seed),
                preprocess=_contract(source),
                method=Method(options.method),
                state=output.with_name(f"{output.name}{own}.partial.npz"),
                threads=options.threads or max(1, usable_cores() // shard.size),
                shard=shard,
                progress=lambda samples: bar(samples, "calibrate", unit="image"),
            )
        if not shard.is_first:
            return 0, {}
    table.write(output)
    written = [output]
    for name in options.export or ():
        written.append(export_table(table, source, output, ExchangeFormat(name)))
    for path in written:
        log.info("%s: %d tensors, %d images", path, len(table.ranges), table.num_samples)
    return 0, {"written": [str(path) for path in written], "tensors": len(table.ranges)}


def quantize(options: Options, arguments: Sequence[str]) -> Result:
    """Write the int8 model of a target."""
    output = _output_file(options, options.model, options.calibration)
    artifact = to_int8(
        describe(options.model),
        output,
        table=CalibrationTable.read(options.calibration),
        table_sha256=sha256_of(options.calibration),
        profile=profile_named(options.target),
        exclude=options.exclude,
    )
    return _wrote(artifact)


def parity(options: Options, arguments: Sequence[str]) -> Result:
    """Compare models with a reference; exit code 1 when one loses too much."""
    artifacts = _artifacts(options.model)
    preprocess = _common_contract(artifacts)
    images = open_set(options.data or bundled.sample(), "test")
    threads = options.threads or usable_cores()
    reference, name = _reference(options, threads, preprocess)
    section = parity_section(
        reference,
        name,
        entries_for(artifacts, _runtimes(options)),
        images=images.inputs(preprocess),
        truths=images.truths(preprocess),
        names=[sample.name for sample in images],
        max_drop=options.max_drop,
        seed=options.seed,
        threads=threads,
        progress=lambda items, label: bar(items, label, unit="image"),
    )
    for row in section["rows"]:
        log.info("%s", _parity_line(row))
    passed = gate_passed(section)
    log.info("%s (budget %g points of IoU)", "PASS" if passed else "FAIL", options.max_drop)
    return 0 if passed else GATE_FAILED, section


def benchmark(options: Options, arguments: Sequence[str]) -> Result:
    """Time models side by side."""
    artifacts = _artifacts(options.model)
    preprocess = _common_contract(artifacts)
    images = open_set(options.data or bundled.sample(), "test")
    threads = options.threads or usable_cores()
    reference, name = None, ""
    if options.reference:
        reference, name = _reference(options, threads, preprocess)
    with share_bar("benchmark") as progress:
        section = speed_section(
            reference,
            name,
            entries_for(artifacts, _runtimes(options)),
            images=images.take(min(8, len(images)), seed=0).inputs(preprocess),
            batches=options.batch,
            threads=threads,
            warmup=options.warmup,
            duration_s=options.duration,
            progress=progress,
        )
    for row in section["rows"]:
        log.info("%s", _speed_line(row))
    return 0, section


def report(options: Options, arguments: Sequence[str]) -> Result:
    """Write the readable reports again from report.json."""
    content = load_report(options.folder)
    folder = options.folder if options.folder.is_dir() else options.folder.parent
    write_report(content, folder)
    log.info("%s", verdict_text(content))
    log.info("report: %s", folder / "report.html")
    return 0, content


def run_all(options: Options, arguments: Sequence[str]) -> Result:
    """The whole job."""
    from deploy.models.families import Architecture
    from deploy.pipeline import run

    arch = Architecture(options.arch or Architecture.UNET_PLUS_PLUS)
    checkpoint = _checkpoint(options, options.checkpoint or bundled.checkpoint(arch.value))
    data_root = options.data or bundled.sample()
    calibration = open_set(options.calib_data or data_root, "train")
    machine = describe_environment()
    targets = [profile_named(name) for name in options.target or ()] or [
        native_profile(runtime, machine=platform.machine(), isa=machine.isa)
        for runtime in RuntimeName
        if availability(runtime).ready
    ]
    head = f"_l{checkpoint.head}" if checkpoint.head not in (None, 4) else ""
    config = RunConfig(
        name=f"{checkpoint.arch.value}{head}",
        output=options.output,
        calibration=calibration.take(options.num_samples, seed=options.seed),
        evaluation=open_set(data_root, "test"),
        method=Method(options.method),
        targets=tuple(targets),
        runtimes=_runtimes(options),
        exclude=tuple(options.exclude),
        max_drop=options.max_drop,
        batch=options.batch,
        threads=options.threads or usable_cores(),
        warmup=options.warmup,
        duration_s=options.duration,
        seed=options.seed,
        overwrite=options.overwrite,
        command=shlex.join(["segdeploy", *arguments]),
    )
    content = run(config, checkpoint)
    log.info("report: %s", options.output / "report.html")
    return 0 if content["passed"] else GATE_FAILED, content


def _checkpoint(options: Options, path: Path) -> Checkpoint:
    from deploy.models.checkpoint import load_checkpoint
    from deploy.models.families import Architecture

    preprocess = None
    if options.preprocess:
        try:
            text = options.preprocess.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"--preprocess {options.preprocess} cannot be read ({error})"
            ) from error
        preprocess = Preprocess.from_json(text, source=str(options.preprocess))
    return load_checkpoint(
        path,
        arch=Architecture(options.arch) if options.arch else None,
        recurrence=options.recurrence,
        head=options.head,
        logits=options.logits,
        preprocess=preprocess,
    )


def _output_file(options: Options, *inputs: Path) -> Path:
    """Where to write, refused before the work and not after it."""
    output: Path = options.output
    if output.is_dir():
        raise UsageError(f"-o {output} is a folder; give the name of the file to write")
    if any(output.resolve() == path.resolve() for path in inputs):
        raise UsageError(f"-o {output} would replace its own input; choose another name")
    return output


def _reference(options: Options, threads: int, models: Preprocess) -> tuple[Runtime, str]:
    """The reference and its name; it must expect the same inputs as the models."""
    from deploy.runtimes.pytorch import PyTorchRuntime

    path: Path = options.reference
    if path.suffix == ".onnx":
        artifact = describe(path)
        _require_same_inputs(path, _contract(artifact), models)
        runtime = open_runtime(RuntimeName.ONNXRUNTIME, artifact, threads=threads)
        return runtime, f"{path.name} on ONNX Runtime"
    checkpoint = _checkpoint(options, path)
    _require_same_inputs(path, checkpoint.preprocess, models)
    return PyTorchRuntime(checkpoint, threads=threads), "PyTorch fp32"


def _require_same_inputs(path: Path, reference: Preprocess, models: Preprocess) -> None:
    if reference != models:
        raise UsageError(
            f"--reference {path} expects {reference.to_json()}, the models {models.to_json()}; for "
            "a checkpoint exported with --preprocess FILE, give the same here"
        )


def _artifacts(paths: Sequence[Path]) -> dict[str, Artifact]:
    artifacts = {path.name.removesuffix(".onnx"): describe(path) for path in paths}
    if len(artifacts) != len(paths):
        raise UsageError("two of the models have the same file name; rename one")
    return artifacts


def _contract(artifact: Artifact) -> Preprocess:
    entries = metadata(load_model(artifact.path))
    if "preprocess" not in entries:
        raise InputError(
            f"{artifact.path} carries no preprocessing contract; export it with `segdeploy export`"
        )
    return Preprocess.from_json(entries["preprocess"], source=str(artifact.path))


def _common_contract(artifacts: dict[str, Artifact]) -> Preprocess:
    contracts = {label: _contract(artifact) for label, artifact in artifacts.items()}
    (first, contract), *others = contracts.items()
    for label, other in others:
        if other != contract:
            raise UsageError(f"{label} and {first} expect different inputs; compare them apart")
    return contract


def _runtimes(options: Options) -> tuple[RuntimeName, ...] | None:
    return tuple(RuntimeName(name) for name in options.runtime) if options.runtime else None


def _wrote(artifact: Artifact) -> Result:
    size = artifact.path.stat().st_size
    log.info("%s: %s, %.1f MB", artifact.path, artifact.precision.value, size / 1e6)
    return 0, asdict(artifact) | {"bytes": size}


def _parity_line(row: dict[str, Any]) -> str:
    if row["skipped"]:
        return f"{row['name']}: skipped, {row['skipped']}"
    line = f"{row['name']}: IoU {figure(row['scores']['iou'], 'share')}"
    if row["passed"] is None:
        return f"{line} (reference)"
    low, high = row["ci95_percentage_points"]
    verdict = "ok" if row["passed"] else "LOST TOO MUCH"
    return (
        f"{line}, delta {row['delta_iou_percentage_points']:+.3f} [{low:+.3f}, {high:+.3f}], "
        f"{row['disagreement_percent']:.3f} % of pixels differ, {verdict}"
    )


def _speed_line(row: dict[str, Any]) -> str:
    if row["skipped"]:
        return f"{row['name']}: skipped, {row['skipped']}"
    speedup = f", {row['speedup']:.2f}x the reference" if row["speedup"] else ""
    return (
        f"batch {row['batch']}: {row['name']} ({row['precision_executed']}): p50 "
        f"{row['p50_ms']:.2f} ms, p99 {row['p99_ms']:.2f} ms, "
        f"{row['images_per_s']:.1f} images/s{speedup}"
    )


VERBS: dict[str, Callable[[Options, Sequence[str]], Result]] = {
    "doctor": doctor,
    "data": data,
    "train": train,
    "export": export_model,
    "simplify": simplify_model,
    "convert": convert,
    "calibrate": calibrate_model,
    "quantize": quantize,
    "parity": parity,
    "benchmark": benchmark,
    "report": report,
    "run": run_all,
}
