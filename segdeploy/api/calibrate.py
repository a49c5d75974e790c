"""Calibrate: find the range of every activation on real images."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from segdeploy.api.choices import choice, choices
from segdeploy.api.data import Data
from segdeploy.api.models import AnyOnnx, artifact_of
from segdeploy.api.outputs import AnyPath, output_file
from segdeploy.calibration.estimate import Method
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.distributed.shard import WHOLE, Shard, shard_from_environment
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import contract_of
from segdeploy.deploy.quantize.calibrate import calibrate as calibrate_stage
from segdeploy.deploy.quantize.exchange import (
    ExchangeFormat,
    export_table,
    exported_file,
    import_table,
)
from segdeploy.deploy.runtimes.registry import usable_cores
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.only_writer import require_new, writing_file
from segdeploy.deploy.system.progress import bar


def calibrate(
    model: AnyOnnx,
    data: Data | AnyPath | None = None,
    *,
    method: Method | str = Method.ENTROPY,
    imported: AnyPath | None = None,
    out: AnyPath | None = None,
    export: Sequence[ExchangeFormat | str] = (),
    threads: int | None = None,
    overwrite: bool = False,
) -> CalibrationTable:
    """Find the range of every activation that an int8 model may quantize.

    With ``out``, what was counted is kept beside it until the table is written: interrupted, the
    same call goes on. Started by ``torchrun`` (which needs ``out``), each process counts a share
    of the images, every one returns the same table, and the first writes it.

    Args:
        model: a float32 ONNX file; the table is of this very model.
        data: images to calibrate on, ``Data.calibration_images``; ``None`` is the bundled sample.
        method: how a range is chosen from a histogram: entropy (KL), percentile, mse, minmax.
        imported: take the ranges from a table or cache of ONNX Runtime or TensorRT instead.
        out: file to write the table to (JSON); ``None`` writes nothing.
        export: also write these tools' caches beside ``out``: onnxruntime, tensorrt.
        threads: images run at once; ``None`` takes every processor of this process.
        overwrite: replace the files that are there; a calibration that was interrupted goes on
            without.

    Raises:
        InputError: the model is not float32, an image or ``imported`` cannot be read, or an
            activation is not finite.
        UsageError: a file exists, another process writes it, or ``export`` without ``out``.
        RunError: ONNX Runtime failed on an image.
        OSError: a file cannot be written.
    """
    source = artifact_of(model)
    forms = choices(ExchangeFormat, export, what="export")
    chosen = choice(Method, method, what="method")
    if out is None:
        if forms:
            raise UsageError("export writes beside the table; give out, the table's file")
        with shard_from_environment() as shard:
            return _table(source, data, chosen, imported, threads=threads, shard=shard, state=None)
    output = Path(out)
    begun = any(output.parent.glob(f"{glob.escape(output.name)}.*partial.npz"))
    caches = written_files(output, forms)[1:]
    # The table is written before the caches: one that lacks some may be of a call that was ended
    # there. It is only replaced by its like.
    lacking = output.is_file() and not all(cache.exists() for cache in caches)
    like = lacking and not (overwrite or begun)
    begun = begun or like
    output_file(output, source.path, overwrite=overwrite or begun)
    for cache in caches:
        output_file(cache, source.path, output, overwrite=overwrite or begun)
    counts = f"{output.name}.partial.npz"
    beside = [counts, *(cache.name for cache in caches)]
    with (
        shard_from_environment() as shard,
        writing_file(output, beside=beside) if shard.is_first else nullcontext(),
    ):
        own = f"{output.name}.{shard.rank}-of-{shard.size}.partial.npz"
        state = output.with_name(own if shard.size > 1 else counts)
        table = _table(source, data, chosen, imported, threads=threads, shard=shard, state=state)
        if shard.is_first:
            if like and CalibrationTable.read(output) != table:
                require_new(output, overwrite=False)
            table.write(output)
            for form in forms:
                export_table(table, source, output, form)
        state.unlink(missing_ok=True)
    return table


def written_files(out: AnyPath, export: Sequence[ExchangeFormat | str] = ()) -> list[Path]:
    """The files that ``calibrate`` writes: the table, and the caches of other tools beside it.

    Example:
        >>> [path.name for path in written_files("net.calib.json", ["tensorrt"])]
        ['net.calib.json', 'net.calib.tensorrt.cache']
    """
    output, forms = Path(out), choices(ExchangeFormat, export, what="export")
    return [output, *(exported_file(output, form) for form in forms)]


def _table(
    source: Artifact,
    data: Data | AnyPath | None,
    method: Method,
    imported: AnyPath | None,
    *,
    threads: int | None,
    shard: Shard = WHOLE,
    state: Path | None,
) -> CalibrationTable:
    """The ranges as they were found here, or by another tool."""
    if imported is not None:
        return import_table(Path(imported), source)
    return calibrate_stage(
        source,
        Data.of(data).calibration_images,
        preprocess=contract_of(source),
        method=method,
        state=state,
        threads=threads or max(1, usable_cores() // shard.size),
        shard=shard,
        progress=lambda samples: bar(samples, "calibrate", unit="image"),
    )
