"""The verbs that make one file from another: export, simplify, convert, rewrite and so on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict

from segdeploy.calibration.estimate import Method
from segdeploy.calibration.table import CalibrationTable
from segdeploy.cli.inputs import Options, Result, checkpoint_of, output_file
from segdeploy.cli.mixed import kept_beside, quantize_mixed, wants_search
from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import contract_of, describe, require_fp32
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.exchange import (
    ExchangeFormat,
    export_table,
    exported_file,
    import_table,
)
from segdeploy.deploy.quantize.sharding import shard_from_environment
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.rewrites.channel_activity import channel_activity
from segdeploy.deploy.runtimes.registry import usable_cores
from segdeploy.deploy.stages.rewrite import LESS_WORK, RewriteName, rewrite, summary
from segdeploy.deploy.stages.simplify import simplify
from segdeploy.deploy.stages.to_fp16 import to_fp16
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.only_writer import writing_file
from segdeploy.deploy.system.progress import bar
from segdeploy.deploy.targets.profiles import profile_named

log = logging.getLogger(__name__)


def export_model(options: Options, arguments: Sequence[str]) -> Result:
    """Export a checkpoint."""
    from segdeploy.deploy.stages.export import export

    output = output_file(options, options.checkpoint)
    with writing_file(output):
        return _wrote(export(checkpoint_of(options, options.checkpoint), output))


def simplify_model(options: Options, arguments: Sequence[str]) -> Result:
    """Simplify a graph."""
    output = output_file(options, options.model)
    with writing_file(output):
        return _wrote(simplify(describe(options.model), output))


def convert(options: Options, arguments: Sequence[str]) -> Result:
    """Convert to fp16."""
    output = output_file(options, options.model)
    with writing_file(output):
        return _wrote(to_fp16(describe(options.model), output))


def rewrite_model(options: Options, arguments: Sequence[str]) -> Result:
    """Rewrite a graph into one that does the same with less work."""
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
    return _wrote(artifact)


def calibrate_model(options: Options, arguments: Sequence[str]) -> Result:
    """Find every range, or take them from another tool's file; under torchrun, in shards."""
    output = output_file(options, options.model)
    source = describe(options.model)
    counts = f"{output.name}.partial.npz"
    forms = [ExchangeFormat(name) for name in options.export or ()]
    beside = [counts, *(exported_file(output, form).name for form in forms)]
    with (
        shard_from_environment() as shard,
        writing_file(output, beside=beside) if shard.is_first else nullcontext(),
    ):
        own = f"{output.name}.{shard.rank}-of-{shard.size}.partial.npz"
        state = output.with_name(own if shard.size > 1 else counts)
        if options.import_file:
            table = import_table(options.import_file, source)
        else:
            images = open_set(options.calib_data or bundled.sample(), "train")
            table = calibrate(
                source,
                images.take(options.num_samples, seed=options.seed),
                preprocess=contract_of(source),
                method=Method(options.method),
                state=state,
                threads=options.threads or max(1, usable_cores() // shard.size),
                shard=shard,
                progress=lambda samples: bar(samples, "calibrate", unit="image"),
            )
        if not shard.is_first:
            state.unlink(missing_ok=True)
            return 0, {}
        table.write(output)
        written = [output]
        for form in forms:
            written.append(export_table(table, source, output, form))
        state.unlink(missing_ok=True)
    for path in written:
        log.info("%s: %d tensors, %d images", path, len(table.ranges), table.num_samples)
    return 0, {"written": [str(path) for path in written], "tensors": len(table.ranges)}


def quantize(options: Options, arguments: Sequence[str]) -> Result:
    """Write the int8 model of a target; with a budget, the fewest layers in float that keep it."""
    output = output_file(options, options.model, options.calibration)
    if wants_search(options):
        with writing_file(output, beside=kept_beside(output)):
            return quantize_mixed(options, output)
    with writing_file(output):
        artifact = to_int8(
            describe(options.model),
            output,
            table=CalibrationTable.read(options.calibration),
            table_sha256=sha256_of(options.calibration),
            profile=profile_named(options.target),
            exclude=options.exclude,
        )
    return _wrote(artifact)


def _wrote(artifact: Artifact) -> Result:
    size = artifact.path.stat().st_size
    log.info("%s: %s, %.1f MB", artifact.path, artifact.precision.value, size / 1e6)
    return 0, asdict(artifact) | {"bytes": size}
