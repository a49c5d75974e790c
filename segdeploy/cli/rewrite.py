"""``segdeploy rewrite``: a graph that does the same with less work, or from image to mask."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from segdeploy.cli.flags import (
    REWRITES,
    Group,
    calibration_data,
    model_flag,
    output_flag,
    threads_flag,
)
from segdeploy.cli.inputs import Options, Result, output_file, wrote
from segdeploy.deploy.data import bundled
from segdeploy.deploy.system.only_writer import writing_file
from segdeploy.deploy.system.progress import bar

log = logging.getLogger(__name__)


def add_flags(verb: Group) -> None:
    """A model, the rewrites, and the images that show silent channels."""
    model_flag(verb)
    output_flag(verb, "ONNX file to write", required=True)
    verb.add_argument(
        "--rewrites",
        choices=REWRITES,
        nargs="+",
        default=(),
        metavar="NAME",
        help=f"which of {', '.join(REWRITES)} (default: the first three; dead-channels looks at "
        "the images; image-interface: 8-bit image in, mask out; any-size: height and width free, "
        "for predict --fit pad; both of any precision)",
    )
    calibration_data(verb)
    threads_flag(verb)


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Rewrite a graph into one that does the same with less work."""
    from segdeploy.deploy.data.image_set import open_set
    from segdeploy.deploy.onnx_model.file import contract_of, describe, require_fp32
    from segdeploy.deploy.rewrites.channel_activity import channel_activity
    from segdeploy.deploy.runtimes.registry import usable_cores
    from segdeploy.deploy.stages.rewrite import LESS_WORK, RewriteName, rewrite, summary

    output = output_file(options, options.model)
    source = describe(options.model)
    names = [RewriteName(name) for name in options.rewrites] or list(LESS_WORK)
    activity = None
    if RewriteName.DEAD_CHANNELS in names:
        require_fp32(source, "graphs are rewritten")
        images = open_set(options.calib_data or bundled.sample(), "train")
        activity = channel_activity(
            source.path,
            images.take(options.num_samples, seed=options.seed).samples,
            preprocess=contract_of(source),
            threads=options.threads or usable_cores(),
            progress=lambda samples: bar(samples, "rewrite", unit="image"),
        )
    with writing_file(output):
        artifact = rewrite(source, output, names=names, activity=activity)
    log.info("%s", summary(artifact))
    return wrote(artifact)
