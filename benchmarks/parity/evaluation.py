"""One pass over the evaluation images: asked, scored and forgotten, in one process or in many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from segdeploy.benchmarks.parity.answers import Answers, Asked, ClassSpool, Contracts
from segdeploy.benchmarks.parity.one_image import OneImage, scored
from segdeploy.benchmarks.parity.tallies import Found, Tally
from segdeploy.deploy.data.image_set import SegmentationSet, Truth
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.distributed.ray_workers import RayWorkers
from segdeploy.deploy.distributed.shard import WHOLE, Shard
from segdeploy.deploy.system.progress import LabelledProgress

AT_ONCE = 8
"""Images that a worker of another process is given together."""

Asking = Callable[[int], Truth | None]
"""The classes that are expected in the image at a place."""

Scores = Callable[[Iterable[Asked]], Iterable[OneImage]]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A set, what its images and masks go through, and where that is done.

    Every image is scored by itself and the numbers are joined by its place in the set, so that they
    do not depend on how many processes there are or which of them ended half-way.

    Attributes:
        images: the set.
        preprocess: the input contract.
        output: the output contract.
        progress: for a progress bar over the images.
        shard: the images of this process, of those that ``torchrun`` started.
        workers: processes that score the images, instead of this one.
    """

    images: SegmentationSet
    preprocess: Preprocess
    output: OutputContract
    progress: LabelledProgress[int]
    shard: Shard = WHOLE
    workers: RayWorkers | None = None
    _classes: ClassSpool = field(default_factory=ClassSpool)

    @property
    def contracts(self) -> Contracts:
        """What images and masks go through."""
        return Contracts(preprocess=self.preprocess, output=self.output)

    def reference(self, answers: Answers, label: str, *, ranks: bool | None = None) -> Found:
        """What the reference scores; its classes wait in a temporary file for ``candidate``.

        Args:
            answers: the reference.
            label: for the progress bar.
            ranks: false leaves the area under the curve out; ``None`` is the answers' own.

        Raises:
            InputError: an image or a mask cannot be read, or the model's output is not what the
                contract says.
            RunError: the runtime failed, values are not finite, or another process ended.
        """
        return self._found(answers, label, ranks=ranks, asked=lambda place: None)

    def candidate(self, answers: Answers, label: str, *, ranks: bool | None = None) -> Found:
        """What a candidate scores, and where its classes differ from the reference's; likewise."""
        return self._found(answers, label, ranks=ranks, asked=self._classes.at)

    def _found(self, answers: Answers, label: str, *, ranks: bool | None, asked: Asking) -> Found:
        ranks = answers.ranks if ranks is None else ranks
        tally = Tally(self.images, self.output, ranks=ranks, shard=self.shard)
        taken = 0

        def take() -> None:
            nonlocal taken
            for one in self._scored(answers, label, ranks=ranks, asked=asked):
                if one.classes is not None:
                    self._classes.put(one.place, one.classes)
                tally.add(one)
                taken += 1

        self.shard.together(take, at=lambda: self.shard.rank + taken * self.shard.size)
        return tally.found()

    def _scored(
        self, answers: Answers, label: str, *, ranks: bool, asked: Asking
    ) -> Iterator[OneImage]:
        """The images of this process, in any order."""
        places = range(self.shard.rank, len(self.images), self.shard.size)
        questions = (
            Asked(place=place, sample=self.images.samples[place], expected=asked(place))
            for place in self.progress(places, label)
        )
        begin = partial(_scoring, answers, ranks)
        if self.workers is None:
            with begin() as score:
                yield from score(questions)
            return
        for several in self.workers.mapped(partial(_listed, begin), _chunks(questions)):
            yield from several

    def close(self) -> None:
        """Give the temporary file back."""
        self._classes.close()


@contextmanager
def _scoring(answers: Answers, ranks: bool) -> Iterator[Scores]:
    """What scores images in this process."""
    with answers.open() as said:
        yield lambda asked: (
            scored(seen, answers.contracts.output, ranks=ranks) for seen in said(asked)
        )


@contextmanager
def _listed(
    begin: Callable[[], AbstractContextManager[Scores]],
) -> Iterator[Callable[[list[Asked]], list[OneImage]]]:
    """What scores a few images in another process."""
    with begin() as score:
        yield lambda asked: list(score(asked))


def _chunks(asked: Iterator[Asked]) -> Iterator[list[Asked]]:
    while several := list(islice(asked, AT_ONCE)):
        yield several
