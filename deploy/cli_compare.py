"""The verb that compares models' accuracy: parity; and what it shares with benchmark."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.entries import entries_for
from benchmarks.parity_run import gate_passed, parity_section
from benchmarks.report_rows import figure
from deploy import bundled
from deploy.artifact import Artifact
from deploy.cli_inputs import GATE_FAILED, Options, Result, checkpoint_of, runtimes_of
from deploy.data import open_set
from deploy.errors import UsageError
from deploy.onnx_file import contract_of, describe
from deploy.preprocess import Preprocess
from deploy.progress import bar
from deploy.runtimes.base import Execution, Runtime
from deploy.runtimes.registry import RuntimeName, open_runtime, usable_cores

log = logging.getLogger(__name__)


def parity(options: Options, arguments: Sequence[str]) -> Result:
    """Compare models with a reference; exit code 1 when one loses too much."""
    artifacts = artifacts_of(options.model)
    preprocess = common_contract(artifacts)
    images = open_set(options.data or bundled.sample(), "test")
    execution = Execution(threads=options.threads or usable_cores())
    reference, name = _reference(options, execution, preprocess)
    section = parity_section(
        reference,
        name,
        entries_for(artifacts, runtimes_of(options)),
        images=images.inputs(preprocess),
        pixels=images.pixels(preprocess),
        truths=images.truths(preprocess),
        fields=images.fields(preprocess),
        names=[sample.name for sample in images],
        max_drop=options.max_drop,
        seed=options.seed,
        execution=execution,
        progress=lambda items, label: bar(items, label, unit="image"),
    )
    for row in section["rows"]:
        log.info("%s", _parity_line(row))
    passed = gate_passed(section)
    log.info("%s (budget %g points of IoU)", "PASS" if passed else "FAIL", options.max_drop)
    return 0 if passed else GATE_FAILED, section


def _reference(options: Options, execution: Execution, models: Preprocess) -> tuple[Runtime, str]:
    """The reference and its name; it must expect the same inputs as the models."""
    from deploy.runtimes.pytorch import PyTorchRuntime

    path: Path = options.reference
    if path.suffix == ".onnx":
        artifact = describe(path)
        require_same_inputs(path, contract_of(artifact), models)
        runtime = open_runtime(RuntimeName.ONNXRUNTIME, artifact, execution=execution)
        return runtime, f"{path.name} on ONNX Runtime"
    checkpoint = checkpoint_of(options, path)
    require_same_inputs(path, checkpoint.preprocess, models)
    return PyTorchRuntime(checkpoint, execution=execution), "PyTorch fp32"


def require_same_inputs(path: Path, reference: Preprocess, models: Preprocess) -> None:
    """Refuse a reference that expects other inputs than the models.

    Raises:
        UsageError: with both contracts.
    """
    if reference != models:
        raise UsageError(
            f"--reference {path} expects {reference.to_json()}, the models {models.to_json()}; for "
            "a checkpoint exported with --preprocess FILE, give the same here"
        )


def artifacts_of(paths: Sequence[Path]) -> dict[str, Artifact]:
    """The model files by name without suffix.

    Raises:
        InputError: one cannot be read.
        UsageError: two have one name.
    """
    artifacts = {path.name.removesuffix(".onnx"): describe(path) for path in paths}
    if len(artifacts) != len(paths):
        raise UsageError("two of the models have the same file name; rename one")
    return artifacts


def common_contract(artifacts: dict[str, Artifact]) -> Preprocess:
    """The input contract that all models share.

    Raises:
        UsageError: they expect different inputs.
    """
    contracts = {label: contract_of(artifact) for label, artifact in artifacts.items()}
    (first, contract), *others = contracts.items()
    for label, other in others:
        if other != contract:
            raise UsageError(f"{label} and {first} expect different inputs; compare them apart")
    return contract


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
