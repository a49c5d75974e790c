"""The model files whose speed is compared: ours, and those other tools make of the same network."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.benchmarks.peers.quantize import Recipe, Request, write
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.onnx_model.file import describe
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.rewrites.channel_activity import channel_activity
from segdeploy.deploy.runtimes.registry import RuntimeName, availability
from segdeploy.deploy.stages.rewrite import rewrite
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.errors import RunError, SegdeployError
from segdeploy.deploy.system.progress import ItemProgress
from segdeploy.deploy.system.shown_command import shown_text
from segdeploy.deploy.system.worker_process import call_alone
from segdeploy.deploy.targets.profiles import native_profile_here

if TYPE_CHECKING:  # importing torch takes seconds
    from segdeploy.deploy.models.checkpoint import Checkpoint

_NNCF_INSTALL = "nncf is not installed; pip install 'segdeploy[peers]'"


class Model(str, Enum):
    """What a contender runs, where it is not the checkpoint itself."""

    FLOAT = "float"
    ORT_STATIC = Recipe.ORT_STATIC.value
    NNCF_PERFORMANCE = Recipe.NNCF_PERFORMANCE.value
    NNCF_MIXED = Recipe.NNCF_MIXED.value
    OURS_ORT = "segdeploy-onnxruntime"
    OURS_OPENVINO = "segdeploy-openvino"
    PRUNED_ORT = "segdeploy-pruned-onnxruntime"
    PRUNED_OPENVINO = "segdeploy-pruned-openvino"


@dataclass(frozen=True, kw_only=True)
class Made:
    """A model file, or the reason why there is none.

    Raises:
        RunError: both, or neither.
    """

    artifact: Artifact | None = None
    skipped: str | None = None

    def __post_init__(self) -> None:
        if (self.artifact is None) == (self.skipped is None):
            raise RunError("there is a model or a reason why not, and not both")


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
    for step in progress((*Recipe, None)):
        if step is None:
            made |= _ours(subject.model, subject, folder, (Model.OURS_ORT, Model.OURS_OPENVINO))
            if subject.pruned is not None:
                models = (Model.PRUNED_ORT, Model.PRUNED_OPENVINO)
                made |= _ours(subject.pruned, subject, folder, models)
        else:
            made[Model(step.value)] = _theirs(step, subject, folder)
    return made


def _ours(
    source: Artifact, subject: SpeedSubject, folder: Path, models: tuple[Model, Model]
) -> dict[Model, Made]:
    """Ours as ``segdeploy run`` makes them: rewritten, calibrated, quantized for each target.

    Args:
        source: the simplified export.
        subject: the images.
        folder: where to write.
        models: what to call the result for ONNX Runtime and for OpenVINO.
    """
    images, preprocess, threads = subject.calibration, subject.preprocess, subject.threads
    activity = channel_activity(source.path, images.samples, preprocess=preprocess, threads=threads)
    rewritten = rewrite(source, folder / f"{models[0].value}.opt.onnx", activity=activity)
    table = calibrate(rewritten, images, preprocess=preprocess, threads=threads)
    table_path = folder / f"{models[0].value}.calib.json"
    table.write(table_path)
    runtimes = (RuntimeName.ONNXRUNTIME, RuntimeName.OPENVINO)
    profiles = dict(zip(models, map(native_profile_here, runtimes), strict=True))
    return {
        model: Made(
            artifact=to_int8(
                rewritten,
                folder / f"{model.value}.onnx",
                table=table,
                table_sha256=sha256_of(table_path),
                profile=profile,
            )
        )
        for model, profile in profiles.items()
    }


def _theirs(recipe: Recipe, subject: SpeedSubject, folder: Path) -> Made:
    is_nncf = recipe is not Recipe.ORT_STATIC
    missing = availability(RuntimeName.OPENVINO).reason if is_nncf else None
    if is_nncf and importlib.util.find_spec("nncf") is None:
        missing = _NNCF_INSTALL
    if missing:
        return Made(skipped=missing)
    output = folder / f"{recipe.value}.{'xml' if is_nncf else 'onnx'}"
    profile = native_profile_here(RuntimeName.ONNXRUNTIME)
    request = Request(
        recipe=recipe,
        model=subject.model.path,
        input_name=subject.model.inputs[0].name,
        images=tuple(sample.image_path for sample in subject.calibration),
        preprocess=subject.preprocess,
        activation_type=profile.activation_type,
        reduce_range=profile.reduce_range,
        output=output,
    )
    try:
        call_alone(write, request)
    except SegdeployError as error:
        return Made(skipped=f"failed: {shown_text(str(error))}")
    return Made(artifact=_openvino_file(output, subject.model) if is_nncf else describe(output))


def _openvino_file(path: Path, source: Artifact) -> Artifact:
    """An OpenVINO file of an int8 network; its names and shapes are those of its source."""
    return replace(
        source,
        path=path,
        precision=Precision.INT8,
        sha256=sha256_of(path.with_suffix(".bin")),
        parent=source.sha256,
    )
