"""From flags to what the verbs work on: checkpoints, runtimes, output files."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict
from os.path import realpath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from segdeploy.cli.flags import AUTO
from segdeploy.deploy.data import bundled
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.only_writer import require_new

if TYPE_CHECKING:
    from segdeploy.api.data import Data
    from segdeploy.deploy.runtimes.registry import RuntimeName

log = logging.getLogger(__name__)

if TYPE_CHECKING:  # importing torch takes seconds; only the verbs that need it do
    from segdeploy.deploy.models.checkpoint import Checkpoint

Options = argparse.Namespace
Result = tuple[int, object]
"""Exit code, and what ``--format json`` prints: a record, or a dict."""

GATE_FAILED = 1


def checkpoint_of(options: Options, path: Path) -> Checkpoint:
    """Load a checkpoint with what the flags state about it."""
    from segdeploy.api.load import load_network

    return load_network(path, **_stated(options))


def model_of(options: Options, path: Path) -> Checkpoint | Artifact:
    """An ONNX file, or a checkpoint with what the flags state about it.

    Raises:
        InputError: it cannot be read.
        UsageError: flags that contradict the file.
    """
    from segdeploy.api.load import load

    return load(path, **_stated(options))


def _stated(options: Options) -> dict[str, Any]:
    """What the flags say of a network that its keys cannot tell."""
    names = ("arch", "recurrence", "head", "logits", "preprocess", "weights")
    return {name: getattr(options, name) for name in names} | {"data": vars(options).get("data")}


def calibration_in(options: Options) -> Data:
    """The images that ``--calib-data``, ``--num-samples`` and ``--seed`` state."""
    from segdeploy.api.data import Data

    return Data(options.calib_data, num_samples=options.num_samples, seed=options.seed)


def given_or_bundled(options: Options) -> Checkpoint:
    """The checkpoint of ``-c``; without one the bundled checkpoint of ``--arch``, or UNet++."""
    arch = options.arch or "unet_plus_plus"
    return checkpoint_of(options, options.checkpoint or bundled.checkpoint(arch))


def output_file(options: Options, *inputs: Path) -> Path:
    """Where to write, refused before the work and not after it."""
    output: Path = options.output
    if output.is_dir():
        raise UsageError(f"-o {output} is a folder; give the name of the file to write")
    if any(realpath(output) == realpath(path) for path in inputs):  # stands links in a loop
        raise UsageError(f"-o {output} would replace its own input; choose another name")
    require_new(output, overwrite=options.overwrite)
    return output


def wrote(artifact: Artifact) -> Result:
    """Say what file was written, and what is in it."""
    size = artifact.path.stat().st_size
    log.info("%s: %s, %.1f MB", artifact.path, artifact.precision.value, size / 1e6)
    return 0, asdict(artifact) | {"bytes": size}


def runtimes_of(
    options: Options, checkpoint: Checkpoint | None = None
) -> tuple[RuntimeName, ...] | None:
    """The runtimes asked for; ``None`` when none was.

    ``--runtime auto`` measures: every runtime that is ready runs the models at batch 1, and the
    fastest is taken and said.

    Args:
        options: the flags.
        checkpoint: what is measured, exported to fp32; ``None`` takes the files of ``--model``.

    Raises:
        UsageError: ``auto`` beside a runtime by name.
        InputError: no runtime runs the models.
    """
    from segdeploy.deploy.onnx_model.file import describe
    from segdeploy.deploy.runtimes.registry import RuntimeName

    if not options.runtime:
        return None
    if AUTO not in options.runtime:
        return tuple(RuntimeName(name) for name in options.runtime)
    if options.runtime != [AUTO]:
        raise UsageError(
            f"--runtime {' '.join(options.runtime)}: {AUTO} picks one runtime by itself; give it "
            "alone, or the runtimes without it"
        )
    if checkpoint is None:
        return (_measured(options, [describe(path) for path in options.model]),)
    from segdeploy.deploy.stages.export import export

    with TemporaryDirectory(prefix="segdeploy-") as folder:
        return (_measured(options, [export(checkpoint, Path(folder) / "model.onnx")]),)


def _measured(options: Options, artifacts: Sequence[Artifact]) -> RuntimeName:
    """The fastest runtime here, said with its figures."""
    from segdeploy.benchmarks.speed.fastest import fastest
    from segdeploy.deploy.onnx_model.artifact import Precision
    from segdeploy.deploy.runtimes.base import Execution
    from segdeploy.deploy.runtimes.isolated import TIME_LIMIT_S
    from segdeploy.deploy.runtimes.registry import usable_cores

    flags = vars(options)
    threads = flags.get("threads") or usable_cores()
    execution = Execution(
        threads=threads if isinstance(threads, int) else threads[0],
        precision=Precision(flags.get("precision", Precision.FP32)),
    )
    found = fastest(
        artifacts,
        execution=execution,
        time_limit_s=flags.get("time_limit") or TIME_LIMIT_S,
    )
    log.info("--runtime auto: %s is the fastest here (%s)", found.runtime.value, found.words)
    return found.runtime
