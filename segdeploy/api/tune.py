"""Tune: where Q and DQ stand, by the clock of this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
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
from segdeploy.benchmarks.tune.fidelity import IMAGES, image_feeds, judged_by_output
from segdeploy.benchmarks.tune.run import (
    DEVICE_FILE,
    Judging,
    Tuning,
    require_timed_here,
    state_beside,
    tuned_file,
)
from segdeploy.benchmarks.tune.search import Verdict
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.data.image_set import open_set, read_splits
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import contract_of, output_of, require_fp32
from segdeploy.deploy.quantize.learnt_parameters import LearntParameters
from segdeploy.deploy.runtimes.base import Execution, Feeds
from segdeploy.deploy.runtimes.registry import usable_cores
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.only_writer import writing_file
from segdeploy.deploy.targets.profiles import ORT_X86, TargetProfile

if TYPE_CHECKING:
    from segdeploy.api.models import AnyModel

TIME_BUDGET_S = 300.0


def tune(
    model: AnyOnnx,
    table: CalibrationTable | AnyPath,
    *,
    target: TargetProfile | str = ORT_X86,
    exclude: Sequence[str] = (),
    learnt: LearntParameters | None = None,
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
        learnt: integers and biases in place of rounded ones.
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
    require_fp32(source, "int8 is made")
    require_timed_here(profile)
    with (
        writing_file(output, beside=(state_beside(output), learnt_in.name)),
        ExitStack() as stack,
    ):

        def judging(untuned: Artifact) -> Judging:
            if max_drop is not None and reference is not None and data is not None:
                return _judged_on_truth(
                    stack, source, profile, execution.threads, max_drop, reference, data, seed
                )
            feeds, what, decided_by = _feeds(source, execution, data, seed)
            return judged_by_output(
                source,
                untuned,
                feeds,
                what=what,
                decided_by=decided_by,
                runtime=profile.runtime,
                execution=execution,
            )

        return tuned_file(
            source,
            output,
            table=calibration_table_of(table),
            table_sha256=table_sha256(table),
            profile=profile,
            exclude=exclude,
            learnt=learnt,
            judging=judging,
            execution=execution,
            time_budget_s=time_budget_s,
            started=started,
            device_file=learnt_in,
        )


def _judged_on_truth(
    stack: ExitStack,
    source: Artifact,
    profile: TargetProfile,
    threads: int,
    max_drop: float,
    reference: AnyModel,
    data: Data | AnyPath,
    seed: int,
) -> Judging:
    """The val split beside a reference, which stays open as long as the stack."""
    preprocess, classes = contract_of(source), output_of(source)
    validation, right = split_of(Data.of(data).root, "val"), reference_of(reference, preprocess)
    single = Execution(threads=threads)
    judge = Judge(
        stack.enter_context(opened(right, single)),
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

    return Judging(
        verdict=verdict,
        words=f"{len(validation)} val images, which may lose {max_drop:g} points of IoU",
        decided_by=(validation.sha256(), right.sha256, max_drop, seed),
    )


def _feeds(
    source: Artifact, execution: Execution, data: Data | AnyPath | None, seed: int
) -> tuple[list[Feeds], str, tuple[str | int, ...]]:
    """A few inputs to compare outputs on, what they are in words, and what decides them."""
    if data is None:
        batches = -(-IMAGES // execution.batch)
        count = batches * execution.batch
        drawn = random_feeds(source.inputs, count, size=size_to_feed(source))
        parts = {name: np.split(values, batches) for name, values in drawn.items()}
        feeds: list[Feeds] = [
            {name: each[n] for name, each in parts.items()} for n in range(batches)
        ]
        return feeds, f"{count} random inputs", (count,)
    root = Data.of(data).root
    splits = set(read_splits(root / "splits.csv").values())
    split = next(name for name in ("val", "train", *sorted(splits)) if name in splits)
    images = open_set(root, split)
    images = images.take(min(len(images), IMAGES), seed=seed)
    found = image_feeds(source, images, batch=execution.batch)
    return found, f"{len(images)} {split} images", (images.sha256(), seed)
