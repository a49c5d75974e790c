"""Run every model file beside the reference over the same images: the parity table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from segdeploy.benchmarks.parity.evaluation import ClassSpool, Evaluation, Seen
from segdeploy.benchmarks.parity.predictions import Predictions
from segdeploy.benchmarks.parity.proof import Proof
from segdeploy.benchmarks.parity.records import ClassLook, GatedScore, ParityRow, ParitySection
from segdeploy.benchmarks.parity.rows import (
    candidate_row,
    failed_row,
    reference_row,
    skipped_row,
)
from segdeploy.benchmarks.parity.tallies import compared, scored
from segdeploy.benchmarks.speed.entries import Entry, RowIdentity
from segdeploy.deploy.data.image_set import Sample, SegmentationSet
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.interface import Interface, interface_of
from segdeploy.deploy.runtimes.base import Execution, Runtime
from segdeploy.deploy.runtimes.isolated import TIME_LIMIT_S, open_isolated
from segdeploy.deploy.system.errors import InputError, RunError, UsageError
from segdeploy.deploy.system.progress import LabelledProgress
from segdeploy.deploy.system.shown_command import shown_text


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
    progress: LabelledProgress[Sample],
    max_drop_class: float | None = None,
    predictions: Sequence[Predictions] = (),
    time_limit_s: float = TIME_LIMIT_S,
) -> ParitySection:
    """Score the reference, every entry, and what devices returned.

    Images are decoded ahead, run, scored and forgotten, once for each model; the reference's
    classes wait in a temporary file. What is kept are scores of each image.

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

    Returns:
        The section of the report, the reference's row first. An entry whose
        runtime crashes, hangs or fails is a row that did not pass, with the reason.

    Raises:
        InputError: a runtime does not accept a file, an image or a mask cannot be read, an output
            is not what the contract says, or an image has no pixel inside its field.
        UsageError: a budget for classes, and there is one label.
        RunError: the reference failed, or the outputs of a device are not finite.
    """
    if output.binary and max_drop_class is not None:
        raise UsageError(
            f"--max-drop-class is {max_drop_class:g}, and the network has one label; leave it out: "
            "--max-drop is its budget"
        )
    evaluation = Evaluation(images=images, preprocess=preprocess, output=output, progress=progress)
    counted = _Counted()
    with ClassSpool() as classes:
        try:
            seen = counted.each(evaluation.seen_by(reference, reference_name))
            expected = scored(seen, output, ranks=_ranks(reference), spool=classes)
        except RunError as error:
            raise RunError(f"the reference, {reference_name}: {error}") from error

        def judged(
            identity: RowIdentity, seen: Iterable[Seen], *, executed: str | None, ranks: bool
        ) -> ParityRow:
            found, report = compared(
                seen,
                expected,
                classes,
                names=(reference_name, identity.name),
                ranks=ranks,
                max_drop=max_drop,
                max_drop_class=max_drop_class,
                seed=seed,
            )
            return candidate_row(identity, executed, report, found, ranks=ranks)

        rows = [
            reference_row(
                _identity(reference, reference_name),
                reference.executed.words,
                expected,
                ranks=_ranks(reference),
            )
        ]
        proof = Proof(threads=execution.threads, time_limit_s=time_limit_s)
        for entry in entries:
            try:
                with ExitStack() as stack:
                    runtime = _opened(stack, entry, execution, time_limit_s)
                    if isinstance(runtime, str):
                        rows.append(skipped_row(entry.identity(), runtime))
                        continue
                    executed, ranks = runtime.executed, _ranks(runtime)
                    row = judged(
                        entry.identity(),
                        evaluation.seen_by(runtime, entry.name),
                        executed=executed.words,
                        ranks=ranks,
                    )
                    fed = evaluation.inputs(interface_of(runtime.inputs, runtime.outputs))
                rows.append(proof.of(row, entry, executed, fed))
            except RunError as error:
                rows.append(failed_row(entry.identity(), shown_text(str(error))))
        for given in predictions:
            seen = evaluation.beside(given.each(), given.name)
            rows.append(judged(given.identity(), seen, executed=None, ranks=given.ranks))
    return ParitySection(
        reference=reference_name,
        score=GatedScore.IOU if output.binary else GatedScore.MIOU,
        classes=_looks(output),
        max_drop_percentage_points=max_drop,
        max_drop_class_percentage_points=None if output.binary else max_drop_class,
        images=len(images),
        image_names=tuple(sample.name for sample in images),
        field_of_view_percent=counted.percent,
        rows=tuple(rows),
    )


class _Counted:
    """Notes how many of the pixels count."""

    def __init__(self) -> None:
        self._inside = self._all = 0
        self._limited = False

    def each(self, seen: Iterable[Seen]) -> Iterable[Seen]:
        for one in seen:
            pixels = one.truth.shape[-2] * one.truth.shape[-1]
            self._all += pixels
            self._inside += pixels if one.counted is None else int(one.counted.sum())
            self._limited |= one.counted is not None
            yield one

    @property
    def percent(self) -> float | None:
        """Of all pixels; ``None`` where every image counts as a whole."""
        return 100.0 * (self._inside / self._all) if self._limited else None


def _looks(output: OutputContract) -> tuple[ClassLook, ...]:
    if output.binary:
        return ()
    pairs = zip(output.classes, output.palette, strict=True)
    return tuple(ClassLook(name=name, colour=colour) for name, colour in pairs)


def _opened(
    stack: ExitStack, entry: Entry, execution: Execution, time_limit_s: float
) -> Runtime | str:
    """The entry's runtime, closed with the stack; or why it is skipped."""
    if entry.skipped:
        return entry.skipped
    try:
        runtime = open_isolated(
            entry.runtime, entry.artifact, execution=execution, time_limit_s=time_limit_s
        )
    except InputError as error:
        if not entry.optional:
            raise
        return f"{entry.runtime.value} does not take this file: {error}"
    return stack.enter_context(runtime)


def _ranks(runtime: Runtime) -> bool:
    """Whether a model gives probabilities, and not masks."""
    return interface_of(runtime.inputs, runtime.outputs) is not Interface.IMAGE


def _identity(reference: Runtime, name: str) -> RowIdentity:
    return RowIdentity(
        name=name,
        file=None,
        target=None,
        runtime=reference.name,
        precision_requested=reference.executed.requested,
    )
