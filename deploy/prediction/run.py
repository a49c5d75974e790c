"""Predict many images: what is done already, the engine, the index."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from segdeploy.deploy.data.preprocess import SIZE_MULTIPLE
from segdeploy.deploy.distributed.engine import Engine
from segdeploy.deploy.prediction.flow import (
    Flow,
    partial_folder,
    remove_partial_folder,
    write_files,
)
from segdeploy.deploy.prediction.image import Job, Outcome, predict_image
from segdeploy.deploy.prediction.journal import TABLE, Journal, Row, Status, key_of
from segdeploy.deploy.prediction.model import Model, decides, require_possible
from segdeploy.deploy.prediction.settings import Fit, Settings
from segdeploy.deploy.prediction.sources import ImageSource
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.errors import InputError, RunError
from segdeploy.deploy.system.interruption import begun
from segdeploy.deploy.system.only_writer import writing_folder
from segdeploy.deploy.system.progress import PieceProgress

if TYPE_CHECKING:
    from segdeploy.deploy.distributed.ray_workers import Begin


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a prediction came to.

    Attributes:
        model: the file and its runtime, in words.
        fit: how the images met it.
        images: that were asked for.
        reused: done before, by the same model with the same settings.
        unreadable: not decoded.
        failed: decoded, and the runtime failed on them or they could not be encoded.
        turned: images that EXIF says are to be shown turned; their outputs are not.
        first_error: why the first image that is not done is not; empty where all are.
        seconds: spent, loading the model included.
        index: the table with a row for each image.
    """

    model: str
    fit: Fit
    images: int
    reused: int
    unreadable: int
    failed: int
    turned: int
    first_error: str
    seconds: float
    index: Path

    @property
    def done_now(self) -> int:
        """Images whose outputs were written now."""
        return self.images - self.reused - self.unreadable - self.failed

    @property
    def exit_code(self) -> int:
        """0 when every image is done, else that of the worst error an image had."""
        if self.failed:
            return RunError.exit_code
        return InputError.exit_code if self.unreadable else 0


@dataclass(kw_only=True)
class _Tally:
    reused: int = 0
    unreadable: int = 0
    failed: int = 0
    turned: int = 0
    first_error: str = ""

    def count(self, row: Row) -> None:
        self.unreadable += row.status is Status.UNREADABLE
        self.failed += row.status is Status.FAILED
        self.first_error = self.first_error or row.error or ""
        self.turned += row.exif_orientation not in (None, 1)


def predict(
    sources: Sequence[ImageSource],
    *,
    model: Model,
    settings: Settings,
    execution: Execution,
    output: Path,
    workers: int,
    engine: Engine = Engine.LOCAL,
    overwrite: bool = False,
    progress: PieceProgress = lambda: None,
) -> Summary:
    """Write the outputs of every image and the index of them all.

    Images that are done, by the same model with the same settings from the same bytes, are not
    done again: killed at any moment, the same call goes on and ends with the same files. Memory
    does not grow with the number of images but for their names.

    Args:
        sources: as ``sources_of`` gives them for ``output`` and the settings' writes.
        model: that predicts.
        settings: how, and what is written.
        execution: how the runtime runs.
        output: folder to write to; made when missing.
        workers: threads that decode and encode; with ``Engine.RAY`` processes that each hold the
            model.
        engine: where the work is done.
        overwrite: do every image again, and take a folder that holds other files.
        progress: called once for each image.

    Raises:
        InputError: the model cannot do what is asked, does not load, or Ray is not installed.
        UsageError: settings that contradict each other, or a folder that is not a prediction's or
            that another process writes to.
        RunError: Ray failed.
        OSError: a file cannot be written.
    """
    require_possible(model, settings, execution)
    began = perf_counter()
    deciding = decides(model, settings, execution)
    job = Job(
        preprocess=model.preprocess,
        output=model.output,
        interface=model.interface,
        settings=settings,
        multiple=model.multiple if settings.fit is Fit.PAD else SIZE_MULTIPLE,
        decides=deciding,
        folder=str(Path.cwd()),
    )
    tally = _Tally()
    with (
        writing_folder(output),
        contextlib.closing(Journal(output, overwrite=overwrite)) as journal,
        begun(),
    ):
        remove_partial_folder(output)  # even where no image is left to do

        def wanted() -> Iterator[ImageSource]:
            for source in sources:
                row = None if overwrite else _done(source, journal, job)
                if row is None:
                    yield source
                    continue
                if row.image != source.label:
                    journal.append(replace(row, image=source.label))
                tally.reused += 1
                tally.count(row)
                progress()

        work = _ray if engine is Engine.RAY else _local
        found = work(wanted(), model, job, execution, output, workers)
        with contextlib.closing(found) as outcomes:  # no thread writes once the folder is let go
            for outcome in outcomes:
                _forget_old_files(journal, outcome.row)
                journal.append(outcome.row)
                tally.count(outcome.row)
                progress()
        journal.finish(sources)
    return Summary(
        model=model.name,
        fit=settings.fit,
        images=len(sources),
        seconds=perf_counter() - began,
        index=output / TABLE,
        **vars(tally),
    )


def _done(source: ImageSource, journal: Journal, job: Job) -> Row | None:
    """The row of an image whose outputs are there and would be the same again."""
    row = journal.row(source.name)
    if row is None or row.status is not Status.DONE or row.image_sha256 is None:
        return None
    if row.key != key_of(job.decides, row.image_sha256):
        return None
    try:
        digests = {Path(job.folder, source.path): row.image_sha256}
        digests |= {journal.folder / file: sha256 for file, sha256 in row.outputs.items()}
        whole = all(path.is_file() and sha256_of(path) == digests[path] for path in digests)
    except OSError:
        return None
    return row if whole else None


def _forget_old_files(journal: Journal, row: Row) -> None:
    """Remove what an earlier prediction wrote for an image and this one did not."""
    earlier = journal.row(row.name)
    for file in set(earlier.outputs) - set(row.outputs) if earlier else ():
        (journal.folder / file).unlink(missing_ok=True)


def _local(
    sources: Iterator[ImageSource],
    model: Model,
    job: Job,
    execution: Execution,
    output: Path,
    workers: int,
) -> Generator[Outcome, None, None]:
    """In this process; the model is loaded when there is something to do."""
    first = next(sources, None)
    if first is None:
        return
    with model.open(execution) as runtime:
        flow = Flow(runtime, job=job, output=output, workers=workers)
        yield from flow.outcomes(_chained(first, sources))


def _ray(
    sources: Iterator[ImageSource],
    model: Model,
    job: Job,
    execution: Execution,
    output: Path,
    workers: int,
) -> Generator[Outcome, None, None]:
    """On a Ray cluster; the files are written here, so that nothing is written twice at once."""
    from segdeploy.deploy.distributed.ray_workers import RayWorkers

    first = next(sources, None)
    if first is None:
        return
    begin: Begin[ImageSource, Outcome] = partial(_opened, model, job, execution)
    with RayWorkers(workers=workers, threads=execution.threads) as ray, partial_folder(output):
        for outcome in ray.mapped(begin, _chained(first, sources)):
            yield write_files(outcome, output)


@contextlib.contextmanager
def _opened(
    model: Model, job: Job, execution: Execution
) -> Iterator[Callable[[ImageSource], Outcome]]:
    """What predicts an image, in a process of its own."""
    with model.open(execution) as runtime:
        yield partial(predict_image, job=job, runtime=runtime)


def _chained(first: ImageSource, rest: Iterable[ImageSource]) -> Iterator[ImageSource]:
    yield first
    yield from rest
