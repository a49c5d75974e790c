"""Tune: where Q and DQ stand, by the clock of this machine."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segdeploy.api.calibration_tables import calibration_table_of, file_of, table_sha256
from segdeploy.api.data import Data
from segdeploy.api.judging import image_bar, opened, reference_of, split_of
from segdeploy.api.models import AnyOnnx, artifact_of
from segdeploy.api.outputs import AnyPath, output_file
from segdeploy.api.targets import int8_path, profile_of
from segdeploy.benchmarks.mixed.judge import Judge
from segdeploy.benchmarks.mixed.state import Trial as Judged
from segdeploy.benchmarks.speed.random_feeds import random_feeds, size_to_feed
from segdeploy.benchmarks.tune.bench import FileBench
from segdeploy.benchmarks.tune.choices import choices
from segdeploy.benchmarks.tune.device import Device, DeviceMemory, gains_of
from segdeploy.benchmarks.tune.fidelity import SQNR_LOSS_DB, Fidelity
from segdeploy.benchmarks.tune.search import Tuned, TuneSearch, Verdict
from segdeploy.benchmarks.tune.state import TuneState
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy import __version__
from segdeploy.deploy.data.image_set import open_set, read_splits
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import contract_of, load_model, output_of, require_fp32
from segdeploy.deploy.onnx_model.interface import interface_of
from segdeploy.deploy.quantize.qdq_placement import QdqPlacement
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.runtimes.base import Execution, Feeds
from segdeploy.deploy.runtimes.registry import CPU_RUNTIMES, availability, usable_cores
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.system.only_writer import writing_file
from segdeploy.deploy.system.progress import bar
from segdeploy.deploy.targets.profiles import ORT_X86, TargetProfile

if TYPE_CHECKING:
    from segdeploy.api.models import AnyModel

log = logging.getLogger(__name__)

TIME_BUDGET_S = 300.0

IMAGES = 8
"""Inputs that outputs are compared on, where nobody gives images with truth and a budget."""

DEVICE_FILE = "segdeploy-device.json"


@dataclass(frozen=True, kw_only=True)
class Tuning(Tuned):
    """What a search for a placement ended with.

    Attributes:
        artifact: the file in place.
        judged_by: what decided whether a placement is accurate enough, in words.
        device: what it was timed on.
        device_file: where what was learnt of the device is kept.
    """

    artifact: Artifact
    judged_by: str
    device: Device
    device_file: Path


def tune(
    model: AnyOnnx,
    table: CalibrationTable | AnyPath,
    *,
    target: TargetProfile | str = ORT_X86,
    exclude: Sequence[str] = (),
    out: AnyPath | None = None,
    time_budget_s: float = TIME_BUDGET_S,
    max_drop: float | None = None,
    reference: AnyModel | None = None,
    data: Data | AnyPath | None = None,
    device_file: AnyPath | None = None,
    seed: int = 0,
    threads: int | None = None,
    batch: int = 1,
    overwrite: bool = False,
) -> Tuning:
    """Find the fastest placement of Q and DQ on this machine that is as accurate.

    The file that is written is never slower than the untuned one: that is timed beside it in the
    end, and stands unless the other is proven faster. An interrupted search goes on when started
    again.

    Args:
        model: the float32 file that was calibrated.
        table: its ranges, or the file that holds them.
        target: what the model is made for; its runtime must be installed here.
        exclude: layers that stay in float whatever is found.
        out: file to write; by default ``NAME.int8.TARGET.onnx`` beside the model.
        time_budget_s: no trial starts that would end later.
        max_drop: the largest loss of IoU against the reference on the val split, percentage
            points. Without, the output may lose half a decibel of SQNR against the untuned file.
        reference: with ``max_drop``: checkpoint or ONNX file that accuracy is compared with.
        data: a prepared folder: with ``max_drop`` one with a val split; without, its images are
            what outputs are compared on. ``None`` compares on random inputs.
        device_file: what is known of devices; read, and written with what was learnt. By default
            ``segdeploy-device.json`` beside the output.
        seed: of the bootstrap, and of the images that are drawn.
        threads: of the runtime; ``None`` takes every processor of this process.
        batch: images of one call.
        overwrite: replace the file that is there; a search that was interrupted goes on without.

    Raises:
        InputError: the model is not float32, the table is of another model, the target's runtime is
            not here, or an image, the state or the device file cannot be read.
        UsageError: the file exists, another process writes it, or ``max_drop`` without what it
            needs.
        RunError: the runtime failed on the untuned file.
        OSError: a file cannot be written.
    """
    started = time.monotonic()
    if max_drop is not None and (reference is None or data is None):
        raise UsageError("--max-drop needs --data and --reference to measure the loss with")
    source, profile = artifact_of(model), profile_of(target)
    output = int8_path(source, profile, out)
    begun = output.with_name(state_beside(output)).is_file()
    output_file(output, source.path, *file_of(table), overwrite=overwrite or begun)
    learnt_in = Path(device_file) if device_file else output.with_name(DEVICE_FILE)
    execution = Execution(threads=threads or usable_cores(), batch=batch)
    with (
        writing_file(output, beside=(state_beside(output), learnt_in.name)),
        tempfile.TemporaryDirectory(prefix="segdeploy-") as folder,
    ):
        require_fp32(source, "int8 is made")
        _require_here(profile)
        held = calibration_table_of(table)
        build = partial(
            _build, source, table=held, sha256=table_sha256(table), profile=profile, exclude=exclude
        )
        device = Device.here(profile.runtime, threads=execution.threads)
        memory = DeviceMemory.read(learnt_in)
        untuned = build(QdqPlacement(), Path(folder) / "untuned.onnx")
        judging = _judging(source, untuned, profile, execution, max_drop, reference, data, seed)
        with judging as judge:
            decides = [
                __version__,
                source.sha256,
                table_sha256(table),
                profile.name,
                sorted(exclude),
                vars(device),
                batch,
                judge.decided_by,
            ]
            state = TuneState.open(
                output.with_name(state_beside(output)),
                fingerprint=hashlib.sha256(json.dumps(decides).encode()).hexdigest(),
            )
            log.info(
                "tuning for %s %s on %d threads, accuracy by %s%s",
                device.runtime,
                device.version,
                device.threads,
                judge.words,
                f"; going on after {len(state.trials)} trials" if state.trials else "",
            )
            search = TuneSearch(
                bench=FileBench(
                    build,
                    judge.verdict,
                    folder=Path(folder),
                    runtime=profile.runtime,
                    execution=execution,
                ),
                choices=choices(load_model(source.path), held, profile, exclude),
                prior=partial(memory.prior, device),
                time_budget_s=time_budget_s,
                progress=lambda patterns: bar(patterns, "look at placements", unit="pattern"),
            )
            try:
                found = search.run(state, started=started)
            finally:
                gains = gains_of(state.trials, network=source.sha256)
                if gains:
                    memory.with_gains(device, gains).write(learnt_in)
        artifact = build(found.placement, output)
        if found.finished:
            state.path.unlink(missing_ok=True)
    return Tuning(
        **vars(found),
        artifact=artifact,
        judged_by=judge.words,
        device=device,
        device_file=learnt_in,
    )


def state_beside(output: Path) -> str:
    """What a search keeps in the folder of its output until it is done."""
    return f"{output.name}.tune.json"


def _build(
    source: Artifact,
    placement: QdqPlacement,
    path: Path,
    *,
    table: CalibrationTable,
    sha256: str,
    profile: TargetProfile,
    exclude: Sequence[str],
) -> Artifact:
    return to_int8(
        source,
        path,
        table=table,
        table_sha256=sha256,
        profile=profile,
        exclude=exclude,
        placement=placement,
    )


def _require_here(profile: TargetProfile) -> None:
    """Refuse a target that this machine cannot time.

    Raises:
        InputError: why, and what to do.
    """
    state = availability(profile.runtime)
    if not state.ready:
        raise InputError(f"{state.reason}; it has to run the trials")
    if profile.hardware is not None or profile.runtime not in CPU_RUNTIMES:
        raise InputError(
            f"--target {profile.name} is for {profile.hardware}, which is not timed here: tune for "
            "the target of a runtime of this machine, or on the device"
        )


@dataclass(frozen=True, kw_only=True)
class _Judging:
    """What says whether a file is accurate enough.

    Attributes:
        verdict: says it of a file.
        words: what it looks at.
        decided_by: what decides the verdicts beside the files.
    """

    verdict: Callable[[Artifact], Verdict]
    words: str
    decided_by: tuple[str | float | int, ...]


@contextmanager
def _judging(
    source: Artifact,
    untuned: Artifact,
    profile: TargetProfile,
    execution: Execution,
    max_drop: float | None,
    reference: AnyModel | None,
    data: Data | AnyPath | None,
    seed: int,
) -> Iterator[_Judging]:
    """Images with truth and a budget where they are given, else the output alone."""
    if max_drop is None or reference is None or data is None:
        feeds, what, hashed = _feeds(source, execution, data, seed)
        fidelity = Fidelity(source, untuned, feeds, runtime=profile.runtime, execution=execution)
        lost = f"at most {SQNR_LOSS_DB:g} dB of the untuned file's SQNR against the float model"
        yield _Judging(
            verdict=fidelity.verdict,
            words=f"the output on {what}, which may lose {lost}",
            decided_by=(hashed, seed),
        )
        return
    preprocess, classes = contract_of(source), output_of(source)
    validation = split_of(Data.of(data).root, "val")
    single = Execution(threads=execution.threads)
    right = reference_of(reference, preprocess)
    with opened(right, single) as runtime:
        judge = Judge(
            runtime,
            validation,
            preprocess=preprocess,
            output=classes,
            runtime=profile.runtime,
            execution=single,
            seed=seed,
            progress=image_bar,
        )

        def verdict(artifact: Artifact) -> Verdict:
            report = judge.report(artifact, max_drop=max_drop)
            found = Judged.of(report, layers=0, seconds=0.0)
            return Verdict(kept=found.within(max_drop), words=found.words())

        yield _Judging(
            verdict=verdict,
            words=f"{len(validation)} val images, which may lose {max_drop:g} points of IoU",
            decided_by=(validation.sha256(), right.sha256, max_drop, seed),
        )


def _feeds(
    source: Artifact, execution: Execution, data: Data | AnyPath | None, seed: int
) -> tuple[list[Feeds], str, str]:
    """A few inputs to compare outputs on, what they are in words, and their digest."""
    batches = -(-IMAGES // execution.batch)
    if data is None:
        size = size_to_feed(source)
        feeds = random_feeds(source.inputs, batches * execution.batch, size=size)
        whole = {name: np.array_split(values, batches) for name, values in feeds.items()}
        return (
            [{name: parts[n] for name, parts in whole.items()} for n in range(batches)],
            f"{batches * execution.batch} random inputs",
            "random",
        )
    root = Data.of(data).root
    splits = set(read_splits(root / "splits.csv").values())
    images = open_set(root, next(name for name in ("val", "train", *sorted(splits)) if name in splits))
    images = images.take(min(len(images), IMAGES), seed=seed)
    contract = contract_of(source)
    taken = interface_of(source.inputs, source.outputs)
    inputs = [taken.prepared(s.image(contract), s.stated(contract)) for s in images.samples]
    while len(inputs) % execution.batch:
        inputs.append(inputs[0])
    name = source.inputs[0].name
    stacked = [
        {name: np.stack(inputs[n : n + execution.batch])}
        for n in range(0, len(inputs), execution.batch)
    ]
    return list(stacked), f"{len(images)} {images.split} images", images.sha256()
