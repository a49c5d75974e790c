"""``segdeploy calibrate``: the range of every activation on real images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from segdeploy.cli.flags import (
    Group,
    calibration_data,
    method_flag,
    model_flag,
    output_flag,
    threads_flag,
)
from segdeploy.cli.inputs import Options, Result, output_file
from segdeploy.deploy.data import bundled
from segdeploy.deploy.system.only_writer import writing_file
from segdeploy.deploy.system.progress import bar

log = logging.getLogger(__name__)


def add_flags(verb: Group) -> None:
    """A model, and where its ranges come from."""
    model_flag(verb)
    output_flag(verb, "calibration table to write (JSON)", required=True)
    calibration_data(verb)
    method_flag(verb)
    verb.add_argument(
        "--export",
        choices=("onnxruntime", "tensorrt"),
        nargs="+",
        metavar="FORMAT",
        help="also write the calibration cache of onnxruntime or tensorrt, beside the table",
    )
    verb.add_argument(
        "--import",
        dest="import_file",
        type=Path,
        metavar="FILE",
        help="take the ranges from a table or cache of onnxruntime or tensorrt, not from images",
    )
    threads_flag(verb)


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Find every range, or take them from another tool's file; under torchrun, in shards."""
    from segdeploy.calibration.estimate import Method
    from segdeploy.deploy.data.image_set import open_set
    from segdeploy.deploy.onnx_model.file import contract_of, describe
    from segdeploy.deploy.quantize.calibrate import calibrate
    from segdeploy.deploy.quantize.exchange import (
        ExchangeFormat,
        export_table,
        exported_file,
        import_table,
    )
    from segdeploy.deploy.quantize.sharding import shard_from_environment
    from segdeploy.deploy.runtimes.registry import usable_cores

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
