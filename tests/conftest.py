"""What all floors share: tiny networks and image sets, exports made once, logging put back."""

from __future__ import annotations

import copy
import gc
import hashlib
import importlib
import io
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from filelock import FileLock
from numpy.typing import NDArray
from tiny import (
    SPLIT_OF_TWELVE,
    TINY,
    exported,
    quantized,
    randomised,
    write_image_set,
    write_png_file,
    write_raw_set,
    write_small_onnx,
)
from torch import nn

import segdeploy.deploy.stages.simplify
from segdeploy.benchmarks.speed.cold_start import ColdStart
from segdeploy.deploy.models import R2UNet, UNetPlusPlus
from segdeploy.deploy.models.checkpoint import save_checkpoint
from segdeploy.deploy.models.networks import Network
from segdeploy.deploy.onnx_model.artifact import Precision, TensorSpec
from segdeploy.deploy.runtimes.base import Executed, Execution, Feeds, Results, infer_threaded

WritePng = Callable[[Path, NDArray[np.generic]], Path]

torch.set_num_threads(1)  # tiny networks: more threads only wait for each other


LONGEST = ("test_real_data_r2u_net.py", "test_real_data.py", "test_random_graphs.py")
"""Files of minutes, and those of many seconds a test: begun last, one worker would wait for it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; else as they lie."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def pytest_collection_finish() -> None:
    """What the imports left stays until the end: collections need not look at it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> str:
    """A C++ compiler that does not exist, as ``CXX`` names it.

    PyTorch's own compiler reads ``CXX`` once in a process, when it is first imported: so that no
    later test is left without one, before.
    """
    importlib.import_module("torch._inductor.config")
    monkeypatch.setenv("CXX", "no-such-compiler")
    return "no-such-compiler"


@pytest.fixture(scope="session", autouse=True)
def heard_interruptions() -> None:
    """A shell's job in the background inherits that Ctrl-C is ignored; tests send it."""
    if not callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Reuse:
    """Exports and simplified graphs of this session, by all that decides them.

    Tracing and onnxsim take seconds even for tiny networks, and many tests need the same few
    files. Both are deterministic, which tests marked ``uncached`` prove on the real functions.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.enabled = True
        self._export = torch.onnx.export
        self._simplify = segdeploy.deploy.stages.simplify._run_onnxsim
        self._run = subprocess.run

    def export(self, network: nn.Module, *arguments: object, **options: object) -> object:
        """``torch.onnx.export`` without a file; what cannot be pickled is exported afresh."""
        pickled = io.BytesIO()
        try:
            torch.save((network, arguments), pickled)  # instance attributes, too
        except Exception:  # pickle raises many: a class of a test's own, a lambda
            pickled.truncate(0)
        if not self.enabled or len(arguments) != 1 or not pickled.getvalue():
            return self._export(network, *arguments, **options)

        def make() -> onnx.ModelProto:
            return self._export(network, *arguments, **options).model_proto

        key = [pickled.getvalue(), repr(sorted(options.items())).encode()]
        return SimpleNamespace(model_proto=self._made(key, make))

    def simplify(self, source: Path, time_limit_s: float) -> onnx.ModelProto:
        """onnxsim's result, unless a test limits or replaces the process it runs in."""

        def make() -> onnx.ModelProto:
            return self._simplify(source, time_limit_s)

        usual = (
            time_limit_s == segdeploy.deploy.stages.simplify.TIME_LIMIT_S
            and subprocess.run is self._run
        )
        if not self.enabled or not usual:
            return make()
        return self._made([b"onnxsim", source.read_bytes()], make)

    def _made(self, key: list[bytes], make: Callable[[], onnx.ModelProto]) -> onnx.ModelProto:
        path = self.folder / f"{hashlib.sha256(b'|'.join(key)).hexdigest()}.onnx"
        if not path.exists():
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_bytes(make().SerializeToString())
            partial.replace(path)
        return onnx.load_model_from_string(path.read_bytes())


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of all parallel workers."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """A folder that the first worker to need it fills, for all of them to read."""
    done = folder.with_name(f"{folder.name}.done")
    with FileLock(f"{folder}.lock"):
        if not done.exists():
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session", autouse=True)
def _reuse(session_folder: Path) -> Iterator[Reuse]:
    folder = session_folder / "reuse"
    folder.mkdir(exist_ok=True)
    reuse = Reuse(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.onnx.export", reuse.export)
        patch.setattr("segdeploy.deploy.stages.simplify._run_onnxsim", reuse.simplify)
        yield reuse


@pytest.fixture(autouse=True)
def _uncached(request: pytest.FixtureRequest, _reuse: Reuse) -> Iterator[None]:
    _reuse.enabled = request.node.get_closest_marker("uncached") is None
    yield
    _reuse.enabled = True


class Brightness:
    """A model whose probability is the brightness of the input: masks can be checked by hand.

    ``sides`` are height and width of its input; of any size where they are words.
    """

    name = "brightness"
    executed = Executed(layers=(), requested=Precision.FP32)

    def __init__(
        self, *, sides: tuple[int | str, int | str], batch: int = 1, streams: int = 1
    ) -> None:
        shape = ("batch", 3, *sides)
        self.inputs: tuple[TensorSpec, ...] = (
            TensorSpec(name="image", shape=shape, dtype="float32"),
        )
        self.outputs: tuple[TensorSpec, ...] = (
            TensorSpec(name="probability", shape=("batch", 1, *sides), dtype="float32"),
        )
        self.execution = Execution(threads=streams, batch=batch, streams=streams)

    def infer(self, feeds: Feeds) -> Results:
        """The mean over the channels, from 0 for black to 1 for white."""
        found = feeds["image"].shape
        expected = (self.execution.batch, *self.inputs[0].shape[1:])
        assert all(
            isinstance(axis, str) or side == axis
            for side, axis in zip(found, expected, strict=True)
        )
        return {"probability": feeds["image"].mean(axis=1, keepdims=True) / 2 + 0.5}

    def infer_many(self, batches: Iterable[Feeds]) -> Iterator[Results]:
        """As the contract says."""
        return infer_threaded(self.infer, batches, streams=self.execution.streams)

    def __enter__(self) -> Brightness:
        return self

    def __exit__(self, *error: object) -> None: ...


@contextmanager
def own_logging() -> Iterator[None]:
    """``main`` configures logging for its process; take it back."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    yield
    root.handlers[:] = handlers


@pytest.fixture(scope="module", autouse=True)
def _own_logging_of_a_module() -> Iterator[None]:
    """For fixtures that outlive a test."""
    with own_logging():
        yield


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    with own_logging():
        yield


@pytest.fixture(scope="session")
def brightness() -> type[Brightness]:
    """The class of a runtime whose probability is the brightness of the input."""
    return Brightness


@pytest.fixture
def write_png() -> WritePng:
    """Function (path, pixels) -> path that writes a PNG file and its folders."""
    return write_png_file


@pytest.fixture(scope="session")
def randomise() -> Callable[[Network], Network]:
    """Function that gives a network random, well-scaled weights from a fixed seed, in place."""
    return randomised


@pytest.fixture(scope="session")
def make_image_set() -> Callable[[Path, list[str]], Path]:
    """Function (folder, one split per image) -> folder that writes a prepared image set."""
    return write_image_set


@pytest.fixture(scope="session")
def small_onnx() -> Callable[..., Path]:
    """Function (path, contract, batch=...) -> path that writes a small float ONNX file."""
    return write_small_onnx


@pytest.fixture(scope="session")
def _tiny_unet() -> UNetPlusPlus:
    return randomised(UNetPlusPlus(width=4))


@pytest.fixture(scope="session")
def _tiny_r2u() -> R2UNet:
    return randomised(R2UNet(width=4))


@pytest.fixture
def tiny_unet(_tiny_unet: UNetPlusPlus) -> UNetPlusPlus:
    """UNet++ of width 4 with deep supervision, in evaluation mode; a fresh copy for each test."""
    return copy.deepcopy(_tiny_unet)


@pytest.fixture
def tiny_r2u(_tiny_r2u: R2UNet) -> R2UNet:
    """R2U-Net of width 4 with t = 2, in evaluation mode; a fresh copy for each test."""
    return copy.deepcopy(_tiny_r2u)


@pytest.fixture
def tiny_unet_checkpoint(tmp_path: Path, tiny_unet: UNetPlusPlus) -> Path:
    """``tiny_unet`` on disk with a 32x32 input contract."""
    path = tmp_path / "tiny_unet.safetensors"
    save_checkpoint(tiny_unet, path, preprocess=TINY)
    return path


@pytest.fixture
def tiny_r2u_checkpoint(tmp_path: Path, tiny_r2u: R2UNet) -> Path:
    """``tiny_r2u`` on disk with a 32x32 input contract."""
    path = tmp_path / "tiny_r2u.safetensors"
    save_checkpoint(tiny_r2u, path, preprocess=TINY)
    return path


@pytest.fixture
def image_set(tmp_path: Path) -> Path:
    """A prepared folder of 12 images of about 40x48: 6 train, 2 val, 4 test."""
    return write_image_set(tmp_path / "image_set", SPLIT_OF_TWELVE)


@pytest.fixture
def raw_set(tmp_path: Path) -> Path:
    """``write_raw_set`` in a folder of the test."""
    return write_raw_set(tmp_path / "raw")


@pytest.fixture(scope="session")
def tiny_models(session_folder: Path, _tiny_unet: UNetPlusPlus) -> dict[str, Path]:
    """UNet++ of width 4 with a 32x32 contract: fp32, fp16, and int8 for each target.

    Beside them lie its images, ``set``. To be read only.
    """
    from segdeploy.deploy.data.image_set import open_set
    from segdeploy.deploy.quantize.calibrate import calibrate
    from segdeploy.deploy.stages.to_fp16 import to_fp16
    from segdeploy.deploy.targets.profiles import PROFILES

    def make(folder: Path) -> None:
        fp32 = exported(_tiny_unet, folder, head=2)
        images = open_set(write_image_set(folder / "set", SPLIT_OF_TWELVE), "train")
        table = calibrate(fp32, images, preprocess=TINY, threads=1)
        to_fp16(fp32, folder / "net.fp16.onnx")
        for name, profile in PROFILES.items():
            quantized(fp32, folder / f"net.int8.{name}.onnx", table, profile=profile)

    folder = made_once(session_folder / "tiny_models", make)
    names = {"fp32": "fp32", "fp16": "fp16"} | {f"int8 {name}": f"int8.{name}" for name in PROFILES}
    return {name: folder / f"net.{suffix}.onnx" for name, suffix in names.items()}


@contextmanager
def made_up_cold_starts() -> Iterator[None]:
    """Load time and memory of a fresh process are made up; else each row of a run starts one."""
    made_up = ColdStart(load_s=1.0, first_inference_s=1.0, peak_bytes=2, imports_bytes=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segdeploy.benchmarks.speed.run.cold_start", lambda *a, **k: made_up)
        yield


@pytest.fixture(scope="module")
def no_cold_start() -> Iterator[None]:
    """``made_up_cold_starts``; ``tests/pipeline/test_run.py`` and those of the measure do start."""
    with made_up_cold_starts():
        yield


@pytest.fixture(scope="session")
def finished_run(session_folder: Path, _tiny_unet: UNetPlusPlus) -> Path:
    """The output folder of a finished run with two targets.

    Beside it lie its checkpoint, ``net.safetensors``, and its images, ``set``. To be read only.
    """
    from segdeploy.cli.main import main

    def make(root: Path) -> None:
        save_checkpoint(_tiny_unet, root / "net.safetensors", preprocess=TINY)
        words = ("run", "-c", root / "net.safetensors", "--head", 1, "-o", root / "out")
        words += ("--data", write_image_set(root / "set", SPLIT_OF_TWELVE), "--num-samples", 3)
        words += ("--target", "ort-x86", "tensorrt", "--runtime", "onnxruntime")
        words += ("--duration", 0.02, "--warmup", 0, "--batch", 1, "--threads", 1)
        with own_logging(), made_up_cold_starts():
            assert main([*map(str, words), "--max-drop", "100"]) == 0

    return made_once(session_folder / "finished_run", make) / "out"
