"""What the scores of a row do not show by themselves: of this processor, and of other devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.parity.records import ParityRow
from segdeploy.benchmarks.parity.verdict import Verdict
from segdeploy.benchmarks.speed.entries import Entry
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.runtimes.executed import Executed
from segdeploy.deploy.runtimes.fp16_range import Fp16Range, fp16_range
from segdeploy.deploy.runtimes.isolated import TIME_LIMIT_S, call_isolated
from segdeploy.deploy.system.errors import InputError, RunError
from segdeploy.deploy.system.shown_command import shown_text
from segdeploy.deploy.targets.saturation import saturation

RANGE_IMAGES = 32
"""Of the evaluation images, evenly spread, that a half-precision file's range is looked at on."""


class Proof:
    """Looks behind the scores of rows that were judged.

    Args:
        threads: of a runtime.
        time_limit_s: longest time for each image.
    """

    def __init__(self, *, threads: int, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._threads, self._time_limit_s = threads, time_limit_s
        self._ranges: dict[str, Fp16Range | str] = {}

    def of(
        self, row: ParityRow, entry: Entry, executed: Executed, images: Sequence[NDArray[Any]]
    ) -> ParityRow:
        """A row with what else there is to say of it, and passed only if that holds, too.

        Args:
            row: of the entry, judged by its scores.
            entry: what ran.
            executed: what really ran.
            images: what its input takes, each without the batch axis.

        Raises:
            InputError: the entry's file cannot be read any more.
        """
        if entry.artifact.precision is Precision.INT8:
            found = saturation(entry.artifact.path, entry.runtime)
            return replace(row, cautions=(*row.cautions, found)) if found else row
        halves = {layer.precision for layer in executed.layers}
        if entry.artifact.precision is not Precision.FP16 or halves == {"fp16"}:
            return row
        return in_half_precision(row, self._range(entry.artifact, images))

    def _range(self, artifact: Artifact, images: Sequence[NDArray[Any]]) -> Fp16Range | str:
        """Of a file, found once for all runtimes; or why it could not be found."""
        if artifact.sha256 not in self._ranges:
            places = np.linspace(0, len(images) - 1, min(RANGE_IMAGES, len(images)))
            some = [images[int(place)] for place in places.round()]
            look = partial(fp16_range, artifact, some, threads=self._threads)
            limit_s = self._time_limit_s * (1 + len(some))
            try:
                found: Fp16Range | str = call_isolated(
                    look, limit_s=limit_s, doing="in fp16 arithmetic"
                )
            except (InputError, RunError) as error:
                found = shown_text(f"it was not computed in fp16 arithmetic: {error}")
            self._ranges[artifact.sha256] = found
        return self._ranges[artifact.sha256]


def in_half_precision(row: ParityRow, found: Fp16Range | str) -> ParityRow:
    """A row of an fp16 file that this processor computed in another precision.

    Args:
        row: judged by its scores.
        found: what the file's tensors reach; or why that is not known.
    """
    words = found if isinstance(found, str) else found.words
    if isinstance(found, Fp16Range) and found.kept:
        return replace(row, cautions=(*row.cautions, words)) if words else row
    failure = (
        f"{Verdict.NOT_PROVEN_FP16.value}: this processor computed in "
        f"{row.precision_executed}; {words}"
    )
    return replace(
        row,
        passed=False,
        verdict=Verdict.NOT_PROVEN_FP16 if row.verdict is Verdict.KEPT else row.verdict,
        failures=(*row.failures, failure),
    )
