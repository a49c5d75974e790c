"""Share images among the processes of a ``torchrun`` and join what they found."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

from segdeploy.calibration.collection import Collection, merge_collections
from segdeploy.deploy.system.errors import RunError, SegdeployError, one_line

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One process among several; ``Shard()`` is the only one."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the result."""
        return self.rank == 0

    def part(self, items: Sequence[T]) -> list[T]:
        """Every ``size``-th item, from the ``rank``-th on: disjoint, and all of them together."""
        return list(items[self.rank :: self.size])

    def gathered(self, value: T) -> list[T]:
        """What every process has, in rank order, the same list on each.

        Raises:
            RunError: another process ended before.
        """
        if self.size == 1:
            return [value]
        import torch.distributed

        values: list[T | None] = [None] * self.size
        with _whole_group():
            torch.distributed.all_gather_object(values, value)
        return cast("list[T]", values)

    def gathered_at(self, rank: int, value: T) -> list[T]:
        """What every process has, in rank order, on the one of that rank; nothing on the others.

        Raises:
            RunError: another process ended before.
        """
        if self.size == 1:
            return [value]
        import torch.distributed

        values: list[T | None] | None = [None] * self.size if self.rank == rank else None
        with _whole_group():
            torch.distributed.gather_object(value, values, dst=rank)
        return cast("list[T]", values or [])

    def together(self, work: Callable[[], T], *, at: Callable[[], int] = lambda: 0) -> T:
        """Do something in every process; what is raised in one is raised in all of them.

        Args:
            work: of this process; it talks to no other.
            at: how far it came when it raised: of several errors the one that came first is
                everybody's, and of those the one of the lowest rank.

        Raises:
            SegdeployError: as ``work``, here or elsewhere.
        """
        failure: tuple[int, int, SegdeployError] | None = None
        try:
            value = work()
        except SegdeployError as error:
            if self.size == 1:
                raise
            failure = (at(), self.rank, error)
        failures = [each for each in self.gathered(failure) if each is not None]
        if failures:
            raise min(failures, key=lambda each: each[:2])[2]
        return value

    def of_first(self, work: Callable[[], T]) -> T:
        """What the first process makes, on each.

        Raises:
            SegdeployError: as ``work`` there, on each.
        """
        return cast("T", self.gathered(self.together(lambda: work() if self.is_first else None))[0])

    def merged(self, collection: Collection | None) -> Collection:
        """What all processes counted, the same on each; ``None`` from one without images.

        Counts are integers, so the result does not depend on how many processes there are.

        Raises:
            CalibrationError: no process counted anything, or two counted the same image.
        """
        parts = self.gathered(collection)
        return merge_collections(part for part in parts if part is not None)


@contextmanager
def _whole_group() -> Iterator[None]:
    """A lost peer as this project's error."""
    try:
        yield
    except RuntimeError as error:
        raise RunError(
            "another process of this torchrun ended before its share was done; what it said stands "
            f"above. Start the same line again ({one_line(str(error))})"
        ) from error


WHOLE = Shard()
"""The only process: it has every image."""


def is_first_process() -> bool:
    """Whether this process says and writes what all that ``torchrun`` started found together."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def shard_from_environment(*, backend: str = "gloo") -> Iterator[Shard]:
    """The shard ``torchrun`` assigned to this process; the only one without torchrun.

    No thread of the process group outlives the context. One that does may let go of a tensor
    while the interpreter ends, which aborts the process ("terminate called without an active
    exception") after all its work is done.

    Args:
        backend: of ``torch.distributed``: gloo for CPUs, nccl for GPUs (not run on hardware).
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield WHOLE
        return
    import torch.distributed

    # Default arguments of this module keep the group that exists when it is imported for ever,
    # and DistributedDataParallel imports it: so it comes first.
    import torch.distributed.nn.functional

    torch.distributed.init_process_group(backend)
    try:
        yield Shard(rank=torch.distributed.get_rank(), size=size)
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # their variables hold the group, too
        raise
    finally:
        gc.collect()  # a reference cycle of the caller may hold it as well
        torch.distributed.destroy_process_group()
