"""The verb that takes images to masks: predict."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import Any

from segdeploy.benchmarks.speed.process import peak_bytes
from segdeploy.cli.inputs import Options, Result, checkpoint_of, runtimes_of
from segdeploy.cli.predict_flags import PYTORCH
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.prediction.model import (
    ONNX_SUFFIX,
    CheckpointModel,
    Model,
    onnx_model,
    require_possible,
)
from segdeploy.deploy.prediction.run import Engine, Summary, predict
from segdeploy.deploy.prediction.settings import Fit, Settings, Write
from segdeploy.deploy.prediction.sources import sources_of
from segdeploy.deploy.runtimes.execution import Execution, Hint
from segdeploy.deploy.runtimes.registry import usable_cores
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.progress import count_bar

log = logging.getLogger(__name__)

RAY_WORKERS = 2
OVERLAP_PART = 4
"""Neighbouring tiles share a quarter of a tile where nothing else is said."""


def run_predict(options: Options, arguments: Sequence[str]) -> Result:
    """Write the masks of images, and an index of what became of each."""
    engine = Engine(options.engine)
    if engine is Engine.RAY:
        from segdeploy.deploy.prediction.ray_engine import require_ray

        require_ray()
    execution = _execution(options, engine)
    model = _model(options, execution)
    settings = _settings(options, model)
    require_possible(model, settings, execution)
    sources = sources_of(options.images, output=options.output, writes=settings.writes)
    workers = options.workers or (RAY_WORKERS if engine is Engine.RAY else usable_cores())
    with count_bar("predict", total=len(sources), unit="image") as progress:
        summary = predict(
            sources,
            model=model,
            settings=settings,
            execution=execution,
            output=options.output,
            workers=workers,
            engine=engine,
            overwrite=options.overwrite,
            progress=progress,
        )
    _say(summary, model)
    return summary.exit_code, _result(summary, model, settings)


def _execution(options: Options, engine: Engine) -> Execution:
    """Throughput: every processor has a call of its own, unless flags say otherwise."""
    threads = options.threads or (1 if engine is Engine.RAY else usable_cores())
    return Execution(
        threads=threads,
        batch=options.batch,
        streams=options.streams or (1 if engine is Engine.RAY else threads),
        hint=Hint.THROUGHPUT,
        precision=Precision(options.precision),
    )


def _model(options: Options, execution: Execution) -> Model:
    """The model of the command line, in the runtime asked for.

    Raises:
        UsageError: a checkpoint's flag for an ONNX file, or a runtime that does not run it.
        InputError: it cannot be loaded.
    """
    if options.model.suffix.lower() != ONNX_SUFFIX:
        if options.runtime not in (None, PYTORCH):
            raise UsageError(
                f"--runtime {options.runtime} runs ONNX files, and {options.model} is none; leave "
                "it out, or `segdeploy export` first"
            )
        return CheckpointModel.of(checkpoint_of(options, options.model))
    for flag in ("arch", "recurrence", "head", "logits", "preprocess"):
        if getattr(options, flag) is not None:
            raise UsageError(f"--{flag} is for a checkpoint; {options.model} states its own")
    if options.runtime == PYTORCH:
        raise UsageError(f"--runtime {PYTORCH} runs checkpoints; {options.model} is an ONNX file")
    asked = argparse.Namespace(
        runtime=options.runtime and [options.runtime],
        model=[options.model],
        threads=execution.threads,
        precision=execution.precision.value,
    )
    names = runtimes_of(asked)
    return onnx_model(options.model, names[0] if names else None)


def _settings(options: Options, model: Model) -> Settings:
    fit = Fit(options.fit)
    overlap = options.overlap
    if overlap is None:
        overlap = min(model.preprocess.size) // OVERLAP_PART if fit is Fit.TILE else 0
    return Settings(
        fit=fit,
        overlap=overlap,
        scale=options.scale or 1.0,
        writes=tuple(write for write in Write if write.value in options.write),
    )


def _say(summary: Summary, model: Model) -> None:
    """One line on what was done, and one for each thing to know."""
    rate = summary.done_now / summary.seconds
    log.info(
        "%s: %d images done in %.1f s, %.1f images/s, peak %.0f MB%s",
        model.name,
        summary.done_now,
        summary.seconds,
        rate,
        peak_bytes() / 1e6,
        f"; {summary.reused} were done before" if summary.reused else "",
    )
    if summary.turned:
        log.info(
            "%d images say in EXIF that they are shown turned; outputs lie on the pixels as stored",
            summary.turned,
        )
    if bad := summary.unreadable + summary.failed:
        log.error(
            "%d of %d images are not done (%d unreadable, %d failed); the index says why",
            bad,
            summary.images,
            summary.unreadable,
            summary.failed,
        )
    log.info("index: %s", summary.index)


def _result(summary: Summary, model: Model, settings: Settings) -> dict[str, Any]:
    return {
        "model": model.name,
        "fit": settings.fit.value,
        "images": summary.images,
        "done": summary.done_now,
        "reused": summary.reused,
        "unreadable": summary.unreadable,
        "failed": summary.failed,
        "seconds": summary.seconds,
        "images_per_s": summary.done_now / summary.seconds,
        "peak_bytes": peak_bytes(),
        "index": str(summary.index),
    }
