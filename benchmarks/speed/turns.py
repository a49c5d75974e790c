"""The candidates of a measurement, and whose turn it is."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.runtimes.base import Feeds, Runtime
from segdeploy.deploy.system.errors import RunError, UsageError

T = TypeVar("T")

OnFailure = Callable[[int, RunError], None]
"""Told which candidate failed, by its place, and why."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What to time: an open runtime and the batch it gets, in host memory.

    ``name`` is that of the artefact.

    Raises:
        UsageError: no feeds, or feeds of different or empty batches.
    """

    name: str
    runtime: Runtime
    feeds: Feeds
    precision_requested: Precision

    def __post_init__(self) -> None:
        sizes = sorted({len(feed) for feed in self.feeds.values()})
        if len(sizes) != 1 or sizes[0] == 0:
            raise UsageError(
                f"{self.name} has feeds of batch sizes {sizes}; expected one size, 1 or more"
            )

    @property
    def batch(self) -> int:
        """Images in one call."""
        return len(next(iter(self.feeds.values())))


def by_place(results: Sequence[T], failed: Container[int]) -> dict[int, T]:
    """The results of those that did not fail, by the place of each among all candidates.

    Example:
        >>> by_place(["a", "c"], {1})
        {0: 'a', 2: 'c'}
    """
    places = (place for place in count() if place not in failed)
    return dict(zip(places, results, strict=False))


class Turns:
    """Whose turn it is; a candidate that fails has none any more.

    Args:
        candidates: in the order of their turns.
        on_failure: told who failed and why; ``None`` lets the error end the measurement.
    """

    def __init__(self, candidates: Sequence[Candidate], on_failure: OnFailure | None) -> None:
        self._candidates = candidates
        self._on_failure = on_failure
        self._failed: set[int] = set()

    def left(self) -> list[Candidate]:
        """Those that did not fail."""
        return [c for place, c in enumerate(self._candidates) if place not in self._failed]

    def results(self, result: Callable[[Candidate], T]) -> list[T]:
        """One result for each that did not fail, nor fails while the result is asked for."""
        found = []
        for candidate in self.left():
            with self.of(candidate):
                found.append(result(candidate))
        return found

    @contextmanager
    def of(self, candidate: Candidate) -> Iterator[None]:
        """A candidate's turn."""
        try:
            yield
        except RunError as error:
            if self._on_failure is None:
                raise
            place = next(n for n, other in enumerate(self._candidates) if other is candidate)
            self._failed.add(place)
            self._on_failure(place, error)
