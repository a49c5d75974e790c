"""A calibrated small network with uneven channels, and what recovery works with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper
from tiny import TINY, write_image_set, write_small_onnx

from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.onnx_model.file import describe, load_model, save_model
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.recovery.candidate import Candidate, Workshop
from segdeploy.deploy.targets.profiles import ORT_X86

MakeWorkshop = Callable[..., Workshop]


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_set(tmp_path_factory.mktemp("recovery"), ["train"] * 6 + ["val"] * 2)


@pytest.fixture
def make_workshop(tmp_path: Path, image_folder: Path) -> MakeWorkshop:
    def make(*, threads: int = 1, reverse: bool = False, name: str = "work") -> Workshop:
        images = open_set(image_folder, "train")
        if reverse:
            images = type(images)(**{**vars(images), "samples": images.samples[::-1]})
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return Workshop(
            images=images,
            preprocess=TINY,
            profile=ORT_X86,
            exclude=(),
            table_sha256="ab" * 32,
            seed=0,
            threads=threads,
            folder=folder,
            progress=lambda items, label: items,
        )

    return make


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Candidate:
    """Its channels differ by factors of up to 256, as after a BatchNorm that was folded."""
    path = write_small_onnx(tmp_path_factory.mktemp("uneven") / "net.onnx")
    model = load_model(path)
    factors = {"high": 2.0 ** np.array([-5, 0, 2, 3]), "low": 2.0 ** np.arange(-4, 4)}
    for tensor in model.graph.initializer:
        layer = tensor.name.split(".")[0]
        if layer in factors and tensor.name != layer:
            values = numpy_helper.to_array(tensor)
            scaled = values * factors[layer].reshape(-1, *[1] * (values.ndim - 1))
            tensor.CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), tensor.name))
    save_model(model, path)
    source = describe(path)
    table = calibrate(source, open_set(image_folder, "train"), preprocess=TINY, threads=1)
    return Candidate(source=source, table=table)
