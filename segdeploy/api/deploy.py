"""Deploy: the whole job, from a trained network to a verdict."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from segdeploy.api.benchmark import DURATION_S, WARMUP
from segdeploy.api.choices import choice
from segdeploy.api.data import Data
from segdeploy.api.load import is_network
from segdeploy.api.models import is_checkpoint, is_module, path_of
from segdeploy.api.outputs import AnyPath
from segdeploy.api.parity import MAX_DROP
from segdeploy.api.recommended import Recommended
from segdeploy.api.run import Run
from segdeploy.api.runtimes import AUTO, Runtimes, runtimes_of
from segdeploy.api.source import DEFAULT_ARCH, OnnxFile, source_of
from segdeploy.api.targets import profile_of
from segdeploy.calibration.estimate import Method
from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.contract import Contract
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models.unet_plus_plus import DEPTH
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.isolated import TIME_LIMIT_S
from segdeploy.deploy.runtimes.registry import (
    CPU_RUNTIMES,
    RuntimeName,
    availability,
    usable_cores,
)
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.shown_command import shown_path
from segdeploy.deploy.targets.profiles import TargetProfile, native_profile_here
from segdeploy.pipeline.run import run as run_stages
from segdeploy.pipeline.run_config import STAGES, RunConfig
from segdeploy.pipeline.source import Source

if TYPE_CHECKING:
    from torch import nn

    from segdeploy.api.models import AnyModel

    Given = AnyModel | OnnxFile | nn.Module | None

OUTPUT = Path("segdeploy-out")
BATCH = 8


def deploy(
    model: Given = None,
    data: Data | AnyPath | None = None,
    *,
    contract: Contract | None = None,
    out: AnyPath = OUTPUT,
    method: Method | str = Method.ENTROPY,
    targets: TargetProfile | str | Sequence[TargetProfile | str] = (),
    exclude: Sequence[str] = (),
    runtimes: Runtimes | None = None,
    max_drop: float = MAX_DROP,
    max_drop_class: float | None = None,
    batch: int = BATCH,
    warmup: int = WARMUP,
    duration_s: float = DURATION_S,
    threads: int | None = None,
    seed: int = 0,
    time_limit_s: float = TIME_LIMIT_S,
    tune: float | None = None,
    device_file: AnyPath | None = None,
    overwrite: bool = False,
    rerun: str | Sequence[str] = (),
    command: str | None = None,
) -> Run:
    """Do the whole job: export, simplify, fp16, rewrite, int8, parity, benchmark and report.

    A stage whose inputs did not change is taken from ``out``, so an interrupted call goes on where
    it stopped. The same as ``segdeploy run``.

    Args:
        model: what ``segdeploy.load`` returned, or a file: a checkpoint, or the ONNX file of any
            exporter; or a ``torch.nn.Module``. ``None`` is the bundled UNet++.
        data: its train split calibrates, its test split judges; ``None`` is the bundled sample.
        contract: what the network takes and gives, where its file does not say so.
        out: folder to write.
        method: how a range is chosen from a histogram: entropy (KL), percentile, mse, minmax.
        targets: int8 models to make; none is one for each runtime that is here.
        exclude: layers to keep in float.
        runtimes: by name, or "auto"; ``None`` is what each file suits and is here.
        max_drop: largest loss of IoU that passes, percentage points; of mIoU with several classes.
        max_drop_class: with several classes, the same for the IoU of each of them; ``None`` asks
            only that none is lost altogether.
        batch: images a call, for throughput.
        warmup: untimed calls.
        duration_s: seconds of timing for each row.
        threads: of each runtime; ``None`` takes every processor of this process.
        seed: of the bootstrap.
        time_limit_s: longest time for loading a model, and for each call.
        tune: seconds for finding, for each int8 model, the fastest placement of Q and DQ on this
            machine; see ``segdeploy.tune``.
        device_file: with ``tune``: what is known of devices; by default in ``out``.
        overwrite: replace what the folder holds.
        rerun: stages to do again though nothing that decides them changed, such as "benchmark".
        command: what the report says reproduces the run; ``None`` is this call.

    Raises:
        InputError: an input cannot be read, calibration and test share an image, there are too few
            images for parity, or a runtime that was asked for is not here.
        UsageError: the folder holds something else, or another process writes to it.
        RunError: a stage failed, or changed the output beyond what its arithmetic can explain.
    """
    if device_file is not None and tune is None:
        raise UsageError("--device-file: only a search with --tune takes it")
    images, cores = Data.of(data), threads or usable_cores()
    given = [targets] if isinstance(targets, (str, TargetProfile)) else targets
    options: dict[str, Any] = {
        "out": shown_path(os.fspath(out)),
        "method": choice(Method, method, what="method").value,
        "targets": [profile_of(target).name for target in given],
        "exclude": list(exclude),
        "runtimes": runtimes,
        "max_drop": max_drop,
        "max_drop_class": max_drop_class,
        "batch": batch,
        "warmup": warmup,
        "duration_s": duration_s,
        "threads": threads,
        "seed": seed,
        "time_limit_s": time_limit_s,
        "tune": tune,
        "device_file": None if device_file is None else shown_path(os.fspath(device_file)),
    }
    with source_of(model, images, contract=contract) as source:
        config = RunConfig(
            name=source.facts.name,
            output=Path(out),
            calibration=images.calibration_images,
            evaluation=images.test,
            method=choice(Method, method, what="method"),
            targets=tuple(map(profile_of, given)) or native_targets(),
            runtimes=fastest_or_named(runtimes, source, threads=cores, time_limit_s=time_limit_s),
            exclude=tuple(exclude),
            max_drop=float(max_drop),  # a whole number would read back as another report
            max_drop_class=None if max_drop_class is None else float(max_drop_class),
            batch=batch,
            threads=cores,
            warmup=warmup,
            duration_s=float(duration_s),
            seed=seed,
            time_limit_s=time_limit_s,
            overwrite=overwrite,
            tune_s=None if tune is None else float(tune),
            device_file=None if device_file is None else Path(device_file),
            rerun=_stages([rerun] if isinstance(rerun, str) else rerun),
            command=command or _call(model, images, contract=contract, **options),
        )
        run_stages(config, source)
    return Run.open(out)


def _stages(names: Sequence[str]) -> tuple[str, ...]:
    """Refuse what is no stage.

    Raises:
        UsageError: listing the stages.
    """
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise UsageError(f"rerun {unknown[0]!r:.60} is no stage; choose from {', '.join(STAGES)}")
    return tuple(names)


def native_targets() -> tuple[TargetProfile, ...]:
    """The target of each runtime for the CPU that is here."""
    return tuple(
        native_profile_here(runtime) for runtime in CPU_RUNTIMES if availability(runtime).ready
    )


def fastest_or_named(
    asked: Runtimes | None,
    source: Source,
    *,
    threads: int,
    time_limit_s: float = TIME_LIMIT_S,
) -> tuple[RuntimeName, ...] | None:
    """The runtimes asked for; "auto" is measured on what the run starts with.

    Raises:
        UsageError: no such runtime, or "auto" beside one by name.
        InputError: no runtime runs the export.
    """
    execution = Execution(threads=threads)
    names = [asked] if isinstance(asked, str) else list(asked or ())
    if names != [AUTO]:
        return runtimes_of(asked, [], execution=execution, time_limit_s=time_limit_s)
    with TemporaryDirectory(prefix="segdeploy-") as folder:
        first = source.write(Path(folder) / "model.onnx")
        return runtimes_of(AUTO, [first], execution=execution, time_limit_s=time_limit_s)


_DEFAULTS: dict[str, Any] = {
    "out": str(OUTPUT),
    "method": Method.ENTROPY.value,
    "targets": [],
    "exclude": [],
    "runtimes": None,
    "max_drop": MAX_DROP,
    "max_drop_class": None,
    "batch": BATCH,
    "warmup": WARMUP,
    "duration_s": DURATION_S,
    "threads": None,
    "seed": 0,
    "time_limit_s": TIME_LIMIT_S,
    "tune": None,
    "device_file": None,
}


def _call(
    model: Given,
    data: Data,
    *,
    contract: Contract | None,
    **options: Any,
) -> str:
    """The call that does the same again, with paths as they are shown."""
    words = [_shown(model)]
    other = data.calibration
    drawn = {
        "calibration": None if other is None else shown_path(os.fspath(other)),
        "num_samples": data.num_samples,
        "seed": data.seed or None,
    }
    chosen = [f"{key}={value!r}" for key, value in drawn.items() if value is not None]
    root = repr(shown_path(data.root))
    words.append(f"segdeploy.Data({', '.join([root, *chosen])})" if chosen else root)
    words += [] if contract is None else [f"contract={contract!r}"]
    words += [f"{key}={value!r}" for key, value in options.items() if value != _DEFAULTS[key]]
    return f"segdeploy.deploy({', '.join(words)})"


def _shown(model: Given) -> str:
    """What a call is given as its model."""
    if model is None:
        return repr(shown_path(bundled.checkpoint(DEFAULT_ARCH)))
    if isinstance(model, Recommended):
        model = model.artifact
    if is_network(model) or is_module(model):
        return "module"  # a value of the caller's, which no text can say
    if not is_checkpoint(model):
        path = model.path if isinstance(model, (Artifact, OnnxFile)) else path_of(model)
        return repr(shown_path(path))
    stated = {
        "head": None if model.head == DEPTH else model.head,
        "recurrence": model.recurrence,
        "preprocess": None if model.preprocess == Preprocess() else model.preprocess,
        "output": None if model.output == OutputContract() else model.output,
    }
    details = [f"{key}={value!r}" for key, value in stated.items() if value is not None]
    net = repr(shown_path(model.path))
    return f"segdeploy.load({', '.join([net, *details])})" if details else net
