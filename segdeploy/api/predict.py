"""Predict: write the mask of every image, at its own size."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from segdeploy.api.choices import choice, choices
from segdeploy.api.data import pages_of
from segdeploy.api.models import is_checkpoint, is_module, model_of
from segdeploy.api.outputs import AnyPath
from segdeploy.api.recommended import Recommended
from segdeploy.api.runtimes import runtimes_of
from segdeploy.deploy.distributed.engine import RAY_WORKERS, Engine
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.onnx_model.interface import Interface
from segdeploy.deploy.prediction.model import CheckpointModel, Model, onnx_model, require_possible
from segdeploy.deploy.prediction.run import Summary
from segdeploy.deploy.prediction.run import predict as predict_images
from segdeploy.deploy.prediction.settings import Fit, Settings, Write
from segdeploy.deploy.prediction.sources import sources_of
from segdeploy.deploy.runtimes.execution import Execution, Hint
from segdeploy.deploy.runtimes.registry import RuntimeName, usable_cores
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.progress import count_bar

if TYPE_CHECKING:
    from segdeploy.api.models import AnyModel

log = logging.getLogger(__name__)

PYTORCH: Final = "pytorch"
"""The runtime of a checkpoint."""

OVERLAP_PART = 4
"""Neighbouring tiles share a quarter of a tile where nothing else is said."""


def predict(
    model: AnyModel,
    images: AnyPath | Sequence[AnyPath],
    out: AnyPath,
    *,
    write: Write | str | Sequence[Write | str] = Write.MASK,
    classes: Sequence[str] = (),
    fit: Fit | str = Fit.RESIZE,
    overlap: int | None = None,
    scale: float = 1.0,
    runtime: RuntimeName | str | None = None,
    precision: Precision | str = Precision.FP32,
    batch: int = 1,
    threads: int | None = None,
    streams: int | None = None,
    workers: int | None = None,
    engine: Engine | str = Engine.LOCAL,
    levels: tuple[float, float] | None = None,
    page: int | Sequence[int] | None = None,
    overwrite: bool = False,
) -> Summary:
    """Write the outputs of every image, and an index of what became of each.

    Images that are done stay done while model, settings and image are the same: interrupted, the
    same call goes on. One that cannot be decoded ends nothing; the index says why.

    Args:
        model: what a run recommends, an ONNX file or a checkpoint.
        images: image files; folders, with all folders in them; patterns; ``@FILE``, a list with a
            path a line.
        out: folder to write to.
        write: mask (255 where the probability is at least 0.5; of several classes their indices, or
            a mask for each where they may overlap), probability, probability-npy, overlay, labels.
        classes: whose probabilities are written, by name or index; none for all.
        fit: resize, pad or tile; see ``Fit``.
        overlap: pixels that tiles share, at least; ``None`` is a quarter of a tile.
        scale: resize the image by this before pad or tile.
        runtime: by name, or "auto": measure and take the fastest; ``None`` takes what the model
            suits and is here.
        precision: of the layers that are not quantized, fp32 or bf16.
        batch: resized images or tiles a call.
        threads: ``None`` takes every processor of this process; with Ray one.
        streams: calls at once; ``None`` is one for each thread; with Ray one.
        workers: threads that decode and encode; with Ray, processes that each hold the model.
        engine: local, or ray.
        levels: of images of 16 bits, which levels become 0 and 255 for a model that takes 8.
        page: of files of several pages, which is the image, from 0.
        overwrite: do every image again.

    Raises:
        InputError: the model cannot do what is asked or does not load, or no such image.
        UsageError: settings that contradict each other, or a folder that is not a prediction's.
        RunError: Ray failed.
        OSError: a file cannot be written.
    """
    where = choice(Engine, engine, what="engine")
    if where is Engine.RAY:
        from segdeploy.deploy.distributed.ray_workers import require_ray

        require_ray()
    used = threads or (1 if where is Engine.RAY else usable_cores())
    execution = Execution(
        threads=used,
        batch=batch,
        streams=streams or (1 if where is Engine.RAY else used),
        hint=Hint.THROUGHPUT,
        precision=choice(Precision, precision, what="precision"),
    )
    chosen = prediction_model(model, runtime=runtime, execution=execution)
    contract = chosen.preprocess.of_source(levels, pages_of(page))
    if chosen.interface is Interface.IMAGE and not contract.eight_bit:
        raise UsageError(
            f"--range is for a model that takes normalised tensors, and {chosen.name} takes 8-bit "
            "pixels; take the file it was made from"
        )
    chosen = replace(chosen, preprocess=contract)
    settings = prediction_settings(
        chosen,
        write=choices(Write, write, what="write"),
        classes=classes,
        fit=choice(Fit, fit, what="fit"),
        overlap=overlap,
        scale=scale,
    )
    require_possible(chosen, settings, execution)
    if settings.fit is Fit.RESIZE and contract.may_crop:
        log.warning(
            "the input contract crops images (%s): what is cropped away belongs to no class in the "
            "outputs; --fit tile shows the model every pixel",
            contract.words,
        )
    given = [images] if isinstance(images, (str, os.PathLike)) else images
    output = Path(out)
    sources = sources_of(
        [os.fspath(each) for each in given],
        output=output,
        writes=settings.writes,
        contract=chosen.output,
    )
    with count_bar("predict", total=len(sources), unit="image") as progress:
        return predict_images(
            sources,
            model=chosen,
            settings=settings,
            execution=execution,
            output=output,
            workers=workers or (RAY_WORKERS if where is Engine.RAY else usable_cores()),
            engine=where,
            overwrite=overwrite,
            progress=progress,
        )


def prediction_model(
    model: AnyModel,
    *,
    runtime: RuntimeName | str | None,
    execution: Execution,
) -> Model:
    """The model in the runtime that is meant.

    Raises:
        InputError: it cannot be loaded, or the runtime is not ready.
        UsageError: a runtime that does not run it.
    """
    if isinstance(model, Recommended):
        return onnx_model(model.artifact.path, _named(runtime or model.runtime, model, execution))
    found = model_of(model)
    if is_module(found):
        raise UsageError(f"{found.name} is a module; export it first, this takes its ONNX file")
    if is_checkpoint(found):
        if runtime not in (None, PYTORCH):
            raise UsageError(
                f"--runtime {runtime} runs ONNX files, and {found.path} is none; leave it out, or "
                "`segdeploy export` first"
            )
        return CheckpointModel.of(found)
    if runtime == PYTORCH:
        raise UsageError(f"--runtime {PYTORCH} runs checkpoints; {found.path} is an ONNX file")
    assert isinstance(found, Artifact)
    return onnx_model(found.path, _named(runtime, found, execution))


def _named(
    runtime: RuntimeName | str | None, model: Recommended | Artifact, execution: Execution
) -> RuntimeName | None:
    artifact = model.artifact if isinstance(model, Recommended) else model
    names = runtimes_of(runtime, [artifact], execution=execution)
    return names[0] if names else None


def prediction_settings(
    model: Model,
    *,
    write: Sequence[Write],
    fit: Fit,
    overlap: int | None,
    scale: float,
    classes: Sequence[str] = (),
) -> Settings:
    """How images meet a model, with what the model decides where nothing is said.

    Raises:
        UsageError: settings that contradict each other, or a class that the model has not.
    """
    if overlap is None:
        overlap = min(model.preprocess.size) // OVERLAP_PART if fit is Fit.TILE else 0
    writes = tuple(each for each in Write if each in write)
    chosen = tuple(sorted({_index(model, name) for name in classes}))
    return Settings(fit=fit, overlap=overlap, scale=scale, writes=writes, classes=chosen)


def _index(model: Model, name: str) -> int:
    """Of a class, by its name or index."""
    names = model.output.classes
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    raise UsageError(
        f"{model.name} has no class {name!r}; it has {', '.join(names)} (0 to {len(names) - 1})"
    )
