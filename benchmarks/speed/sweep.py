"""The settings a benchmark goes through: every batch with every number of threads and streams."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import product

from segdeploy.benchmarks.speed.records import Setting
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.runtimes.execution import Execution, Hint
from segdeploy.deploy.system.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Point:
    """One setting; ``skipped`` says why nothing can run with it, and then it has no execution."""

    hint: Hint
    batch: int
    threads: int
    streams: int
    execution: Execution | None
    skipped: str | None

    @property
    def setting(self) -> Setting:
        """As a report states it."""
        return Setting(hint=self.hint, batch=self.batch, threads=self.threads, streams=self.streams)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What to go through.

    Attributes:
        threads: processors used in all, of each setting.
        batches: images of one call.
        streams: requests served at once; ``None`` is one for latency, and for throughput as many
            as threads.
        hint: latency times one call at a time; throughput keeps every stream busy.
        precision: arithmetic of the layers that are not quantized.

    Example:
        >>> sweep = Sweep(threads=(1, 4), streams=(1, 2), hint=Hint.THROUGHPUT)
        >>> [(point.threads, point.streams, point.skipped is None) for point in sweep.points()]
        [(1, 1, True), (1, 2, False), (4, 1, True), (4, 2, True)]

    Raises:
        UsageError: nothing to go through, or several streams where one call runs at a time.
    """

    threads: tuple[int, ...]
    batches: tuple[int, ...] = (1,)
    streams: tuple[int, ...] | None = None
    hint: Hint = Hint.LATENCY
    precision: Precision = Precision.FP32

    def __post_init__(self) -> None:
        if not self.threads or not self.batches or self.streams == ():
            raise UsageError("a sweep needs at least one batch and one number of threads")
        if self.hint is Hint.LATENCY and self.streams not in (None, (1,)):
            raise UsageError(
                f"--streams {' '.join(map(str, self.streams or ()))} serves several requests at "
                "once, and latency is timed one call at a time; add --hint throughput"
            )

    def fitting(self, batches: Collection[int | None]) -> Sweep:
        """This sweep, at batches that models take.

        Example:
            A model of one image a call beside one of any number, and alone:

            >>> sweep = Sweep(threads=(1,), batches=(4, 8))
            >>> sweep.fitting([1, None]).batches, sweep.fitting([1]).batches
            ((4, 8, 1), (1,))

        Args:
            batches: images a call that each model is fixed to; ``None`` of one that takes any.
        """
        own = sorted({batch for batch in batches if batch is not None})
        if not own:
            return self
        kept = self.batches if None in batches else ()
        return replace(self, batches=tuple(dict.fromkeys((*kept, *own))))

    def points(self) -> Iterator[Point]:
        """Every setting once, the batch changing slowest."""
        for batch, threads in product(dict.fromkeys(self.batches), dict.fromkeys(self.threads)):
            alone = 1 if self.hint is Hint.LATENCY else threads
            for streams in dict.fromkeys(self.streams or (alone,)):
                yield self._point(batch, threads, streams)

    def _point(self, batch: int, threads: int, streams: int) -> Point:
        execution, skipped = None, None
        try:
            execution = Execution(
                threads=threads,
                batch=batch,
                streams=streams,
                hint=self.hint,
                precision=self.precision,
            )
        except UsageError as error:
            skipped = str(error)
        return Point(
            hint=self.hint,
            batch=batch,
            threads=threads,
            streams=streams,
            execution=execution,
            skipped=skipped,
        )
