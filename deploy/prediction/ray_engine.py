"""The same function of one image, on the processes of a Ray cluster.

Ray gives a dead process' images to another one. On several machines the model and the images must
have the same paths on each, and segdeploy be installed. Tested on one machine with a cluster of two
workers, one of them killed half-way; not run on several machines.
"""

from __future__ import annotations

import importlib.util
import logging
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from segdeploy.deploy.prediction.image import Job, Outcome, predict_image
from segdeploy.deploy.prediction.model import Model
from segdeploy.deploy.prediction.sources import ImageSource
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.system.errors import InputError, RunError

INSTALL = "ray is not installed; pip install 'segdeploy[ray]'"

BLOCKS_OF_A_WORKER = 16
"""Parts of the work for each worker: what is lost with one, and how evenly they end."""

MOST_IN_A_BLOCK = 64


def require_ray() -> None:
    """Refuse before long work where Ray is missing.

    Raises:
        InputError: it is.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError(f"--engine ray: {INSTALL}")


def ray_outcomes(
    sources: Sequence[ImageSource], *, model: Model, job: Job, execution: Execution, workers: int
) -> Iterator[Outcome]:
    """Work on images in several processes, of the cluster in ``RAY_ADDRESS`` or a new one here.

    Args:
        sources: the images.
        model: opened once in each process.
        job: what to do with each image.
        execution: of one process; it takes ``threads`` of the cluster's CPUs.
        workers: processes.

    Yields:
        What became of each image, with the bytes to write, in no order.

    Raises:
        InputError: Ray is not installed, or the model does not load.
        RunError: the cluster failed.
    """
    require_ray()
    if not sources:
        return
    import ray

    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    try:
        dataset = _dataset(sources, model=model, job=job, execution=execution, workers=workers)
        for row in dataset.iter_rows():
            yield pickle.loads(row["outcome"])  # from our own processes
    except ray.exceptions.RayError as error:
        raise _own(error) from error
    finally:
        if started:
            ray.shutdown()


def _dataset(
    sources: Sequence[ImageSource], *, model: Model, job: Job, execution: Execution, workers: int
) -> Any:
    """The lazy computation."""
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    blocks = min(len(sources), max(BLOCKS_OF_A_WORKER * workers, len(sources) // MOST_IN_A_BLOCK))
    items = ray.data.from_items(
        [pickle.dumps(source) for source in sources], override_num_blocks=blocks
    )
    return items.map_batches(
        _Worker,
        fn_constructor_args=(model, job, execution),
        batch_size=1,
        num_cpus=execution.threads,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )


class _Worker:
    """One process: holds the model, takes an image at a time."""

    def __init__(self, model: Model, job: Job, execution: Execution) -> None:
        self._job = job
        self._runtime = model.open(execution).__enter__()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        outcomes = [
            predict_image(pickle.loads(item), self._job, self._runtime) for item in batch["item"]
        ]
        return {"outcome": [pickle.dumps(outcome) for outcome in outcomes]}


def _own(error: Exception) -> InputError | RunError:
    """Ray's error as this project's: what a worker said, where it said something."""
    cause: BaseException | None = error
    while cause is not None:
        for inner in (cause, getattr(cause, "cause", None)):
            if isinstance(inner, (InputError, RunError)):
                return type(inner)(str(inner))
        cause = cause.__cause__
    return RunError(f"Ray failed: {str(error).strip().splitlines()[-1]}")
