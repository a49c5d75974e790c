"""The model files whose speed is compared: ours, and those other tools make of the same network."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

from segdeploy.benchmarks.peers.quantize import SETTINGS, STANDARD, Cost, Recipe, Request, write
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.onnx_model.file import describe
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.rewrites.channel_activity import channel_activity
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.registry import RuntimeName, availability
from segdeploy.deploy.stages.rewrite import rewrite
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.errors import RunError, SegdeployError
from segdeploy.deploy.system.memory import peak_bytes
from segdeploy.deploy.system.progress import ItemProgress
from segdeploy.deploy.system.shown_command import shown_text
from segdeploy.deploy.system.worker_process import call_alone
from segdeploy.deploy.targets.profiles import native_profile_here

if TYPE_CHECKING:  # importing torch takes seconds
    from segdeploy.deploy.models.checkpoint import Checkpoint

TUNE_IMAGES = 8
"""Calibration images whose output a tuned file is judged by."""

_NNCF_INSTALL = "nncf is not installed; pip install 'segdeploy[peers]'"


class Model(str, Enum):
    """What a contender runs, where it is not the checkpoint itself."""

    FLOAT = "float"
    ORT_STATIC = Recipe.ORT_STATIC.value
    NNCF_PERFORMANCE = Recipe.NNCF_PERFORMANCE.value
    NNCF_MIXED = Recipe.NNCF_MIXED.value
    NNCF_ACCURACY = Recipe.NNCF_ACCURACY.value
    OURS_ORT = "segdeploy-onnxruntime"
    OURS_OPENVINO = "segdeploy-openvino"
    TUNED_ORT = "segdeploy-tuned-onnxruntime"
    TUNED_OPENVINO = "segdeploy-tuned-openvino"
    PRUNED_ORT = "segdeploy-pruned-onnxruntime"
    PRUNED_OPENVINO = "segdeploy-pruned-openvino"


@dataclass(frozen=True, kw_only=True)
class Made:
    """A model file, or the reason why there is none.

    Attributes:
        artifact: the file.
        skipped: the reason.
        cost: what making it took, where a process of its own did.

    Raises:
        RunError: both, or neither.
    """

    artifact: Artifact | None = None
    skipped: str | None = None
    cost: Cost | None = None

    def __post_init__(self) -> None:
        if (self.artifact is None) == (self.skipped is None):
            raise RunError("there is a model or a reason why not, and not both")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every tool makes its int8 model from.

    Attributes:
        model: the simplified export.
        preprocess: its input contract.
        calibration: images every tool calibrates with.
        threads: processors every tool may use.
        tune_s: seconds that a search for the fastest placement may take.
        validation: images with masks that accuracy control scores; ``None`` takes those that
            calibrate.
    """

    model: Artifact
    preprocess: Preprocess
    calibration: SegmentationSet
    threads: int
    tune_s: float = 0.0
    validation: SegmentationSet | None = None


@dataclass(frozen=True, kw_only=True)
class SpeedSubject:
    """The network that is compared, and what its models are made from and judged on.

    Attributes:
        checkpoint: what PyTorch runs.
        model: its export, simplified; every other model is made from it.
        calibration: images every tool calibrates with.
        evaluation: images every contender is scored on.
        threads: processors every contender may use.
        pruned: the export, simplified, of UNet++ up to the head before the last: the same weights
            without the outermost level; ``None`` where there is no such head.
    """

    checkpoint: Checkpoint
    model: Artifact
    calibration: SegmentationSet
    evaluation: SegmentationSet
    threads: int
    pruned: Artifact | None = None

    @property
    def preprocess(self) -> Preprocess:
        """The network's input contract."""
        return self.checkpoint.preprocess

    def job(self, model: Artifact) -> Job:
        """What is made of one of its exports."""
        return Job(
            model=model,
            preprocess=self.preprocess,
            calibration=self.calibration,
            threads=self.threads,
        )


def make_models(
    subject: SpeedSubject,
    folder: Path,
    *,
    progress: ItemProgress[Recipe | None] = iter,
) -> dict[Model, Made]:
    """Quantize with every tool, ours last.

    Args:
        subject: the network and its images.
        folder: where to write; kept as long as the models run.
        progress: wraps the steps, for a progress bar.

    Returns:
        Each model. A tool that is not installed, or fails, is a reason.

    Raises:
        InputError: our tool does not accept the model or the images.
    """
    made = {Model.FLOAT: Made(artifact=subject.model)}
    for step in progress((*STANDARD, None)):
        if step is None:
            made |= _ours(subject.job(subject.model), folder, OURS)
            if subject.pruned is not None:
                made |= _ours(subject.job(subject.pruned), folder, PRUNED)
        else:
            made[Model(step.value)] = _theirs(step, subject.job(subject.model), folder)
    return made


def make(model: Model, job: Job, folder: Path) -> Made:
    """One int8 model of the whole network, made in a fresh process, with what that took.

    Args:
        model: ours for a runtime, or another tool's.
        job: what it is made from.
        folder: where to write.

    Returns:
        The model, or the reason why there is none; ours can fail like any other.
    """
    if model not in OURS | TUNED:
        return _theirs(Recipe(model.value), job, folder)
    try:
        if model in TUNED:
            cost = call_alone(write_tuned, job, folder, model)
        else:
            cost = call_alone(write_ours, job, folder, {model: OURS[model]})
    except SegdeployError as error:
        return Made(skipped=f"failed: {shown_text(str(error))}")
    return Made(artifact=describe(folder / f"{model.value}.onnx"), cost=cost)


def made_before(model: Model, job: Job, folder: Path) -> Artifact | None:
    """The model that ``make`` wrote into a folder; ``None`` where there is none, or half of one."""
    if model is Model.FLOAT:
        return job.model
    path = _path(model, folder)
    try:
        return describe(path) if path.suffix == ".onnx" else _openvino_file(path, job.model)
    except (SegdeployError, OSError):
        return None


def settings_of(model: Model) -> tuple[str, ...]:
    """What a tool is asked for beside the job: it decides the file."""
    if model is Model.FLOAT:
        return ()
    if model in OURS | TUNED:
        return (native_profile_here((OURS | TUNED)[model]).name, str(TUNE_IMAGES))
    recipe, profile = Recipe(model.value), native_profile_here(RuntimeName.ONNXRUNTIME)
    chosen = (profile.activation_type.value, str(profile.reduce_range))
    return (SETTINGS[recipe], *(chosen if recipe is Recipe.ORT_STATIC else ()))


def _path(model: Model, folder: Path) -> Path:
    """Where a model is written: NNCF's are OpenVINO's own files."""
    suffix = "onnx" if model in OURS | TUNED or model is Model.ORT_STATIC else "xml"
    return folder / f"{model.value}.{suffix}"


OURS = {Model.OURS_ORT: RuntimeName.ONNXRUNTIME, Model.OURS_OPENVINO: RuntimeName.OPENVINO}
TUNED = {Model.TUNED_ORT: RuntimeName.ONNXRUNTIME, Model.TUNED_OPENVINO: RuntimeName.OPENVINO}
PRUNED = {Model.PRUNED_ORT: RuntimeName.ONNXRUNTIME, Model.PRUNED_OPENVINO: RuntimeName.OPENVINO}
"""Our models and the runtimes that they are for."""


def _ours(job: Job, folder: Path, models: Mapping[Model, RuntimeName]) -> dict[Model, Made]:
    write_ours(job, folder, models)
    return {model: Made(artifact=describe(folder / f"{model.value}.onnx")) for model in models}


def write_ours(job: Job, folder: Path, models: Mapping[Model, RuntimeName]) -> Cost:
    """Ours as ``segdeploy run`` makes them: rewritten, calibrated, quantized for each target.

    Args:
        job: the simplified export and the images.
        folder: receives ``MODEL.onnx`` of each.
        models: what to call the result for each runtime.
    """
    started = perf_counter()
    rewritten, table, table_path = _calibrated(job, folder, next(iter(models)).value)
    for model, runtime in models.items():
        to_int8(
            rewritten,
            folder / f"{model.value}.onnx",
            table=table,
            table_sha256=sha256_of(table_path),
            profile=native_profile_here(runtime),
        )
    return Cost(seconds=perf_counter() - started, peak_bytes=peak_bytes())


def write_tuned(job: Job, folder: Path, model: Model) -> Cost:
    """Ours with Q and DQ where this machine runs the file fastest, judged on calibration images."""
    from segdeploy.benchmarks.tune.fidelity import image_feeds, judged_by_output
    from segdeploy.benchmarks.tune.run import DEVICE_FILE, Judging, tuned_file

    started, clock = perf_counter(), monotonic()
    rewritten, table, table_path = _calibrated(job, folder, model.value)
    runtime, execution = TUNED[model], Execution(threads=job.threads)
    seen = job.calibration.take(min(TUNE_IMAGES, len(job.calibration)), seed=0)

    def judging(untuned: Artifact) -> Judging:
        return judged_by_output(
            rewritten,
            untuned,
            image_feeds(rewritten, seen, batch=1),
            what=f"{len(seen)} calibration images",
            decided_by=(seen.sha256(),),
            runtime=runtime,
            execution=execution,
        )

    tuned_file(
        rewritten,
        folder / f"{model.value}.onnx",
        table=table,
        table_sha256=sha256_of(table_path),
        profile=native_profile_here(runtime),
        judging=judging,
        execution=execution,
        time_budget_s=job.tune_s,
        started=clock,
        device_file=folder / DEVICE_FILE,
    )
    return Cost(seconds=perf_counter() - started, peak_bytes=peak_bytes())


def _calibrated(job: Job, folder: Path, stem: str) -> tuple[Artifact, CalibrationTable, Path]:
    """The rewritten model, its table, and the file of the table."""
    images, preprocess, threads = job.calibration, job.preprocess, job.threads
    activity = channel_activity(
        job.model.path, images.samples, preprocess=preprocess, threads=threads
    )
    rewritten = rewrite(job.model, folder / f"{stem}.opt.onnx", activity=activity)
    table = calibrate(rewritten, images, preprocess=preprocess, threads=threads)
    table_path = folder / f"{stem}.calib.json"
    table.write(table_path)
    return rewritten, table, table_path


def _theirs(recipe: Recipe, job: Job, folder: Path) -> Made:
    is_nncf = recipe is not Recipe.ORT_STATIC
    missing = availability(RuntimeName.OPENVINO).reason if is_nncf else None
    if is_nncf and importlib.util.find_spec("nncf") is None:
        missing = _NNCF_INSTALL
    if missing:
        return Made(skipped=missing)
    output = _path(Model(recipe.value), folder)
    profile = native_profile_here(RuntimeName.ONNXRUNTIME)
    request = Request(
        recipe=recipe,
        model=job.model.path,
        input_name=job.model.inputs[0].name,
        images=tuple(sample.image_path for sample in job.calibration),
        preprocess=job.preprocess,
        activation_type=profile.activation_type,
        reduce_range=profile.reduce_range,
        output=output,
        validation=job.validation or job.calibration,
    )
    try:
        cost = call_alone(write, request)
    except SegdeployError as error:
        return Made(skipped=f"failed: {shown_text(str(error))}")
    made = _openvino_file(output, job.model) if is_nncf else describe(output)
    return Made(artifact=made, cost=cost)


def _openvino_file(path: Path, source: Artifact) -> Artifact:
    """An OpenVINO file of an int8 network; its names and shapes are those of its source."""
    files = (path, path.with_suffix(".bin"))
    return replace(
        source,
        path=path,
        precision=Precision.INT8,
        sha256=hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest(),
        parent=source.sha256,
    )
