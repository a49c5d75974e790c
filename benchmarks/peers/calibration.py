"""Calibration beside its peers: one model, the same images, one table."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.peers.attempt import PACKAGES, Attempt, Measurement, attempt
from segdeploy.benchmarks.peers.ranges import Range, compare_widths
from segdeploy.benchmarks.peers.tools import STANDARD, Job, Tool
from segdeploy.benchmarks.scores.accuracy import iou_per_image
from segdeploy.calibration.exchange import imported_range
from segdeploy.calibration.table import imported_table
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.output_contract import FOREGROUND_PROBABILITY
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import describe
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.runtimes.base import Execution, infer_each
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.progress import ItemProgress
from segdeploy.deploy.targets.profiles import ORT_X86

NAMES = {
    Tool.OURS: "segdeploy {version}, entropy",
    Tool.ORT_ENTROPY: "ONNX Runtime {version}, Entropy",
    Tool.ORT_MINMAX: "ONNX Runtime {version}, MinMax",
    Tool.NNCF: "NNCF {version}",
    Tool.ORT_SEARCH: "ONNX Runtime {version}, Entropy with 2048 bins",
}

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What the tools calibrate, and what their int8 models are judged on.

    Attributes:
        model: a float32 ONNX file with one input.
        preprocess: its input contract.
        calibration: images the tools see.
        evaluation: images the models are scored on.
        threads: processors each tool may use.
    """

    model: Artifact
    preprocess: Preprocess
    calibration: SegmentationSet
    evaluation: SegmentationSet
    threads: int

    def job(self, images: SegmentationSet, folder: str) -> Job:
        """What a tool is asked to do."""
        return Job(
            model=self.model.path,
            input_name=self.model.inputs[0].name,
            samples=tuple(images.samples),
            preprocess=self.preprocess,
            threads=self.threads,
            folder=Path(folder),
        )


def compare_tools(
    subject: Subject,
    tools: Sequence[Tool] = STANDARD,
    *,
    progress: ItemProgress[Tool] = iter,
) -> tuple[float, list[Row]]:
    """Run tools on the subject, each in a process of its own; the first is the measure of all.

    For ONNX Runtime and ours ``deploy.quantize.to_int8`` writes the int8 model from the tool's
    ranges, so that only the ranges differ. NNCF quantizes by itself.

    Returns:
        The float model's IoU in percent, and a row for each tool. A peer that is not installed,
        or fails, is a row with the reason.

    Raises:
        InputError: our tool does not accept the model or the images.
        RunError: our tool failed.
    """
    images = subject.evaluation.inputs(subject.preprocess)
    truths = subject.evaluation.truths(subject.preprocess)
    fields = subject.evaluation.fields(subject.preprocess)

    def iou_of(artifact: Artifact) -> float:
        return _iou(artifact, images, truths, fields, subject.threads)

    float_iou = iou_of(subject.model)
    ours: dict[str, Range] = {}
    rows: list[Row] = []
    for tool in progress(tools):
        with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
            job = subject.job(subject.calibration, folder)
            tried = attempt(tool, job)
            found = tried.measurement
            iou = iou_of(_int8(found, subject.model, job.folder)) if found else None
        ours = ours or (found.ranges if found else {})
        rows.append(_row(tool, tried, ours) | _accuracy(iou, float_iou))
    return float_iou, rows


def measure_growth(
    subject: Subject,
    counts: Sequence[int],
    *,
    progress: ItemProgress[int] = iter,
) -> list[Row]:
    """Run our tool on different numbers of calibration images.

    Returns:
        For each number: ``images``, ``seconds``, ``peak_bytes`` and ``imports_bytes``.

    Raises:
        InputError: our tool does not accept the model or the images.
        RunError: our tool failed.
    """
    rows = []
    for number in progress(counts):
        with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
            job = subject.job(repeated(subject.calibration, number), folder)
            row = _row(Tool.OURS, attempt(Tool.OURS, job), {})
        keys = ("seconds", "process_seconds", "peak_bytes", "imports_bytes")
        rows.append({"images": number} | {key: row[key] for key in keys})
    return rows


def repeated(images: SegmentationSet, number: int) -> SegmentationSet:
    """``number`` samples in order; beyond the set its files come again under other names."""
    endless = (
        replace(sample, name=f"{sample.name}@{turn}" if turn else sample.name)
        for turn in count()
        for sample in images
    )
    return replace(images, samples=tuple(islice(endless, number)))


def _row(tool: Tool, tried: Attempt, ours: dict[str, Range]) -> Row:
    """One tool's row; what was not measured is ``None``."""
    found = tried.measurement
    widths = compare_widths(found.ranges, ours) if found else None
    try:
        version = importlib.metadata.version(PACKAGES[tool])
    except importlib.metadata.PackageNotFoundError:
        version = None
    return {
        "tool": tool.value,
        "name": NAMES[tool].format(version=version or "").strip(),
        "version": version,
        "skipped": tried.skipped,
        "seconds": found.seconds if found else None,
        "whole_seconds": found.whole_seconds if found else None,
        "process_seconds": tried.process_seconds,
        "peak_bytes": found.peak_bytes if found else None,
        "imports_bytes": found.imports_bytes if found else None,
        "candidates": found.candidates if found else None,
        "widths": asdict(widths) if widths else None,
        "ranges": found.ranges if found else None,
    }


def _accuracy(iou: float | None, float_iou: float) -> Row:
    delta = None if iou is None else iou - float_iou
    return {"iou": iou, "delta_iou_percentage_points": delta}


def _int8(found: Measurement, source: Artifact, folder: Path) -> Artifact:
    """The model a tool wrote itself, or ours from its ranges."""
    output = folder / "int8.onnx"
    if output.exists():
        return describe(output)
    table = imported_table(
        {name: imported_range(*ends, "a peer") for name, ends in found.ranges.items()}
    )
    path = folder / "table.json"
    table.write(path)
    return to_int8(source, output, table=table, table_sha256=sha256_of(path), profile=ORT_X86)


def _iou(
    artifact: Artifact,
    images: NDArray[np.float32],
    truths: NDArray[np.bool_],
    fields: NDArray[np.bool_] | None,
    threads: int,
) -> float:
    execution = Execution(threads=threads)
    with open_runtime(RuntimeName.ONNXRUNTIME, artifact, execution=execution) as runtime:
        predicted = infer_each(runtime, images)[:, 0] >= FOREGROUND_PROBABILITY
    return float(iou_per_image(predicted, truths, fields).mean())
