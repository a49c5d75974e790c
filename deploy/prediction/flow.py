"""Decoding, inference and encoding overlap, over any number of images, few of them at once."""

from __future__ import annotations

import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from segdeploy.calibration.files import naming
from segdeploy.deploy.prediction.fitting import Canvas
from segdeploy.deploy.prediction.image import Job, Outcome, Piece, Prepared, feeds_of, predict_image
from segdeploy.deploy.prediction.sources import ImageSource
from segdeploy.deploy.runtimes.base import BATCHES_AHEAD, Feeds, Runtime
from segdeploy.deploy.system.errors import RunError
from segdeploy.deploy.system.look_ahead import mapped_ahead

IMAGES_AHEAD = 2
"""Images decoded ahead, and outputs waiting, for each worker or image of a batch."""

PARTIAL = ".partial"
"""Folder in the output for files that are not whole yet; gone when all are."""

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An image, and what was found in its pieces so far."""

    prepared: Prepared
    canvas: Canvas


class Flow:
    """Reads, infers, encodes and writes at once.

    However many images there are, no more than ``bound`` of them are between being opened and
    having their files written. Of one that is resized or padded, only the model's input is kept
    (and itself, where an overlay needs it), of one that is tiled the scaled image.

    Attributes:
        bound: most images at once.
        most_at_once: how many there were.
        written_at: when each image was finished, in seconds of ``time.perf_counter``.
        decode_processor_s: processor time spent on decoding so far.
        encode_processor_s: processor time spent on encoding so far.
    """

    def __init__(self, runtime: Runtime, *, job: Job, output: Path, workers: int) -> None:
        """Prepare to write into a folder, which exists.

        Args:
            runtime: of the job's model.
            job: what to do with each image.
            output: folder to write to.
            workers: threads that decode and encode.
        """
        self.runtime, self.job, self.output, self.workers = runtime, job, output, workers
        self.batch = runtime.execution.batch
        self.ahead = IMAGES_AHEAD * max(workers, self.batch)
        self.bound = 2 * self.ahead + (BATCHES_AHEAD * runtime.execution.streams + 1) * self.batch
        self._lock = threading.Lock()
        self.start_over()

    def start_over(self) -> None:
        """Forget what was counted."""
        self.most_at_once = self._at_once = 0
        self.written_at: list[float] = []
        self.decode_processor_s = self.encode_processor_s = 0.0

    def outcomes(self, sources: Iterable[ImageSource]) -> Iterator[Outcome]:
        """Write the outputs of every image.

        Args:
            sources: taken lazily.

        Yields:
            What became of each image, in their order, when its files are written. One that cannot
            be read, or that the runtime fails on, does not stop the others.

        Raises:
            OSError: a file cannot be written.
        """
        with partial_folder(self.output), ThreadPoolExecutor(self.workers) as pool:
            items = self.mapped(pool, self.read, self._counted(sources))
            for outcome in self.mapped(pool, self.finish, self.answers(items)):
                with self._lock:
                    self._at_once -= 1
                yield outcome

    def mapped(
        self, pool: ThreadPoolExecutor, work: Callable[[A], B], items: Iterable[A]
    ) -> Iterator[B]:
        """Results in the order of the items, which are taken no more than ``ahead`` early."""
        return mapped_ahead(pool, work, items, ahead=self.ahead)

    def read(self, source: ImageSource) -> Prepared | Outcome:
        """Decode an image file and turn it into the model's input."""
        started = time.thread_time()
        item = self.job.read(source)
        with self._lock:
            self.decode_processor_s += time.thread_time() - started
        return item

    def answers(self, items: Iterable[Prepared | Outcome]) -> Iterator[Answer | Outcome]:
        """Run the model in batches, over the borders of images; outcomes pass through.

        Where the runtime fails, the images that were on their way are taken again one by one, so
        that only those it fails on are lost.
        """
        rest, waiting = iter(items), deque[Answer | Outcome]()
        while True:
            try:
                yield from self._streamed(rest, waiting)
                return
            except RunError:
                while waiting:
                    item = waiting.popleft()
                    unfinished = isinstance(item, Answer) and not item.canvas.full
                    yield self._alone(item) if unfinished else item

    def _streamed(
        self, rest: Iterator[Prepared | Outcome], waiting: deque[Answer | Outcome]
    ) -> Iterator[Answer | Outcome]:
        """Answers in order; ``waiting`` holds the images that were begun and not yielded."""
        groups: deque[list[Canvas]] = deque()

        def pieces() -> Iterator[tuple[Canvas, Piece]]:
            for item in rest:
                if isinstance(item, Outcome):
                    waiting.append(item)
                    continue
                answer = Answer(prepared=item, canvas=self.job.canvas(item.plan))
                waiting.append(answer)
                for piece in item.pieces:
                    yield answer.canvas, piece

        def batches() -> Iterator[Feeds]:
            begun = pieces()
            while group := list(islice(begun, self.batch)):
                groups.append([canvas for canvas, _ in group])
                yield feeds_of([piece for _, piece in group], self.runtime)

        for results in self.runtime.infer_many(batches()):
            found = self.job.probabilities(results[self.runtime.outputs[0].name])
            for canvas, probability in zip(groups.popleft(), found, strict=False):
                canvas.add(probability)
            yield from _complete(waiting)
        yield from _complete(waiting)

    def _alone(self, item: Answer | Outcome) -> Outcome:
        """One image without the others; an outcome stays as it is."""
        if isinstance(item, Outcome):
            return item
        return predict_image(item.prepared.source, self.job, self.runtime)

    def finish(self, item: Answer | Outcome) -> Outcome:
        """Encode and write what was found in an image; its bytes are not kept."""
        started = time.thread_time()
        if isinstance(item, Answer):
            item = self.job.finish(item.prepared, item.canvas.probability())
        written = write_files(item, self.output)
        with self._lock:
            self.encode_processor_s += time.thread_time() - started
            self.written_at.append(time.perf_counter())
        return written

    def _counted(self, sources: Iterable[ImageSource]) -> Iterator[ImageSource]:
        for source in sources:
            with self._lock:
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
            yield source


def _complete(waiting: deque[Answer | Outcome]) -> Iterator[Answer | Outcome]:
    """The images at the front that need no more of the model."""
    while waiting:
        front = waiting[0]
        if isinstance(front, Answer) and not front.canvas.full:
            return
        yield waiting.popleft()


@contextmanager
def partial_folder(output: Path) -> Iterator[None]:
    """A folder for files that are not whole yet, empty at first and gone at the end."""
    remove_partial_folder(output)
    (output / PARTIAL).mkdir()
    try:
        yield
    finally:
        remove_partial_folder(output)


def remove_partial_folder(output: Path) -> None:
    """Remove what a killed writer left in ``partial_folder``."""
    shutil.rmtree(output / PARTIAL, ignore_errors=True)


def write_files(outcome: Outcome, output: Path) -> Outcome:
    """Write an image's files, each whole or not at all, inside ``partial_folder``.

    Returns:
        The outcome without the bytes.

    Raises:
        OSError: a file cannot be written.
    """
    temporary = output / PARTIAL / str(threading.get_ident())
    for file, content in outcome.files.items():
        path = output / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path, instead_of=temporary):
            temporary.write_bytes(content)
            temporary.replace(path)
    return replace(outcome, files={})
