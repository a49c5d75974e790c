"""On a Ray cluster of two workers, one of them killed half-way: the same bytes as here."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdeploy.cli.main import main
from segdeploy.deploy.distributed import ray_workers
from segdeploy.deploy.distributed.engine import Engine
from segdeploy.deploy.models.checkpoint import load_checkpoint
from segdeploy.deploy.prediction.model import OnnxModel, onnx_model
from segdeploy.deploy.prediction.run import predict
from segdeploy.deploy.prediction.settings import Settings, Write
from segdeploy.deploy.prediction.sources import sources_of
from segdeploy.deploy.runtimes.base import Execution, Feeds, Results
from segdeploy.deploy.runtimes.registry import RuntimeName
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.system.errors import InputError, RunError

IMAGES = 24
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason=f"{ray_workers.INSTALL} to run it"
)


@dataclass(frozen=True, kw_only=True)
class Mortal(OnnxModel):
    """A model whose process is killed on its third image; once, for then ``marker`` exists."""

    marker: Path

    def open(self, execution: Execution) -> Any:
        """The runtime, with a ``infer`` that ends its process."""
        runtime: Any = super().open(execution)
        infer, asked = runtime.infer, itertools.count(1)

        def mortal(feeds: Feeds) -> Results:
            if next(asked) == 3:
                with contextlib.suppress(FileExistsError):
                    self.marker.touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)
            found: Results = infer(feeds)
            return found

        runtime.infer = mortal
        return runtime


@pytest.fixture
def model_file(tmp_path: Path, tiny_unet_checkpoint: Path) -> Path:
    return export(load_checkpoint(tiny_unet_checkpoint, head=1), tmp_path / "net.onnx").path


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images of several sizes, one of them broken; the working directory is their parent."""
    generator = np.random.default_rng(4)
    (tmp_path / "images").mkdir()
    for index in range(IMAGES - 1):
        pixels = generator.integers(0, 256, (40 + index, 70, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index:02d}.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"\x89PNG")
    monkeypatch.chdir(tmp_path)
    return Path("images")


@pytest.fixture
def cluster() -> Iterator[None]:
    """Ray on this machine, with room for two workers, to which this module's classes are sent."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        yield
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
        ray.shutdown()


def files_of(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@needs_ray
@pytest.mark.usefixtures("cluster")
def test_two_workers_one_killed_half_way_give_the_bytes_of_one_process(
    model_file: Path, images: Path, tmp_path: Path
) -> None:
    model = onnx_model(model_file, RuntimeName.ONNXRUNTIME)
    mortal = Mortal(**vars(model), marker=tmp_path / "killed")
    chosen = Settings(writes=tuple(Write))

    def run(engine: Engine, output: Path, used: OnnxModel) -> int:
        sources = sources_of([str(images)], output=output, writes=chosen.writes)
        summary = predict(
            sources,
            model=used,
            settings=chosen,
            execution=Execution(threads=1),
            output=output,
            workers=2,
            engine=engine,
        )
        assert (summary.images, summary.unreadable, summary.failed) == (IMAGES, 1, 0)
        return summary.reused

    run(Engine.LOCAL, Path("local"), model)
    run(Engine.RAY, Path("ray"), mortal)
    assert mortal.marker.exists(), "a worker was killed"
    assert files_of(Path("ray")) == files_of(Path("local"))
    assert run(Engine.LOCAL, Path("ray"), model) == IMAGES - 1, "another engine goes on with it"


class TestErrors:
    def test_what_a_worker_said_is_the_message(self) -> None:
        outer = RuntimeError("a page of Ray's own traceback")
        outer.__cause__ = InputError("model net.onnx does not exist")
        found = ray_workers._own(outer)
        assert isinstance(found, InputError)
        assert str(found) == "model net.onnx does not exist"

    def test_else_ray_s_last_line(self) -> None:
        found = ray_workers._own(RuntimeError("traceback\n  line 3\nthe cluster is gone\n"))
        assert isinstance(found, RunError)
        assert str(found) == "Ray failed: the cluster is gone"

    def test_without_ray_it_is_said_how_to_get_it(
        self,
        images: Path,
        tmp_path: Path,
        small_onnx: Callable[..., Path],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        model = str(small_onnx(tmp_path / "net.onnx"))
        monkeypatch.setattr(ray_workers.importlib.util, "find_spec", lambda name: None)
        assert main(["predict", model, str(images), "-o", "out", "--engine", "ray"]) == 3
        assert "ray is not installed; pip install 'segdeploy[ray]'" in capsys.readouterr().err
