"""The example program of packages: alone, it does what this project does with the same model."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tiny import TINY

from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.data.resizing import resize
from segdeploy.deploy.packaging import segment as example
from segdeploy.deploy.packaging.base import Package, PackagedModel, Request
from segdeploy.deploy.packaging.onnx.target import ONNX
from segdeploy.deploy.packaging.openvino.ir import write_ir
from segdeploy.deploy.packaging.package import package

CONTRACT = json.loads(TINY.to_json())
Pixels = NDArray[np.uint8]

contracts = st.builds(
    Preprocess,
    size=st.sampled_from(((16, 16), (32, 48))),
    channel_order=st.sampled_from(("RGB", "BGR")),
    antialias=st.booleans(),
    scale=st.sampled_from((1 / 255, 1.0)),
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    std=st.tuples(*[st.floats(0.05, 2)] * 3),
)


@pytest.fixture(scope="module")
def sample() -> Path:
    """A microscopy image of the bundled sample."""
    return open_set(bundled.sample(), "test").samples[0].image_path


@pytest.fixture(scope="module")
def image(sample: Path) -> Pixels:
    return np.asarray(Image.open(sample).convert("RGB"))


@pytest.fixture(scope="module")
def expected(tiny_models: dict[str, Path], image: Pixels) -> Pixels:
    """The mask of the fp32 file."""
    session = onnxruntime.InferenceSession(str(tiny_models["fp32"]))
    probability = np.asarray(session.run(None, {"image": TINY.apply(image)[None]})[0])
    mask: Pixels = (probability[0, 0] >= 0.5).astype(np.uint8)
    assert 0 < mask.mean() < 1
    return mask


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Package:
    request = Request(sources=(PackagedModel.open(tiny_models["fp32"]),))
    return package(request, target=ONNX, output=tmp_path_factory.mktemp("package") / "out")


class TestPreprocessing:
    @settings(max_examples=40, deadline=None)
    @given(contracts, st.integers(0, 999), st.integers(1, 70), st.integers(1, 70))
    def test_it_is_the_contracts_to_the_last_bit(
        self, preprocess: Preprocess, seed: int, height: int, width: int
    ) -> None:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        contract = json.loads(preprocess.to_json())
        size = list(preprocess.size)
        found = example.prepared(pixels, contract, shape=[-1, 3, *size], dtype="float32")
        assert found.dtype == np.float32
        assert np.array_equal(found, preprocess.apply(pixels))
        resized = example.prepared(pixels, contract, shape=[-1, *size, 3], dtype="uint8")
        assert np.array_equal(
            resized, resize(pixels, preprocess.size, antialias=preprocess.antialias)
        )
        whole = example.prepared(pixels, contract, shape=[-1, -1, -1, 3], dtype="uint8")
        assert np.array_equal(whole, pixels)


class TestModels:
    def test_every_form_gives_the_mask_of_the_file(
        self, tiny_models: dict[str, Path], image: Pixels, expected: Pixels, tmp_path: Path
    ) -> None:
        request = Request(sources=(PackagedModel.open(tiny_models["fp32"]),), batches=(2, 2, 2))
        folder = package(request, target=ONNX, output=tmp_path / "out").folder
        for name, contract in (("plain", None), ("inside", TINY)):
            write_ir(
                tiny_models["fp32"],
                tmp_path / name / "model.xml",
                facts={"a": "b"},
                batch=None,
                embedded=contract,
            )
        paths = [
            tiny_models["fp32"],
            *sorted(folder.glob("*.onnx")),
            *sorted(tmp_path.glob("*/model.xml")),
        ]
        assert len(paths) == 5
        for path in paths:
            mask = example.segment(example.open_file(str(path)), image, CONTRACT)
            assert mask.dtype == np.uint8
            assert np.array_equal(mask, expected), path

    @pytest.mark.parametrize("inside", [False, True])
    def test_a_server_is_asked_for_it_by_name(
        self,
        written: Package,
        image: Pixels,
        expected: Pixels,
        monkeypatch: pytest.MonkeyPatch,
        inside: bool,
    ) -> None:
        path = written.folder / ("net.fp32.image.onnx" if inside else "net.fp32.onnx")
        server = Server(path)
        monkeypatch.setitem(sys.modules, "tritonclient.http", server)
        monkeypatch.setattr("tritonclient.http", server, raising=False)
        model = example.on_server("host:8000", "net")
        assert np.array_equal(example.segment(model, image, CONTRACT), expected)
        assert server.asked == [
            "host:8000",
            ("net", "pixels", [1, 32, 32, 3], "UINT8", "mask")
            if inside
            else ("net", "image", [1, 3, 32, 32], "FP32", "probability"),
        ]


class Server(ModuleType):
    """Stands in for ``tritonclient.http``, with ONNX Runtime where the server would be."""

    def __init__(self, path: Path) -> None:
        super().__init__("tritonclient.http")
        self.session = onnxruntime.InferenceSession(str(path))
        self.asked: list[Any] = []

    def InferenceServerClient(self, url: str) -> Server:  # noqa: N802  # the client's own name
        self.asked.append(url)
        return self

    def get_model_metadata(self, name: str) -> dict[str, Any]:
        types = {"tensor(float)": "FP32", "tensor(uint8)": "UINT8"}
        return {
            key: [
                {
                    "name": end.name,
                    "datatype": types[end.type],
                    "shape": [s if isinstance(s, int) else -1 for s in end.shape],
                }
                for end in ends
            ]
            for key, ends in (
                ("inputs", self.session.get_inputs()),
                ("outputs", self.session.get_outputs()),
            )
        }

    class InferInput:
        def __init__(self, name: str, shape: list[int], datatype: str) -> None:
            self.name, self.shape, self.datatype = name, shape, datatype

        def set_data_from_numpy(self, data: NDArray[Any]) -> None:
            kinds = {"FP32": np.float32, "UINT8": np.uint8}
            assert data.dtype == kinds[self.datatype]
            assert list(data.shape) == self.shape
            self.data = data

    class InferRequestedOutput:
        def __init__(self, name: str) -> None:
            self.name = name

    def infer(self, name: str, inputs: list[Any], outputs: list[Any]) -> Server:
        (feed,), (wanted,) = inputs, outputs
        self.asked.append((name, feed.name, feed.shape, feed.datatype, wanted.name))
        self.answer = self.session.run([wanted.name], {feed.name: feed.data})[0]
        return self

    def as_numpy(self, name: str) -> NDArray[Any]:
        return np.asarray(self.answer)


class TestProgram:
    def test_the_readmes_command_writes_the_mask(
        self, written: Package, sample: Path, expected: Pixels, tmp_path: Path
    ) -> None:
        (command,) = [s.command for s in written.contents.steps if "segment.py" in s.command]
        assert command == "python segment.py net.fp32.onnx image.png -o mask.png"
        done = subprocess.run(
            [
                sys.executable,
                "segment.py",
                "net.fp32.onnx",
                str(sample),
                "-o",
                str(tmp_path / "mask.png"),
            ],
            cwd=written.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.rstrip().endswith(f"{expected.mean():.1%} foreground, 32x32")
        assert np.array_equal(np.asarray(Image.open(tmp_path / "mask.png")), expected * 255)

    def test_it_stands_alone(self, written: Package) -> None:
        tree = ast.parse((written.folder / "segment.py").read_text())
        modules = {
            name.split(".")[0]
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        beside = {"placement", "resizing"}  # in packages whose contract needs them
        others = {"PIL", "numpy", "onnxruntime", "openvino", "tritonclient", *beside}
        assert modules - set(sys.stdlib_module_names) == others
