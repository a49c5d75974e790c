"""One network of the zoo with every tool: files, figures, and times taken in turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.parity.evidence import compare
from segdeploy.benchmarks.peers.contenders import Contender, quantized_contenders
from segdeploy.benchmarks.peers.models import Job, Made, Model, made_before, make
from segdeploy.benchmarks.peers.speed_rows import ALLOWED_DROP
from segdeploy.benchmarks.peers.zoo.cells import (
    Accuracy,
    Cell,
    Timing,
    read_cell,
    read_timing,
    save,
)
from segdeploy.benchmarks.peers.zoo.networks import Entry
from segdeploy.benchmarks.speed.blocks import Blocks, Timed, take_turns
from segdeploy.calibration.noise import Noise
from segdeploy.deploy.data.contract import Contract
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.presets import preset
from segdeploy.deploy.models.checkpoint import Checkpoint, load_checkpoint
from segdeploy.deploy.models.module import LoadedModule, module_of_factory
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import contract_of, describe
from segdeploy.deploy.runtimes.base import Hint, Runtime, infer_each
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.stages.simplify import simplify
from segdeploy.deploy.system.errors import InputError, SegdeployError
from segdeploy.deploy.system.progress import LabelledProgress
from segdeploy.deploy.system.shown_command import shown_text

Pixels = NDArray[np.float32]

WARMUP = 5
"""Untimed calls of each contender."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the zoo is measured.

    Attributes:
        calibration: images every tool calibrates with.
        evaluation: images every model is scored on.
        threads: of every runtime.
        rounds: blocks of each contender; 0 takes no times.
        batch: images of a call where throughput is measured.
        output: folder of the models and the figures.
        tune_s: seconds to search each network's placement; 0 leaves the tuned files out.
    """

    calibration: SegmentationSet
    evaluation: SegmentationSet
    threads: int
    rounds: int
    batch: int
    output: Path
    tune_s: float = 0.0


def float_model(entry: Entry, weights: Path, folder: Path) -> Artifact:
    """The simplified export of a network with its weights, written unless it is there.

    Raises:
        InputError: the weights do not fit the network.
        RunError: PyTorch cannot export it.
    """
    path = folder / "float.sim.onnx"
    if path.exists():
        return describe(path)
    folder.mkdir(parents=True, exist_ok=True)
    source: Checkpoint | LoadedModule
    if entry.bundled is not None:
        source = load_checkpoint(weights)
    else:
        contract = Contract(preprocess=preset("published"))
        source = module_of_factory(entry.factory, contract, path=weights)
    return simplify(export(source, folder / "float.onnx"), path)


def measure_network(
    entry: Entry, weights: Path, plan: Plan, *, bar: LabelledProgress[Contender]
) -> tuple[list[Cell], Timing | None]:
    """Every contender of one network; what an earlier run measured is taken from its files.

    Args:
        entry: the network.
        weights: of it.
        plan: how to measure.
        bar: a progress bar over contenders, with a label.

    Raises:
        InputError: the network itself cannot be exported or run in float.
        RunError: likewise.
    """
    folder = plan.output / entry.name
    model = float_model(entry, weights, folder)
    preprocess = contract_of(model)
    job = Job(
        model=model,
        preprocess=preprocess,
        calibration=plan.calibration,
        threads=plan.threads,
        tune_s=plan.tune_s,
    )
    judge = _Judge(job, plan)
    cells = []
    everybody = quantized_contenders(tuned=plan.tune_s > 0)
    for contender in bar(everybody, entry.name):
        path = folder / f"{_slug(contender)}.json"
        cell = read_cell(path, source_sha256=model.sha256)
        if cell is None:
            cell = _cell(entry, contender, job, judge, folder)
            save(cell, path)
        cells.append(cell)
    if plan.rounds == 0:
        return cells, read_timing(folder / "timing.json")
    able = [c for c, cell in zip(everybody, cells, strict=True) if cell.skipped is None]
    return cells, _timing(entry, able, job, plan, folder)


def stored_cells(folder: Path) -> list[Cell]:
    """What was measured of a network, in the order of the table.

    Raises:
        InputError: a file is damaged.
    """
    found = (read_cell(folder / f"{_slug(c)}.json") for c in quantized_contenders(tuned=True))
    return [cell for cell in found if cell is not None]


def _slug(contender: Contender) -> str:
    """A contender's name in a file name.

    Example:
        >>> _slug(quantized_contenders()[0])
        'onnx-runtime-fp32'
    """
    return "-".join(contender.name.lower().replace(",", " ").split())


class _Judge:
    """Scores models on the evaluation images beside the float model, which is run once."""

    def __init__(self, job: Job, plan: Plan) -> None:
        self.execution = Execution(threads=plan.threads)
        self.images = plan.evaluation.inputs(job.preprocess)
        self.truths = plan.evaluation.truths(job.preprocess)
        self.fields = plan.evaluation.fields(job.preprocess)
        self.names = [sample.name for sample in plan.evaluation]
        with open_runtime(RuntimeName.ONNXRUNTIME, job.model, execution=self.execution) as runtime:
            self.reference = infer_each(runtime, self.images)[:, 0]

    def score(self, runtime: Runtime) -> Accuracy:
        """The figures of an open runtime."""
        found = infer_each(runtime, self.images)[:, 0]
        report = compare(
            "float",
            runtime.name,
            self.reference,
            found,
            self.truths,
            max_drop=ALLOWED_DROP,
            image_names=self.names,
            field=self.fields,
        )
        return Accuracy(
            iou=math.fsum(report.candidate_iou_per_image) / len(report.images),
            delta=report.delta,
            ci95=report.ci95,
            sqnr_db=Noise.between(self.reference, found).sqnr_db,
            int8_mac_share=runtime.executed.int8_mac_share,
            executed=runtime.executed.words,
        )


def _cell(entry: Entry, contender: Contender, job: Job, judge: _Judge, folder: Path) -> Cell:
    assert contender.runtime is not None, "contenders of the zoo run files"
    about = partial(
        Cell,
        network=entry.name,
        contender=contender.name,
        group=contender.group.value,
        runtime=contender.runtime.value,
        source_sha256=job.model.sha256,
    )
    if reason := contender.missing():
        return about(skipped=reason)
    assert contender.model is not None, "contenders of the zoo run files"
    is_float = contender.model is Model.FLOAT
    made = Made(artifact=job.model) if is_float else make(contender.model, job, folder)
    if made.artifact is None:
        return about(skipped=made.skipped)
    try:
        with open_runtime(contender.runtime, made.artifact, execution=judge.execution) as runtime:
            accuracy = judge.score(runtime)
    except SegdeployError as error:
        return about(skipped=f"failed: {shown_text(str(error))}")
    return about(
        accuracy=accuracy,
        seconds=made.cost.seconds if made.cost else None,
        peak_bytes=made.cost.peak_bytes if made.cost else None,
    )


def _timing(
    entry: Entry, able: Sequence[Contender], job: Job, plan: Plan, folder: Path
) -> Timing | None:
    """All models of one network in turn; ``None`` where fewer than two run."""
    path = folder / "timing.json"
    found = read_timing(path)
    if found is not None and set(found.latency_s) == {c.name for c in able}:
        return found
    if len(able) < 2:
        return None
    models = {c.name: _written(c, job, folder) for c in able}
    one = Execution(threads=plan.threads)
    many = Execution(threads=plan.threads, batch=plan.batch, streams=1, hint=Hint.LATENCY)
    found = Timing(
        network=entry.name,
        latency_s=_turns(able, models, one, job, plan),
        throughput_s=_turns(able, models, many, job, plan),
        batch=plan.batch,
        threads=plan.threads,
    )
    save(found, path)
    return found


def _written(contender: Contender, job: Job, folder: Path) -> Artifact:
    """The model that an earlier step wrote, made again where its file is gone."""
    assert contender.model is not None, "contenders of the zoo run files"
    found = made_before(contender.model, job, folder)
    if found is not None:
        return found
    made = make(contender.model, job, folder)
    if made.artifact is None:
        raise InputError(f"{contender.name}: {made.skipped}")
    return made.artifact


def _turns(
    able: Sequence[Contender],
    models: dict[str, Artifact],
    execution: Execution,
    job: Job,
    plan: Plan,
) -> dict[str, tuple[tuple[float, ...], ...]]:
    images = plan.evaluation.inputs(job.preprocess)
    feed = np.ascontiguousarray(images[np.arange(execution.batch) % len(images)])
    with ExitStack() as stack:
        timed = []
        for contender in able:
            assert contender.runtime is not None, "contenders of the zoo run files"
            runtime = stack.enter_context(
                open_runtime(contender.runtime, models[contender.name], execution=execution)
            )
            feeds = {runtime.inputs[0].name: feed}
            for _ in range(WARMUP):
                runtime.infer(feeds)
            timed.append(Timed.of(contender.name, runtime, feeds))
        blocks: tuple[Blocks, ...] = take_turns(timed, rounds=plan.rounds)
    return {each.name: each.blocks_s for each in blocks}
