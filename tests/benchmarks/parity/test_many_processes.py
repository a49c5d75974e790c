"""Parity in many processes: the bytes of one, whichever of them ends half-way."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import held_images
import numpy as np
import pytest
from held_images import AS_IT_IS, Echo, set_of
from numpy.typing import NDArray

from segdeploy.api.parity import _crew
from segdeploy.benchmarks.parity import run as parity_run
from segdeploy.benchmarks.parity.predictions import Predictions, Values
from segdeploy.benchmarks.parity.records import ParitySection
from segdeploy.benchmarks.speed.entries import Entry
from segdeploy.calibration.json_record import json_of
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.distributed import ray_workers
from segdeploy.deploy.distributed.ray_workers import RayWorkers
from segdeploy.deploy.distributed.shard import Shard
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.runtimes.base import Execution, Feeds, Results
from segdeploy.deploy.runtimes.registry import RuntimeName
from segdeploy.deploy.system.errors import RunError, UsageError

T = TypeVar("T")

IMAGES = 23
NAMES = tuple(f"image{i:02}" for i in range(IMAGES))
THREE = OutputContract(
    activation=Activation.SOFTMAX, classes=("ground", "road", "tree"), ignored_index=255
)
LABELS = OutputContract(classes=("a", "b"))
CONTRACTS = {"one label": OutputContract(), "three classes": THREE, "two labels": LABELS}


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Where threads that stand for processes exchange what they have."""

    size: int
    values: dict[int, Any] = field(default_factory=dict)
    barrier: threading.Barrier

    def exchanged(self, rank: int, value: Any) -> list[Any]:
        self.values[rank] = value
        self.barrier.wait(30)
        found = [self.values[each] for each in range(self.size)]
        self.barrier.wait(30)
        return found


@dataclass(frozen=True, kw_only=True)
class Thread(Shard):
    """A thread that stands for a process of a torchrun."""

    meeting: Meeting

    def gathered(self, value: T) -> list[T]:
        return self.meeting.exchanged(self.rank, value)

    def gathered_at(self, rank: int, value: T) -> list[T]:
        found = self.meeting.exchanged(self.rank, value)
        return found if rank == self.rank else []


def in_threads(size: int, work: Callable[[Shard], T]) -> list[T]:
    """What each of several processes would find."""
    meeting = Meeting(size=size, barrier=threading.Barrier(size))
    shards = [Thread(rank=rank, size=size, meeting=meeting) for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, shards))


class Broken(Echo):
    """A runtime that fails on some images, and says on which."""

    def infer(self, feeds: Any) -> Any:
        mark = float(feeds["image"][0, -1, 0, 0])
        if mark < 0:
            raise RunError(f"device lost at {-mark:g}")
        return super().infer(feeds)


def images_of(output: OutputContract) -> SegmentationSet:
    """Reference in the first channels, candidate in the next, a mark of broken images in the last.

    Some images have a field of view; probabilities repeat, so that ranks tie.
    """
    draw, shape = np.random.default_rng(3), (IMAGES, 8, 8)
    values = np.rint(draw.random((IMAGES, 2, output.channels, 8, 8)) * 50 + 1)
    values = values / (values.sum(axis=2, keepdims=True) if output.exclusive else 64)
    marks = np.zeros((IMAGES, 1, 8, 8))
    marks[[9, 14]] = -np.array([9, 14]).reshape(2, 1, 1, 1)
    fed = np.concatenate([values.reshape(IMAGES, -1, 8, 8), marks], axis=1).astype(np.float32)
    truths: NDArray[Any] = draw.random(shape) < 0.4
    if output.exclusive:
        truths = draw.integers(0, 3, shape).astype(np.uint8)
        truths[:, :, 0] = 255
    elif not output.binary:
        truths = np.stack([truths, draw.random(shape) < 0.1], axis=1)
    fields = np.ones(shape, bool)
    fields[::2, :3] = False
    return set_of(NAMES, fed, truths, fields=fields)


def section_of(
    output: OutputContract,
    folder: Path,
    *,
    shard: Shard | None = None,
    workers: RayWorkers | None = None,
    runtime: Callable[[int], Echo] = Echo,
) -> ParitySection:
    """Reference, a candidate, one that fails, one that is not here, and what a device returned."""
    channels = output.channels
    artifact = Artifact(
        path=Path("net.onnx"),
        precision=Precision.FP32,
        opset=18,
        inputs=Echo.inputs,
        outputs=Echo.outputs,
        sha256="0" * 64,
    )
    entry = Entry(label="net", artifact=artifact, runtime=RuntimeName.ONNXRUNTIME, skipped=None)
    images = images_of(output)
    files = []
    for sample in images:
        files.append(folder / f"{sample.name}.npy")
        if not files[-1].exists():
            np.save(files[-1], sample.fed[:channels])  # type: ignore[attr-defined]  # Held
    device = Predictions(
        name="card",
        folder=folder,
        files=tuple(files),
        size=(8, 8),
        output=output,
        values=Values.PROBABILITY,
        ranks=True,
    )

    def opened(name: RuntimeName, asked: Artifact, **_: Any) -> Echo:
        first = channels
        made = Broken(first) if asked.target == "broken" else runtime(first)
        made.channels = slice(first, first + channels)
        return made

    OPENS.with_ = opened
    if workers is not None:  # other processes are sent the function itself
        vars(parity_run)["open_isolated"] = opened
    return parity_run.parity_section(
        Echo(0, channels),
        "reference",
        [
            entry,
            replace(entry, label="broken", artifact=replace(artifact, target="broken")),
            replace(entry, label="gone", skipped="not installed"),
        ],
        images=images,
        preprocess=AS_IT_IS,
        output=output,
        max_drop=0.1,
        seed=0,
        execution=Execution(threads=1),
        progress=lambda items, label: items,
        predictions=[device],
        shard=shard or Shard(),
        workers=workers,
    )


OPENS = threading.local()
"""How each thread, which stands for a process, opens a runtime."""


def opened_here(*given: Any, **asked: Any) -> Echo:
    """What stands for ``open_isolated`` in every thread."""
    made: Echo = OPENS.with_(*given, **asked)
    return made


@pytest.fixture(autouse=True)
def _like_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What threads share and processes do not.

    ``numpy.load`` asks Python's parser, which fails in two threads at once
    (python/cpython#106905, mended in 3.11.8).
    """
    monkeypatch.setattr(parity_run, "open_isolated", opened_here)
    load, turn = np.load, threading.Lock()

    def load_in_turn(*given: Any, **asked: Any) -> Any:
        with turn:
            return load(*given, **asked)

    monkeypatch.setattr(np, "load", load_in_turn)


@pytest.mark.parametrize("kind", CONTRACTS)
@pytest.mark.parametrize("size", [2, 5])
def test_every_process_of_several_finds_what_one_finds(
    kind: str, size: int, tmp_path: Path
) -> None:
    output = CONTRACTS[kind]
    alone = json_of(section_of(output, tmp_path))
    assert alone["rows"][2]["skipped"] == "device lost at 9"  # the first of two, whoever has it
    found = in_threads(size, lambda shard: json_of(section_of(output, tmp_path, shard=shard)))
    for each in found:
        assert json.dumps(each) == json.dumps(alone)


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from test_many_processes import CONTRACTS, opened_here, parity_run, section_of
from segdeploy.calibration.json_record import json_of
from segdeploy.deploy.distributed.shard import shard_from_environment
from segdeploy.deploy.system.errors import RunError
import json, os, signal, time

parity_run.open_isolated = opened_here
folder = Path(sys.argv[1])
with shard_from_environment() as shard:
    sections = [
        section_of(each, folder / name, shard=shard) for name, each in CONTRACTS.items()
    ]
    found = [json_of(each) for each in sections]
    (folder / f"{{shard.rank}}.json").write_text(json.dumps(found))
    if not shard.is_first:
        time.sleep(0.3)  # the first waits for it
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        shard.gathered(None)
    except RunError as error:
        (folder / "said.txt").write_text(str(error))
        raise SystemExit(error.exit_code)
"""


def test_processes_of_a_torchrun_find_what_one_finds_and_say_when_one_is_lost(
    tmp_path: Path,
) -> None:
    for name in CONTRACTS:
        (tmp_path / name).mkdir()
    alone = [json_of(section_of(each, tmp_path / name)) for name, each in CONTRACTS.items()]
    script = tmp_path / "script.py"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    script.write_text(SCRIPT.format(paths=paths), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(script), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0, "the job ends with the process that was killed"
    for rank in (0, 1):
        assert (tmp_path / f"{rank}.json").read_text() == json.dumps(alone), done.stderr
    said = tmp_path / "said.txt"  # unless torchrun ended the first before it knew
    if said.exists():
        assert said.read_text().startswith("another process of this torchrun ended")


def test_a_lost_process_is_no_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed

    def lost(*given: object, **options: object) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")

    for name in ("all_gather_object", "gather_object"):
        monkeypatch.setattr(torch.distributed, name, lost)
    for ask in (Shard(size=2).gathered, lambda value: Shard(size=2).gathered_at(0, value)):
        with pytest.raises(RunError, match=r"ended before its share.*Start the same line again"):
            ask(None)


class Mortal(Echo):
    """A runtime whose process is killed on its third image; once, for then ``marker`` exists."""

    def __init__(self, first: int, *, marker: Path, driver: int) -> None:
        super().__init__(first)
        self._marker, self._driver, self._asked = marker, driver, itertools.count(1)

    def infer(self, feeds: Feeds) -> Results:
        if next(self._asked) == 3 and os.getpid() != self._driver:
            with contextlib.suppress(FileExistsError):
                self._marker.touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        return super().infer(feeds)


@pytest.fixture
def cluster() -> Iterator[None]:
    """Ray on this machine, with room for two workers, to which the tests' classes are sent."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    modules = sys.modules[__name__], held_images
    for module in modules:
        ray.cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            ray.cloudpickle.unregister_pickle_by_value(module)
        ray.shutdown()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason=ray_workers.INSTALL)
@pytest.mark.usefixtures("cluster")
def test_a_ray_worker_that_is_killed_changes_no_byte(tmp_path: Path) -> None:
    marker, driver = tmp_path / "killed", os.getpid()

    def mortal(first: int) -> Echo:
        return Mortal(first, marker=marker, driver=driver)

    with RayWorkers(workers=2, threads=1) as workers:
        for output in CONTRACTS.values():
            folder = tmp_path / output.classes[0]
            folder.mkdir()
            vars(parity_run)["open_isolated"] = opened_here
            alone = json_of(section_of(output, folder))
            found = json_of(section_of(output, folder, workers=workers, runtime=mortal))
            assert json.dumps(found) == json.dumps(alone)
    assert marker.exists(), "a worker was killed"


def test_what_shares_images_is_asked_for_once() -> None:
    with pytest.raises(UsageError, match="add --engine ray"):
        _crew("local", 2, None, Shard())
    with pytest.raises(UsageError, match="under torchrun"):
        _crew("ray", None, None, Shard(rank=0, size=2))
    assert _crew("local", None, None, Shard(rank=0, size=2)) is None
