"""One network of the zoo with every tool: files, figures, and times taken in turn."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.parity.evidence import compare
from segdeploy.benchmarks.peers.contenders import Contender, quantized_contenders
from segdeploy.benchmarks.peers.models import (
    TUNED,
    Job,
    Made,
    Model,
    made_before,
    make,
    settings_of,
)
from segdeploy.benchmarks.peers.speed_rows import ALLOWED_DROP
from segdeploy.benchmarks.peers.zoo.cells import (
    Accuracy,
    Cell,
    FloatModel,
    Timing,
    read_record,
    save,
)
from segdeploy.benchmarks.peers.zoo.keys import Key, agree, judged_sha256, key_of
from segdeploy.benchmarks.peers.zoo.networks import Entry
from segdeploy.benchmarks.speed.blocks import Blocks, Timed, take_turns
from segdeploy.calibration.noise import Noise
from segdeploy.deploy.data.contract import Contract
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.presets import preset
from segdeploy.deploy.models.checkpoint import Checkpoint, load_checkpoint
from segdeploy.deploy.models.module import LoadedModule, module_of_factory
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.onnx_model.file import contract_of, describe
from segdeploy.deploy.runtimes.base import Hint, Runtime, infer_each
from segdeploy.deploy.runtimes.executed import UNKNOWN, Executed, executed_of, file_layers
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.stages.simplify import simplify
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.errors import InputError, SegdeployError
from segdeploy.deploy.system.progress import LabelledProgress
from segdeploy.deploy.system.shown_command import shown_text

log = logging.getLogger(__name__)

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
        validation: images with masks that NNCF's accuracy control scores; ``None`` where the data
            has no split for that: those that calibrate.
    """

    calibration: SegmentationSet
    evaluation: SegmentationSet
    threads: int
    rounds: int
    batch: int
    output: Path
    tune_s: float = 0.0
    validation: SegmentationSet | None = None

    @cached_property
    def images(self) -> Key:
        """Digests of the images that decide every figure."""
        return {
            "calibration": self.calibration.sha256(),
            "evaluation": judged_sha256(self.evaluation),
        }

    @cached_property
    def validation_sha256(self) -> str:
        """Digest of what accuracy control scores."""
        return judged_sha256(self.validation or self.calibration)


def cell_key(contender: Contender, source_sha256: str, plan: Plan) -> Key:
    """Everything that decides a cell; what decides only this one stands under its name.

    Args:
        contender: of the cell.
        source_sha256: of the float model.
        plan: how it is measured.
    """
    assert contender.model is not None, "contenders of the zoo run files"
    own: list[object] = [contender.model.value, contender.precision.value]
    own += settings_of(contender.model)
    if contender.model in TUNED:
        own.append(plan.tune_s)
    if contender.model is Model.NNCF_ACCURACY:
        own.append(plan.validation_sha256)
    return key_of(
        source=source_sha256, **plan.images, threads=plan.threads, **{f"of {contender.name}": own}
    )


def timing_key(cells: Sequence[Cell], plan: Plan) -> Key:
    """Everything that decides the times of those cells that ran."""
    return key_of(
        **plan.images,
        threads=plan.threads,
        rounds=plan.rounds,
        batch=plan.batch,
        warmup=WARMUP,
        models=_models(cells),
    )


def float_model(entry: Entry, weights: Path, folder: Path) -> Artifact:
    """The simplified export of a network with its weights, written unless it is there and of them.

    Raises:
        InputError: the weights do not fit the network.
        RunError: PyTorch cannot export it.
    """
    path, record = folder / "float.sim.onnx", folder / "float.json"
    key = key_of(
        network=entry.name,
        architecture=[entry.bundled or entry.factory, entry.width],
        weights=sha256_of(weights),
    )
    kept = read_record(record, FloatModel)
    there = sha256_of(path) if path.exists() else None
    if kept is not None and (kept.decided_by, kept.sha256) == (key, there):
        return describe(path)
    folder.mkdir(parents=True, exist_ok=True)
    source: Checkpoint | LoadedModule
    if entry.bundled is not None:
        source = load_checkpoint(weights)
    else:
        contract = Contract(preprocess=preset("published"))
        source = module_of_factory(entry.factory, contract, path=weights)
    found = simplify(export(source, folder / "float.onnx"), path)
    save(FloatModel(decided_by=key, sha256=found.sha256), record)
    return found


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
        validation=plan.validation,
    )
    judge = _Judge(job, plan)
    cells = []
    everybody = quantized_contenders(tuned=plan.tune_s > 0)
    for contender in bar(everybody, entry.name):
        path = folder / f"{slug(contender.name)}.json"
        cell = read_record(path, Cell)
        key = cell_key(contender, model.sha256, plan)
        if cell is None or cell.decided_by != key or not _has_its_file(cell, job, folder):
            cell = _cell(entry, contender, job, judge, folder, key)
            save(cell, path)
        cells.append(cell)
    if plan.rounds == 0:
        return cells, stored_timing(folder, cells)
    able = [c for c, cell in zip(everybody, cells, strict=True) if cell.skipped is None]
    return cells, _timing(able, cells, job, plan, folder)


def stored_cells(folder: Path) -> list[Cell]:
    """What was measured of a network in one setting, in the order of the table.

    Figures of other images, threads, weights or versions than the first one's are left behind,
    with a warning: a later run measured only a part again.

    Raises:
        InputError: a file is damaged.
    """
    paths = (folder / f"{slug(c.name)}.json" for c in quantized_contenders(tuned=True))
    found = [cell for cell in (read_record(path, Cell) for path in paths) if cell is not None]
    kept = [cell for cell in found if agree(cell.decided_by, found[0].decided_by)]
    if stale := [cell.contender for cell in found if cell not in kept]:
        log.warning(
            "%s: left out, measured in another setting than %s: %s",
            folder.name,
            found[0].contender,
            ", ".join(stale),
        )
    return kept


def stored_timing(folder: Path, cells: Sequence[Cell]) -> Timing | None:
    """Times taken of the very files of these cells in their setting; ``None`` without such.

    Raises:
        InputError: the file is damaged.
    """
    found, models = read_record(folder / "timing.json", Timing), _models(cells)
    if found is None or not all(agree(found.decided_by, cell.decided_by) for cell in cells):
        return None
    same = all(models.get(name) == digest for name, digest in found.models.items())
    return found if same else None


def _models(cells: Sequence[Cell]) -> dict[str, str]:
    """Digest of the file of each cell that has figures."""
    return {c.contender: c.model_sha256 for c in cells if c.accuracy and c.model_sha256}


def _has_its_file(cell: Cell, job: Job, folder: Path) -> bool:
    """Whether the file a cell is of is still there; one without a file needs none."""
    if cell.model_sha256 is None:
        return True
    found = made_before(Model(cell.model), job, folder)
    return found is not None and found.sha256 == cell.model_sha256


def slug(name: str) -> str:
    """A contender's name in a file name.

    Example:
        >>> slug("NNCF mixed, OpenVINO")
        'nncf-mixed-openvino'
    """
    return "-".join(name.lower().replace(",", " ").split())


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

    def score(self, runtime: Runtime, executed: Executed) -> Accuracy:
        """The figures of an open runtime, of which is told what it executes."""
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
        told = all(layer.precision != UNKNOWN for layer in executed.layers)
        return Accuracy(
            iou=math.fsum(report.candidate_iou_per_image) / len(report.images),
            delta=report.delta,
            ci95=report.ci95,
            sqnr_db=Noise.between(self.reference, found).sqnr_db,
            int8_mac_share=executed.int8_mac_share if told else None,
            executed=executed.words,
        )


def executed_of_source(runtime: Runtime, source: Artifact) -> Executed:
    """What runs of a file of OpenVINO's own, which tells no shapes: the layers are its source's.

    OpenVINO keeps the names of the nodes that it came from.
    """
    from segdeploy.deploy.runtimes.openvino import OpenVinoRuntime, kernels_of

    assert isinstance(runtime, OpenVinoRuntime), "nobody else opens such a file"
    kernels = kernels_of(runtime.graph())
    return executed_of(file_layers(source.path), kernels, requested=Precision.INT8)


def _cell(
    entry: Entry, contender: Contender, job: Job, judge: _Judge, folder: Path, key: Key
) -> Cell:
    assert contender.runtime is not None, "contenders of the zoo run files"
    assert contender.model is not None, "contenders of the zoo run files"
    about = partial(
        Cell,
        network=entry.name,
        contender=contender.name,
        group=contender.group.value,
        model=contender.model.value,
        runtime=contender.runtime.value,
        decided_by=key,
    )
    if reason := contender.missing():
        return about(skipped=reason)
    is_float = contender.model is Model.FLOAT
    made = Made(artifact=job.model) if is_float else make(contender.model, job, folder)
    if made.artifact is None:
        return about(skipped=made.skipped)
    try:
        with open_runtime(contender.runtime, made.artifact, execution=judge.execution) as runtime:
            foreign = made.artifact.path.suffix != ".onnx"
            executed = executed_of_source(runtime, job.model) if foreign else runtime.executed
            accuracy = judge.score(runtime, executed)
    except SegdeployError as error:
        return about(skipped=f"failed: {shown_text(str(error))}")
    return about(
        accuracy=accuracy,
        model_sha256=made.artifact.sha256,
        seconds=made.cost.seconds if made.cost else None,
        peak_bytes=made.cost.peak_bytes if made.cost else None,
    )


def _timing(
    able: Sequence[Contender], cells: Sequence[Cell], job: Job, plan: Plan, folder: Path
) -> Timing | None:
    """All models of one network in turn; ``None`` where fewer than two run."""
    path, key = folder / "timing.json", timing_key(cells, plan)
    found = read_record(path, Timing)
    if found is not None and found.decided_by == key:
        return found
    if len(able) < 2:
        return None
    models = {c.name: _written(c, job, folder) for c in able}
    one = Execution(threads=plan.threads)
    many = Execution(threads=plan.threads, batch=plan.batch, streams=1, hint=Hint.LATENCY)
    found = Timing(
        network=cells[0].network,
        decided_by=key,
        models={name: model.sha256 for name, model in models.items()},
        latency_s=_turns(able, models, one, job, plan),
        throughput_s=_turns(able, models, many, job, plan),
        batch=plan.batch,
        threads=plan.threads,
    )
    save(found, path)
    return found


def _written(contender: Contender, job: Job, folder: Path) -> Artifact:
    """The model that its cell is of; the step before wrote it, or found it."""
    assert contender.model is not None, "contenders of the zoo run files"
    found = made_before(contender.model, job, folder)
    if found is None:
        raise InputError(f"{contender.name}: its file in {folder} is gone; run the command again")
    return found


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
