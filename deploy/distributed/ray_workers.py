"""Work on the processes of a Ray cluster: each holds what it works with, and takes items in turn.

Ray starts a process that died again and gives its items to it or another one. On several machines
models and images must have the same paths on each, and segdeploy be installed. Tested on one
machine with a cluster of two workers, one of them killed half-way; not run on several machines.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, TypeVar

from segdeploy.deploy.system.errors import InputError, RunError

Item = TypeVar("Item")
Result = TypeVar("Result")
Begin = Callable[[], AbstractContextManager[Callable[[Item], Result]]]

INSTALL = "ray is not installed; pip install 'segdeploy[ray]'"

ITEMS_AHEAD = 2
"""Items that a worker has: one that it works on, one that waits."""

DEATHS_AT_MOST = 3
"""Of workers over the same item: what kills every one of them is not tried for ever."""


def require_ray() -> None:
    """Refuse before long work where Ray is missing.

    Raises:
        InputError: it is.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError(f"--engine ray: {INSTALL}")


class RayWorkers:
    """Processes of the cluster in ``RAY_ADDRESS`` or of a new one here, for as long as it is open.

    Args:
        workers: processes.
        threads: each uses, of the cluster's CPUs.

    Raises:
        InputError: Ray is not installed.
    """

    def __init__(self, *, workers: int, threads: int) -> None:
        require_ray()
        self._workers, self._threads = workers, threads
        self._keys = itertools.count()

    def __enter__(self) -> RayWorkers:
        import ray

        self._started = not ray.is_initialized()
        if self._started:
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        remote: Any = ray.remote(
            num_cpus=self._threads, max_restarts=-1, max_task_retries=DEATHS_AT_MOST
        )(_Worker)
        actors = [remote.remote(str(Path.cwd())) for _ in range(self._workers)]
        # A cluster that has room for some of them works with those.
        self._starting = {actor.__ray_ready__.remote(): actor for actor in actors}
        self._free: deque[Any] = deque()
        self._busy: dict[Any, Any] = {}
        return self

    def __exit__(self, *error: object) -> None:
        import ray

        for actor in {*self._starting.values(), *self._free, *self._busy.values()}:
            ray.kill(actor)
        if self._started:
            ray.shutdown()

    def mapped(self, begin: Begin[Item, Result], items: Iterable[Item]) -> Iterator[Result]:
        """Work on items; what is yielded is in no order.

        Args:
            begin: opens what a worker needs, as the function that takes an item; called once in
                each process, and again in one that was started anew. What cloudpickle can take.
            items: taken lazily, no more than ``ITEMS_AHEAD`` for each worker before their results.

        Yields:
            The result of every item, once.

        Raises:
            SegdeployError: what a worker raised, if it is one of this project's.
            RunError: it raised anything else, or the cluster failed.
        """
        import ray

        rest, key = enumerate(items), next(self._keys)
        wanted: dict[Any, int] = {}
        failures: dict[int, Exception] = {}
        held = [ray.put(begin)]  # in a list, or each call would unpack it
        while True:
            # Of items that fail the first is told, as one process would; those before it go on.
            while self._free and not failures and (given := next(rest, None)) is not None:
                actor = self._free.popleft()
                call = actor.work.remote(key, held, given[1])
                self._busy[call], wanted[call] = actor, given[0]
            if failures and min(failures) < min(wanted.values(), default=math.inf):
                raise _own(failures[min(failures)]) from failures[min(failures)]
            if not wanted and self._free:
                return
            (done,), _ = ray.wait([*self._starting, *self._busy], num_returns=1)
            if done in self._starting:
                self._free.extend([self._starting.pop(done)] * ITEMS_AHEAD)
                continue
            self._free.append(self._busy.pop(done))
            number = wanted.pop(done, None)
            if number is None:  # left over of work that was given up
                continue
            try:
                result = ray.get(done)
            except ray.exceptions.RayError as error:
                failures[number] = error
            else:
                yield result


class _Worker:
    """One process: holds what it works with."""

    def __init__(self, folder: str) -> None:
        with contextlib.suppress(OSError):  # of another machine; absolute paths need none
            os.chdir(folder)
        self._key: int | None = None
        self._stack = ExitStack()
        self._work: Callable[[Any], Any] | None = None

    def work(self, key: int, held: list[Any], item: Any) -> Any:
        import ray

        if self._key != key:
            self._key = None
            self._stack.close()
            self._work = self._stack.enter_context(ray.get(held[0])())
            self._key = key
        assert self._work is not None
        return self._work(item)


def _own(error: BaseException) -> InputError | RunError:
    """Ray's error as this project's: what a worker said, where it said something."""
    cause: BaseException | None = error
    while cause is not None:
        for inner in (getattr(cause, "cause", None), cause):  # Ray's own is of both kinds
            if isinstance(inner, (InputError, RunError)):
                return type(inner)(str(inner))
        cause = cause.__cause__
    return RunError(f"Ray failed: {str(error).strip().splitlines()[-1]}")
