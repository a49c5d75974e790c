"""ONNX packages: checked files, batch dynamic or fixed, preprocessing outside or inside."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx.external_data_helper import convert_model_to_external_data
from tiny import TINY

from segdeploy.cli.main import main
from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.resizing import resize
from segdeploy.deploy.onnx_model.file import (
    describe,
    load_model,
    metadata,
    save_model,
    set_metadata,
)
from segdeploy.deploy.packaging.base import Package, PackagedModel, Request
from segdeploy.deploy.packaging.onnx.target import ONNX
from segdeploy.deploy.packaging.package import package
from segdeploy.deploy.packaging.preprocessing import Preprocessing
from segdeploy.deploy.rewrites.image_interface import image_interface
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.errors import InputError

PRECISIONS = ("fp32", "fp16", "int8 ort-x86")


def run(path: Path, feed: NDArray[Any]) -> NDArray[Any]:
    """What ONNX Runtime gives for a batch."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: feed})[0])


def request_of(tiny_models: dict[str, Path], *names: str, **settings: Any) -> Request:
    return Request(
        sources=tuple(PackagedModel.open(tiny_models[name]) for name in names), **settings
    )


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    """Microscopy images of the bundled sample."""
    return [sample.image() for sample in open_set(bundled.sample(), "test").samples[:6]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Package:
    """A package of three precisions."""
    request = request_of(tiny_models, *PRECISIONS)
    return package(request, target=ONNX, output=tmp_path_factory.mktemp("onnx") / "out")


class TestModels:
    @pytest.mark.parametrize("name", PRECISIONS)
    def test_raw_pixels_give_the_mask_that_prepared_tensors_give(
        self,
        written: Package,
        tiny_models: dict[str, Path],
        images: list[NDArray[np.uint8]],
        name: str,
    ) -> None:
        stem = tiny_models[name].name.removesuffix(".onnx")
        tensors = np.stack([TINY.apply(image) for image in images])
        pixels = np.stack([resize(image, TINY.size) for image in images])
        expected = run(tiny_models[name], tensors)[:, 0] >= 0.5
        assert np.array_equal(run(written.folder / f"{stem}.onnx", tensors)[:, 0] >= 0.5, expected)
        mask = run(written.folder / f"{stem}.image.onnx", pixels)
        assert np.array_equal(mask, expected.astype(np.uint8))
        assert 0 < expected.mean() < 1

    def test_a_dynamic_plain_model_is_the_file_itself(
        self, written: Package, tiny_models: dict[str, Path]
    ) -> None:
        for name in PRECISIONS:
            copy = written.folder / tiny_models[name].name
            assert sha256_of(copy) == sha256_of(tiny_models[name])

    @pytest.mark.parametrize("inside", [False, True])
    def test_a_fixed_batch_is_fixed_everywhere_and_changes_no_mask(
        self,
        tiny_models: dict[str, Path],
        images: list[NDArray[np.uint8]],
        tmp_path: Path,
        inside: bool,
    ) -> None:
        wanted = Preprocessing.INSIDE if inside else Preprocessing.OUTSIDE
        request = request_of(tiny_models, "int8 ort-x86", batches=(3, 3, 3), preprocessing=wanted)
        folder = package(request, target=ONNX, output=tmp_path / "out").folder
        (path,) = folder.glob("*.onnx")
        artifact = describe(path)
        assert artifact.inputs[0].shape[0] == artifact.outputs[0].shape[0] == 3
        tensors = np.stack([TINY.apply(image) for image in images[:3]])
        pixels = np.stack([resize(image, TINY.size) for image in images[:3]])
        found = run(path, pixels if inside else tensors)
        expected = run(tiny_models["int8 ort-x86"], tensors)[:, 0] >= 0.5
        assert np.array_equal(found if inside else found[:, 0] >= 0.5, expected)
        with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
            run(path, (pixels if inside else tensors)[:1])

    def test_metadata_goes_along(self, written: Package, tiny_models: dict[str, Path]) -> None:
        plain = metadata(load_model(tiny_models["int8 ort-x86"]))
        inside = metadata(load_model(written.folder / "net.int8.ort-x86.image.onnx"))
        own = {
            "interface": "image-mask",
            "parent_sha256": sha256_of(tiny_models["int8 ort-x86"]),
        }
        assert inside == plain | own

    def test_the_files_follow_the_contract(
        self,
        tiny_models: dict[str, Path],
        images: list[NDArray[np.uint8]],
        tmp_path: Path,
    ) -> None:
        model = load_model(tiny_models["fp32"])
        other = replace(TINY, channel_order="RGB", mean=(0.4, 0.5, 0.6))
        set_metadata(model, metadata(model) | {"preprocess": other.to_json()})
        save_model(model, tmp_path / "net.onnx")
        request = Request(sources=(PackagedModel.open(tmp_path / "net.onnx"),))
        folder = package(request, target=ONNX, output=tmp_path / "out").folder
        assert json.loads((folder / "package.json").read_text())["preprocess"]["mean"] == [
            0.4,
            0.5,
            0.6,
        ]
        mask = run(folder / "net.image.onnx", resize(images[0], TINY.size)[None])
        expected = run(tiny_models["fp32"], other.apply(images[0])[None])[:, 0] >= 0.5
        assert np.array_equal(mask, expected)

    def test_the_same_request_gives_the_same_bytes(
        self, written: Package, tiny_models: dict[str, Path], tmp_path: Path
    ) -> None:
        again = package(request_of(tiny_models, *PRECISIONS), target=ONNX, output=tmp_path / "out")
        assert again.files == written.files


class TestRefusals:
    def test_a_fixed_batch_is_not_changed(
        self, tiny_models: dict[str, Path], tmp_path: Path
    ) -> None:
        request = request_of(tiny_models, "fp32", batches=(2, 2, 2))
        fixed = package(request, target=ONNX, output=tmp_path / "two").folder / "net.fp32.onnx"
        for batches, wanted in (((1, 1, 8), "a dynamic one"), ((4, 4, 4), "batch 4")):
            request = Request(sources=(PackagedModel.open(fixed),), batches=batches)
            with pytest.raises(InputError, match=rf"fixed to 2; .* asked for {wanted}.*--batch 2"):
                package(request, target=ONNX, output=tmp_path / "out")
        request = Request(sources=(PackagedModel.open(fixed),), batches=(2, 2, 2))
        assert package(request, target=ONNX, output=tmp_path / "same").files

    def test_flags_that_mean_nothing_here(
        self, tiny_models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["package", "--target", "onnx", "-m", str(tiny_models["fp32"])]
        arguments += ["-o", str(tmp_path / "out")]
        assert main([*arguments, "--exclude", "conv"]) == 2
        assert "--exclude means nothing to this target" in capsys.readouterr().err
        assert main([*arguments, "--batch", "1", "2"]) == 2
        assert "--batch takes one number, or smallest, usual" in capsys.readouterr().err
        arguments[2] = "tensorrt"
        assert main([*arguments, "--preprocessing", "inside"]) == 2
        assert "--preprocessing means nothing to this target" in capsys.readouterr().err

    def test_weights_outside_the_file(
        self, tiny_models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model = onnx.load(tiny_models["fp32"])
        convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
        onnx.save(model, tmp_path / "net.onnx")
        arguments = [
            "package",
            "--target",
            "onnx",
            "-m",
            str(tmp_path / "net.onnx"),
            "--batch",
            "2",
        ]
        assert main([*arguments, "-o", str(tmp_path / "out")]) == 3
        assert "keeps weights outside the file; save it as one file" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_a_model_that_takes_images_stays_so(
        self, tiny_models: dict[str, Path], tmp_path: Path
    ) -> None:
        model = image_interface(load_model(tiny_models["fp32"]), TINY).model
        save_model(model, tmp_path / "mask.onnx")
        source = PackagedModel.open(tmp_path / "mask.onnx")
        request = Request(sources=(source,), preprocessing=Preprocessing.OUTSIDE)
        with pytest.raises(InputError, match=r"mask.onnx takes 8-bit images, and nothing takes"):
            package(request, target=ONNX, output=tmp_path / "out")
        folder = package(Request(sources=(source,)), target=ONNX, output=tmp_path / "out").folder
        assert [path.name for path in folder.glob("*.onnx")] == ["mask.image.onnx"]

    def test_two_models_of_one_name(self, tiny_models: dict[str, Path], tmp_path: Path) -> None:
        twin = Path(shutil.copy(tiny_models["fp16"], tmp_path / "net.fp32.onnx"))
        request = Request(
            sources=(PackagedModel.open(tiny_models["fp32"]), PackagedModel.open(twin))
        )
        with pytest.raises(InputError, match=r"two models here would be called 'net.fp32.onnx'"):
            package(request, target=ONNX, output=tmp_path / "out")

    def test_a_contract_of_another_size(self, tiny_models: dict[str, Path], tmp_path: Path) -> None:
        model = load_model(tiny_models["fp32"])
        other = replace(TINY, size=(48, 32))
        set_metadata(model, metadata(model) | {"preprocess": other.to_json()})
        save_model(model, tmp_path / "net.onnx")
        with pytest.raises(InputError, match=r"images of \(3, 32, 32\), .* says \(3, 48, 32\)"):
            PackagedModel.open(tmp_path / "net.onnx")


class TestReadingBack:
    @pytest.fixture
    def folder(self, written: Package, tmp_path: Path) -> Path:
        return Path(shutil.copytree(written.folder, tmp_path / "copy"))

    def test_what_was_written_passes(self, folder: Path) -> None:
        ONNX.verify(folder)

    def test_a_damaged_file(self, folder: Path) -> None:
        path = folder / "net.fp16.onnx"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InputError, match=r"net.fp16.onnx is not a valid ONNX file"):
            ONNX.verify(folder)

    def test_shapes_that_contradict_each_other(self, folder: Path) -> None:
        model = onnx.load(folder / "net.fp32.onnx")
        model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 31
        onnx.save(model, folder / "net.fp32.onnx")
        with pytest.raises(InputError, match=r"net.fp32.onnx contradicts itself"):
            ONNX.verify(folder)

    def test_a_contract_of_another_size(self, folder: Path) -> None:
        model = load_model(folder / "net.fp32.onnx")
        other = replace(TINY, size=(48, 32))
        set_metadata(model, metadata(model) | {"preprocess": other.to_json()})
        save_model(model, folder / "net.fp32.onnx")
        with pytest.raises(
            InputError, match=r"takes images of \(3, 32, 32\), its input contract says"
        ):
            ONNX.verify(folder)

    def test_no_model_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"holds no .onnx file"):
            ONNX.verify(tmp_path)
