"""Run every model file beside the reference over the same images: the parity table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.parity.evidence import compare
from segdeploy.benchmarks.parity.predictions import Predictions
from segdeploy.benchmarks.parity.proof import Proof
from segdeploy.benchmarks.parity.records import ParityRow, ParitySection
from segdeploy.benchmarks.parity.rows import (
    candidate_row,
    failed_row,
    reference_row,
    skipped_row,
)
from segdeploy.benchmarks.scores.image_scores import score_images
from segdeploy.benchmarks.speed.entries import Entry, RowIdentity
from segdeploy.deploy.onnx_model.interface import Interface, interface_of
from segdeploy.deploy.runtimes.base import Execution, Runtime, infer_each
from segdeploy.deploy.runtimes.isolated import TIME_LIMIT_S, open_isolated
from segdeploy.deploy.system.errors import InputError, RunError
from segdeploy.deploy.system.progress import LabelledProgress
from segdeploy.deploy.system.shown_command import shown_text


def parity_section(
    reference: Runtime,
    reference_name: str,
    entries: Sequence[Entry],
    *,
    images: NDArray[np.float32],
    truths: NDArray[np.bool_],
    names: Sequence[str],
    max_drop: float,
    seed: int,
    execution: Execution,
    progress: LabelledProgress[NDArray[Any]],
    pixels: NDArray[np.uint8] | None = None,
    fields: NDArray[np.bool_] | None = None,
    predictions: Sequence[Predictions] = (),
    time_limit_s: float = TIME_LIMIT_S,
) -> ParitySection:
    """Score the reference, every entry, and what devices returned.

    Args:
        reference: an open runtime, usually PyTorch in fp32.
        reference_name: its name in the table.
        entries: what to compare.
        images: float32 (N, 3, H, W), normalised.
        truths: bool (N, H, W).
        names: of the images.
        max_drop: largest loss of IoU that passes, percentage points.
        seed: of the bootstrap.
        execution: how each entry runs.
        progress: for a progress bar over the images.
        pixels: the same images as models of ``Interface.IMAGE`` take them, uint8 (N, H, W, 3);
            needed where there is such a model.
        fields: bool (N, H, W), the fields of view; pixels outside count nowhere. ``None`` where
            every pixel counts.
        predictions: outputs of the same images that were made elsewhere.
        time_limit_s: longest time for loading an entry, and for each of its calls.

    Returns:
        The section of the report, the reference's row first. An entry whose
        runtime crashes, hangs or fails is a row that did not pass, with the reason.

    Raises:
        InputError: a runtime does not accept a file, a model takes pixels and there are none, or
            an image has no pixel inside its field.
        RunError: the reference failed, or the outputs of a device are not finite.
    """
    inputs = {Interface.TENSOR: images, Interface.IMAGE: pixels}
    try:
        expected = _foreground(reference, reference_name, inputs, progress)
    except RunError as error:
        raise RunError(f"the reference, {reference_name}: {error}") from error

    def judged(
        identity: RowIdentity, found: NDArray[np.float32], *, executed: str | None, ranks: bool
    ) -> ParityRow:
        report = compare(
            reference_name,
            identity.name,
            expected,
            found,
            truths,
            max_drop=max_drop,
            image_names=names,
            field=fields,
            seed=seed,
        )
        scores = score_images(found, truths, fields)
        return candidate_row(identity, executed, report, scores, ranks=ranks)

    rows = [_reference_row(reference, reference_name, expected, truths, fields)]
    proof = Proof(threads=execution.threads, time_limit_s=time_limit_s)
    for entry in entries:
        try:
            with ExitStack() as stack:
                runtime = _opened(stack, entry, execution, time_limit_s)
                if isinstance(runtime, str):
                    rows.append(skipped_row(entry.identity(), runtime))
                    continue
                found = _foreground(runtime, entry.name, inputs, progress)
                executed, ranks = runtime.executed, _ranks(runtime)
                fed = inputs[interface_of(runtime.inputs, runtime.outputs)]
            row = judged(entry.identity(), found, executed=executed.words, ranks=ranks)
            rows.append(row if fed is None else proof.of(row, entry, executed, fed))
        except RunError as error:
            rows.append(failed_row(entry.identity(), shown_text(str(error))))
    for given in predictions:
        found, identity = given.probability[:, 0], given.identity()
        rows.append(judged(identity, found, executed=None, ranks=given.ranks))
    return ParitySection(
        reference=reference_name,
        max_drop_percentage_points=max_drop,
        images=len(images),
        image_names=tuple(names),
        field_of_view_percent=None if fields is None else 100.0 * float(fields.mean()),
        rows=tuple(rows),
    )


def _foreground(
    runtime: Runtime,
    name: str,
    inputs: Mapping[Interface, NDArray[Any] | None],
    progress: LabelledProgress[NDArray[Any]],
) -> NDArray[np.float32]:
    """What a model says of every image, fed with what it takes."""
    interface = interface_of(runtime.inputs, runtime.outputs)
    images = inputs[interface]
    if images is None:
        raise InputError(
            f"{name} takes 8-bit pixels and this comparison holds normalised images only; give "
            "the file it was made from"
        )
    return infer_each(runtime, progress(images, name))[:, 0]


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


def _reference_row(
    reference: Runtime,
    name: str,
    probability: NDArray[np.float32],
    truths: NDArray[np.bool_],
    fields: NDArray[np.bool_] | None,
) -> ParityRow:
    executed = reference.executed.words
    identity = RowIdentity(
        name=name,
        file=None,
        target=None,
        runtime=reference.name,
        precision_requested=reference.executed.requested,
    )
    ranks = _ranks(reference)
    return reference_row(identity, executed, probability, truths, fields, ranks=ranks)
