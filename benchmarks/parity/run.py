"""Run every model file beside the reference over the same images: the parity table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from functools import partial

from segdeploy.benchmarks.parity.answers import DeviceAnswers, ModelAnswers, inputs_of
from segdeploy.benchmarks.parity.evaluation import Evaluation
from segdeploy.benchmarks.parity.predictions import Predictions
from segdeploy.benchmarks.parity.proof import Proof
from segdeploy.benchmarks.parity.records import ClassLook, GatedScore, ParityRow, ParitySection
from segdeploy.benchmarks.parity.rows import (
    candidate_row,
    failed_row,
    reference_row,
    skipped_row,
)
from segdeploy.benchmarks.parity.tallies import compared
from segdeploy.benchmarks.speed.entries import Entry, RowIdentity
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.distributed.ray_workers import RayWorkers
from segdeploy.deploy.distributed.shard import WHOLE, Shard
from segdeploy.deploy.runtimes.base import Execution, Runtime
from segdeploy.deploy.runtimes.isolated import TIME_LIMIT_S, open_isolated
from segdeploy.deploy.system.errors import InputError, RunError, UsageError
from segdeploy.deploy.system.progress import LabelledProgress
from segdeploy.deploy.system.shown_command import shown_text

Opener = Callable[[], AbstractContextManager[Runtime]]


def parity_section(
    reference: Runtime,
    reference_name: str,
    entries: Sequence[Entry],
    *,
    images: SegmentationSet,
    preprocess: Preprocess,
    output: OutputContract,
    max_drop: float,
    seed: int,
    execution: Execution,
    progress: LabelledProgress[int],
    max_drop_class: float | None = None,
    predictions: Sequence[Predictions] = (),
    time_limit_s: float = TIME_LIMIT_S,
    shard: Shard = WHOLE,
    workers: RayWorkers | None = None,
    reference_opener: Opener | None = None,
) -> ParitySection:
    """Score the reference, every entry, and what devices returned.

    Images are decoded ahead, run, scored and forgotten, once for each model; the reference's
    classes wait in a temporary file. What is kept are scores of each image. They are the same from
    one process and from several, with as many threads each.

    Args:
        reference: an open runtime, usually PyTorch in fp32.
        reference_name: its name in the table.
        entries: what to compare.
        images: the evaluation set.
        preprocess: the input contract of all.
        output: the output contract of all.
        max_drop: largest loss that passes, percentage points: of IoU with one label, of mIoU with
            several classes.
        seed: of the bootstrap.
        execution: how each entry runs.
        progress: for a progress bar over the images.
        max_drop_class: with several classes, the largest loss of IoU of any of them; ``None`` asks
            only that none is lost altogether.
        predictions: outputs of the same images that were made elsewhere.
        time_limit_s: longest time for loading an entry, and for each of its calls.
        shard: the images of this process, of those that ``torchrun`` started; each returns the
            same.
        workers: processes that score the images, instead of this one.
        reference_opener: opens the reference there; ``None`` takes it as it is here.

    Returns:
        The section of the report, the reference's row first. An entry whose
        runtime crashes, hangs or fails is a row that did not pass, with the reason.

    Raises:
        InputError: a runtime does not accept a file, an image or a mask cannot be read, an output
            is not what the contract says, or an image has no pixel inside its field.
        UsageError: a budget for classes, and there is one label.
        RunError: the reference failed, the outputs of a device are not finite, or a process or
            the cluster was lost.
    """
    if output.binary and max_drop_class is not None:
        raise UsageError(
            f"--max-drop-class is {max_drop_class:g}, and the network has one label; leave it out: "
            "--max-drop is its budget"
        )
    evaluation = Evaluation(
        images=images,
        preprocess=preprocess,
        output=output,
        progress=progress,
        shard=shard,
        workers=workers,
    )
    with closing(evaluation):
        answers = ModelAnswers.of(reference, evaluation.contracts, reference_opener)
        try:
            expected = evaluation.reference(answers, reference_name)
        except RunError as error:
            raise RunError(f"the reference, {reference_name}: {error}") from error

        def judged(
            identity: RowIdentity, answers: ModelAnswers | DeviceAnswers, *, executed: str | None
        ) -> ParityRow:
            found = evaluation.candidate(answers, identity.name)
            report = compared(
                expected,
                found,
                names=(reference_name, identity.name),
                max_drop=max_drop,
                max_drop_class=max_drop_class,
                seed=seed,
            )
            return candidate_row(identity, executed, report, found, ranks=answers.ranks)

        rows = [
            reference_row(
                _identity(reference, reference_name),
                answers.executed,
                expected,
                ranks=answers.ranks,
            )
        ]
        proof = Proof(threads=execution.threads, time_limit_s=time_limit_s)
        for entry in entries:
            open_entry = partial(
                open_isolated,
                entry.runtime,
                entry.artifact,
                execution=execution,
                time_limit_s=time_limit_s,
            )
            try:
                with ExitStack() as stack:
                    runtime = shard.together(partial(_opened, stack, entry, open_entry))
                    reasons = shard.gathered(runtime if isinstance(runtime, str) else None)
                    reason = next(filter(None, reasons), None)
                    if reason is not None or isinstance(runtime, str):
                        rows.append(skipped_row(entry.identity(), str(reason)))
                        continue
                    executed = runtime.executed
                    answers = ModelAnswers.of(
                        runtime,
                        evaluation.contracts,
                        open_entry if workers else None,
                    )
                    row = judged(entry.identity(), answers, executed=executed.words)
                    fed = inputs_of(images, runtime, preprocess)
                rows.append(shard.of_first(partial(proof.of, row, entry, executed, fed)))
            except RunError as error:
                rows.append(failed_row(entry.identity(), shown_text(str(error))))
        for given in predictions:
            device = DeviceAnswers(contracts=evaluation.contracts, given=given)
            rows.append(judged(given.identity(), device, executed=None))
    return ParitySection(
        reference=reference_name,
        score=GatedScore.IOU if output.binary else GatedScore.MIOU,
        classes=_looks(output),
        max_drop_percentage_points=max_drop,
        max_drop_class_percentage_points=None if output.binary else max_drop_class,
        images=len(images),
        image_names=tuple(sample.name for sample in images),
        field_of_view_percent=expected.field_of_view_percent,
        rows=tuple(rows),
    )


def _looks(output: OutputContract) -> tuple[ClassLook, ...]:
    if output.binary:
        return ()
    pairs = zip(output.classes, output.palette, strict=True)
    return tuple(ClassLook(name=name, colour=colour) for name, colour in pairs)


def _opened(stack: ExitStack, entry: Entry, opener: Opener) -> Runtime | str:
    """The entry's runtime, closed with the stack; or why it is skipped."""
    if entry.skipped:
        return entry.skipped
    try:
        return stack.enter_context(opener())
    except InputError as error:
        if not entry.optional:
            raise
        return f"{entry.runtime.value} does not take this file: {error}"


def _identity(reference: Runtime, name: str) -> RowIdentity:
    return RowIdentity(
        name=name,
        file=None,
        target=None,
        runtime=reference.name,
        precision_requested=reference.executed.requested,
    )
