"""The verb that takes images to masks: predict."""

from __future__ import annotations

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
    engine_flags,
    output_flag,
    overwrite_flag,
    positive,
    positive_int,
    source_flags,
    threads_flag,
)
from segdeploy.cli.grammar import Parser
from segdeploy.cli.inputs import Options, Result, model_of

if TYPE_CHECKING:
    from segdeploy.deploy.prediction.run import Summary
    from segdeploy.pipeline.finished import FinishedRun

log = logging.getLogger(__name__)


PYTORCH = "pytorch"
FITS = ("resize", "pad", "tile")
WRITES = ("mask", "probability", "probability-npy", "overlay", "labels")


def add_flags(verb: Parser) -> None:
    """Everything ``segdeploy predict`` takes."""
    verb.add_models("ONNX file or checkpoint, the first word", many=False, before="images")
    verb.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="the model, unless -m names it, then images: files; folders, with all folders in "
        "them; patterns in quotes ('plate*/**/*.tif'); @FILE, a list with a path a line. Folders "
        "and patterns keep their structure in the output. Pixels are taken as stored: EXIF turns "
        "nothing",
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
        help="mask: 255 where the probability is at least 0.5, of several classes their indices "
        "with a palette, or a mask for each in 0/, 1/, ... where they may overlap; probability: "
        "16-bit PNG; probability-npy: float32; overlay: foreground tinted; labels: 16-bit PNG, one "
        "number for each 8-connected object (default: mask)",
    )
    verb.add_argument(
        "--write-classes",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="of several classes those whose probabilities are written, by name or index (default: "
        "all)",
    )
    overwrite_flag(
        verb,
        "every mask; without it, what is done stays done while model, settings and image are the "
        "same",
    )
    _fit_flags(verb.add_argument_group("images of any size"))
    source_flags(verb.add_argument_group("microscopes' files"))
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
    engine_flags(
        group,
        engine="ray: the cluster in RAY_ADDRESS, else a new one here; --threads is that of one "
        "process (default 1); needs pip install 'segdeploy[ray]' (default: local)",
        workers="threads that decode and encode (default: all this process may use); with --engine "
        "ray, processes that each hold the model (default: 2)",
    )


def from_run(options: Options, run: FinishedRun) -> list[Path]:
    """The file that a run recommends, in the runtime it was fastest in."""
    options.runtime = options.runtime or run.recommended_runtime.value
    return [run.recommended]


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Write the masks of images, and an index of what became of each."""
    from segdeploy.api.predict import predict

    summary = predict(
        model_of(options, options.model),
        options.images,
        options.output,
        write=options.write,
        classes=options.write_classes,
        fit=options.fit,
        overlap=options.overlap,
        scale=options.scale or 1.0,
        runtime=options.runtime,
        precision=options.precision,
        batch=options.batch,
        threads=options.threads,
        streams=options.streams,
        workers=options.workers,
        engine=options.engine,
        levels=None if options.levels is None else tuple(options.levels),
        page=options.page,
        overwrite=options.overwrite,
    )
    _say(summary)
    return summary.exit_code, _result(summary)


def _say(summary: Summary) -> None:
    """One line on what was done, and one for each thing to know."""
    from segdeploy.deploy.system.memory import peak_bytes

    log.info(
        "%s: %d images done in %.1f s, %.1f images/s, peak %.0f MB%s",
        summary.model,
        summary.done_now,
        summary.seconds,
        summary.done_now / summary.seconds,
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
            "%d of %d images are not done (%d unreadable, %d failed); the first: %s%s",
            bad,
            summary.images,
            summary.unreadable,
            summary.failed,
            summary.first_error,
            "; the index says why of each" if bad > 1 else "",
        )
    log.info("index: %s", summary.index)


def _result(summary: Summary) -> dict[str, Any]:
    from segdeploy.deploy.system.memory import peak_bytes

    return {
        "model": summary.model,
        "fit": summary.fit.value,
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
