"""The verb that takes images to masks: predict."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segdeploy.cli.flags import (
    AUTO,
    RUNTIMES,
    Group,
    checkpoint_details,
    count,
    output_flag,
    positive,
    positive_int,
    threads_flag,
)
from segdeploy.cli.inputs import Options, Result, checkpoint_of, runtimes_of
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.progress import count_bar

if TYPE_CHECKING:
    from segdeploy.deploy.prediction.model import Model
    from segdeploy.deploy.prediction.run import Engine, Summary
    from segdeploy.deploy.prediction.settings import Settings
    from segdeploy.deploy.runtimes.execution import Execution

log = logging.getLogger(__name__)


PYTORCH = "pytorch"
FITS = ("resize", "pad", "tile")
WRITES = ("mask", "probability", "probability-npy", "overlay", "labels")
ENGINES = ("local", "ray")


def add_flags(verb: Group) -> None:
    """Everything ``segdeploy predict`` takes."""
    verb.add_argument("model", type=Path, metavar="MODEL", help="ONNX file or checkpoint")
    verb.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="image files; folders, with all folders in them; patterns in quotes ('plate*/**/*.tif'"
        "); @FILE, a list with a path a line. Folders and patterns keep their structure in the "
        "output. Pixels are taken as stored: EXIF turns nothing",
    )
    output_flag(
        verb,
        "folder to write: masks, probability/, overlay/, labels/, index.csv and index.jsonl",
        required=True,
    )
    verb.add_argument(
        "--write",
        choices=WRITES,
        nargs="+",
        default=["mask"],
        help="mask: 255 where the probability is at least 0.5; probability: 16-bit PNG; "
        "probability-npy: float32; overlay: foreground tinted; labels: 16-bit PNG, one number for "
        "each 8-connected object (default: mask)",
    )
    verb.add_argument(
        "--overwrite",
        action="store_true",
        help="do every image again; without it, what is done stays done while model, settings and "
        "image are the same",
    )
    _fit_flags(verb.add_argument_group("images of any size"))
    _running_flags(verb.add_argument_group("running"))
    checkpoint_details(verb.add_argument_group("a checkpoint's details"))


def _fit_flags(group: Group) -> None:
    group.add_argument(
        "--fit",
        choices=FITS,
        default="resize",
        help="resize: the whole image at the model's input size, the probability resized back; "
        "pad: at its own resolution, for a checkpoint or a model rewritten with any-size; tile: "
        "overlapping tiles of the input size at its own resolution, blended (default: resize)",
    )
    group.add_argument(
        "--overlap",
        type=count,
        metavar="PIXELS",
        help="that neighbouring tiles share, at least (default: a quarter of a tile)",
    )
    group.add_argument(
        "--scale",
        type=positive,
        help="resize the image by this before pad or tile, and the probability back; objects "
        "should have the size they were trained at (default: 1)",
    )


def _running_flags(group: Group) -> None:
    group.add_argument(
        "--runtime",
        choices=(AUTO, PYTORCH, *RUNTIMES),
        help="auto: measure, and take the fastest here (default: what the file suits and is here)",
    )
    group.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of layers that are not quantized (default: fp32)",
    )
    group.add_argument(
        "--batch",
        type=positive_int,
        default=1,
        help="resized images or tiles a call (default: 1)",
    )
    threads_flag(group)
    group.add_argument(
        "--streams",
        type=positive_int,
        help="calls at once (default: one for each thread; with --engine ray 1)",
    )
    group.add_argument(
        "--workers",
        type=positive_int,
        help="threads that decode and encode (default: all this process may use); with --engine "
        "ray, processes that each hold the model (default: 2)",
    )
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default="local",
        help="ray: the cluster in RAY_ADDRESS, else a new one here; --threads is that of one "
        "process (default 1); needs pip install 'segdeploy[ray]' (default: local)",
    )


RAY_WORKERS = 2
OVERLAP_PART = 4
"""Neighbouring tiles share a quarter of a tile where nothing else is said."""


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Write the masks of images, and an index of what became of each."""
    from segdeploy.deploy.prediction.model import require_possible
    from segdeploy.deploy.prediction.run import Engine, predict
    from segdeploy.deploy.prediction.sources import sources_of
    from segdeploy.deploy.runtimes.registry import usable_cores

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
    from segdeploy.deploy.onnx_model.artifact import Precision
    from segdeploy.deploy.prediction.run import Engine
    from segdeploy.deploy.runtimes.execution import Execution, Hint
    from segdeploy.deploy.runtimes.registry import usable_cores

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
    from segdeploy.deploy.prediction.model import ONNX_SUFFIX, CheckpointModel, onnx_model

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
    from segdeploy.deploy.prediction.settings import Fit, Settings, Write

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
    from segdeploy.deploy.system.memory import peak_bytes

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
    from segdeploy.deploy.system.memory import peak_bytes

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
