"""OpenVINO packages: the same masks as the ONNX file, with the input contract outside or inside."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from openvino import opset8 as ops
from tiny import TINY

from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.data.resizing import resize
from segdeploy.deploy.onnx_model.file import (
    describe,
    load_model,
    metadata,
    save_model,
    set_metadata,
)
from segdeploy.deploy.packaging.base import Package, PackagedModel, Request
from segdeploy.deploy.packaging.openvino import models as openvino_models
from segdeploy.deploy.packaging.openvino.ir import compile_model, infer, read_ir, write_ir
from segdeploy.deploy.packaging.openvino.models import IR_FILE
from segdeploy.deploy.packaging.openvino.preprocess import embed
from segdeploy.deploy.packaging.openvino.target import OPENVINO, SERVER_CONFIG
from segdeploy.deploy.packaging.package import package
from segdeploy.deploy.packaging.preprocessing import Preprocessing
from segdeploy.deploy.rewrites.image_interface import image_interface
from segdeploy.deploy.runtimes.base import Availability
from segdeploy.deploy.runtimes.openvino import kernels_of
from segdeploy.deploy.runtimes.openvino_core import openvino_core
from segdeploy.deploy.system.errors import InputError

CPU = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
Pixels = NDArray[np.uint8]

thousandths = st.integers(0, 1000).map(lambda n: n / 1000)  # a runtime flushes denormals to zero
contracts = st.builds(
    Preprocess,
    size=st.sampled_from(((16, 16), (32, 48))),
    channel_order=st.sampled_from(("RGB", "BGR")),
    scale=st.sampled_from((1 / 255, 1 / 256, 1.0)),
    mean=st.tuples(*[thousandths] * 3),
    std=st.tuples(*[thousandths.map(lambda n: n + 0.05)] * 3),
)


def request_of(tiny_models: dict[str, Path], *names: str, **settings_: Any) -> Request:
    return Request(
        sources=tuple(PackagedModel.open(tiny_models[name]) for name in names), **settings_
    )


def noise(seed: int, height: int, width: int) -> Pixels:
    """An image of coarse and fine structure, clipped at both ends."""
    generator = np.random.default_rng(seed)
    coarse = generator.uniform(-40, 295, (height // 5 + 1, width // 5 + 1, 3))
    coarse = coarse.repeat(5, axis=0).repeat(5, axis=1)[:height, :width]
    values = coarse + generator.normal(0, 15, (height, width, 3))
    return np.rint(values.clip(0, 255)).astype(np.uint8)


def real_images(count: int) -> list[Pixels]:
    """Microscopy images of the bundled sample, of several sizes."""
    return [sample.image() for sample in open_set(bundled.sample(), "test").samples[:count]]


def identity(preprocess: Preprocess, batch: int = -1) -> openvino.Model:
    """A network (batch, 3, h, w) that returns its input."""
    image = ops.parameter([batch, 3, *preprocess.size], openvino.Type.f32, name="image")
    image.output(0).get_tensor().set_names({"image"})
    same = ops.multiply(image, ops.constant(np.float32(1)))
    return openvino.Model([ops.result(same)], [image], "identity")


class TestPreprocessingInside:
    @settings(max_examples=8, deadline=None)
    @given(contracts, st.integers(0, 999), st.integers(1, 90), st.integers(1, 90))
    def test_any_image_becomes_what_the_contract_makes_of_it_to_the_last_bit(
        self, preprocess: Preprocess, seed: int, height: int, width: int
    ) -> None:
        compiled = openvino_core().compile_model(embed(identity(preprocess), preprocess), "CPU")
        for image in (noise(seed, height, width), noise(seed + 1, width, height)):
            assert np.array_equal(infer(compiled, image[None])[0], preprocess.apply(image))

    @pytest.mark.parametrize("shape", [(2, -1, -1, 3), (1, 53, 47, 3), (-1, 53, 47, 3)])
    def test_fixed_shapes_change_no_bit(self, shape: tuple[int, ...]) -> None:
        preprocess = replace(TINY, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        model = embed(identity(preprocess, batch=shape[0]), preprocess)
        model.reshape({model.input(0): list(shape)})
        compiled = openvino_core().compile_model(model, "CPU", CPU)
        for seed in range(20):
            image = noise(seed, 53, 47)
            for found in infer(compiled, image[None].repeat(max(shape[0], 1), axis=0)):
                assert np.array_equal(found, preprocess.apply(image))

    def test_every_weight_of_the_resize_is_met_and_every_level(self) -> None:
        ramp = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
        compiled = openvino_core().compile_model(embed(identity(TINY), TINY), "CPU", CPU)
        for length in (1, 2, 31, 32, 33, 64, 255, 256):
            image = ramp[:, -length:].repeat(length, axis=0)
            assert np.array_equal(infer(compiled, image[None])[0], TINY.apply(image))

    def test_antialiasing_stays_outside(self) -> None:
        preprocess = replace(TINY, antialias=True)
        model = embed(identity(preprocess), preprocess)
        assert str(model.input(0).get_partial_shape()) == "[?,32,32,3]"
        compiled = openvino_core().compile_model(model, "CPU", CPU)
        image = noise(3, 70, 60)
        pixels = resize(image, preprocess.size, antialias=True)
        assert np.array_equal(infer(compiled, pixels[None])[0], preprocess.apply(image))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Package:
    """A package of fp32 and int8."""
    request = request_of(tiny_models, "fp32", "int8 openvino-cpu")
    return package(request, target=OPENVINO, output=tmp_path_factory.mktemp("ov") / "out")


class TestModels:
    @pytest.mark.parametrize("label", ["fp32", "int8"])
    def test_probabilities_are_those_of_the_onnx_file_bit_for_bit(
        self, written: Package, tiny_models: dict[str, Path], label: str
    ) -> None:
        onnx_path = tiny_models["fp32" if label == "fp32" else "int8 openvino-cpu"]
        reference = compile_model(onnx_path)
        plain = compile_model(written.folder / f"unet_plus_plus-{label}" / IR_FILE)
        inside = compile_model(written.folder / f"unet_plus_plus-{label}-image" / IR_FILE)
        masks = []
        for image in real_images(6):
            prepared = TINY.apply(image)[None]
            expected = infer(reference, prepared)
            assert np.array_equal(infer(plain, prepared), expected)
            assert np.array_equal(infer(inside, image[None]), expected)
            masks.append(expected >= 0.5)
        assert 0 < np.mean(masks) < 1

    def test_fp16_halves_the_weights_and_changes_few_masks(self, written: Package) -> None:
        folders = [written.folder / f"unet_plus_plus-{label}" for label in ("fp32", "fp16")]
        full, half = ((folder / "1" / "model.bin").stat().st_size for folder in folders)
        assert 0.45 < half / full < 0.6
        models = [compile_model(folder / IR_FILE) for folder in folders]
        found = [
            [infer(model, TINY.apply(image)[None]) >= 0.5 for image in real_images(6)]
            for model in models
        ]
        assert np.mean(np.not_equal(*found)) < 0.01
        assert any("pixels of the fp32 model's masks" in line for line in written.contents.executed)

    def test_int8_runs_in_int8(self, written: Package) -> None:
        compiled = compile_model(written.folder / "unet_plus_plus-int8" / IR_FILE, batch=1)
        kinds = [kernel.precision for kernel in kernels_of(compiled.get_runtime_model())]
        assert kinds.count("int8") > len(kinds) / 2

    def test_metadata_goes_along(self, written: Package, tiny_models: dict[str, Path]) -> None:
        source = describe(tiny_models["fp32"])
        expected = metadata(load_model(source.path)) | {"parent_sha256": source.sha256}
        plain = read_ir(written.folder / "unet_plus_plus-fp32" / IR_FILE)
        assert plain.facts == expected
        half = read_ir(written.folder / "unet_plus_plus-fp16-image" / IR_FILE)
        assert half.facts == expected | {"precision": "fp16", "interface": "image-probability"}

    def test_a_fixed_batch_gives_what_a_dynamic_one_gives(
        self, written: Package, tiny_models: dict[str, Path], tmp_path: Path
    ) -> None:
        request = request_of(tiny_models, "int8 openvino-cpu", batches=(2, 2, 2))
        fixed = package(request, target=OPENVINO, output=tmp_path / "out")
        assert "The batch is fixed to 2." in fixed.contents.notes
        for name in ("unet_plus_plus-int8", "unet_plus_plus-int8-image"):
            ir = read_ir(fixed.folder / name / IR_FILE)
            assert ir.input.shape[0] == ir.output.shape[0] == 2
            image = real_images(1)[0]
            feed = image if ir.input.dtype == "uint8" else TINY.apply(image)
            dynamic = infer(compile_model(written.folder / name / IR_FILE), feed[None])
            found = infer(compile_model(fixed.folder / name / IR_FILE), np.stack([feed, feed]))
            assert np.array_equal(found, dynamic.repeat(2, axis=0))

    @pytest.mark.parametrize("name", ["fp32", "int8 openvino-cpu"])
    @pytest.mark.parametrize("inside", [False, True])
    def test_the_same_model_gives_the_same_bytes_whatever_was_converted_before(
        self, tiny_models: dict[str, Path], tmp_path: Path, name: str, inside: bool
    ) -> None:
        """OpenVINO numbers layers through the life of a process; this one goes on converting."""
        for index in range(2):
            write_ir(
                tiny_models[name],
                tmp_path / str(index) / "model.xml",
                facts={"a": "b"},
                batch=None,
                compress=name == "fp32",
                embedded=TINY if inside else None,
            )
        for file in ("model.xml", "model.bin"):
            one, other = ((tmp_path / str(index) / file).read_bytes() for index in range(2))
            assert one == other, file
        assert b"/tmp" not in (tmp_path / "0" / "model.xml").read_bytes()

    def test_the_files_follow_the_contract(
        self, written: Package, tiny_models: dict[str, Path], tmp_path: Path
    ) -> None:
        model = load_model(tiny_models["fp32"])
        other = replace(TINY, channel_order="RGB", mean=(0.4, 0.5, 0.6))
        set_metadata(model, metadata(model) | {"preprocess": other.to_json()})
        save_model(model, tmp_path / "net.onnx")
        request = Request(
            sources=(PackagedModel.open(tmp_path / "net.onnx"),), preprocessing=Preprocessing.INSIDE
        )
        changed = package(request, target=OPENVINO, output=tmp_path / "out").folder
        name = f"unet_plus_plus-fp32-image/{IR_FILE}"
        assert json.loads(read_ir(changed / name).facts["preprocess"])["mean"] == [0.4, 0.5, 0.6]
        image = real_images(1)[0]
        expected = infer(compile_model(tiny_models["fp32"]), other.apply(image)[None])
        assert np.array_equal(infer(compile_model(changed / name), image[None]), expected)
        before = infer(compile_model(written.folder / name), image[None])
        assert not np.array_equal(before, expected)

    def test_layouts_are_stated_for_benchmark_app(self, written: Package) -> None:
        for name, layout in (("fp32", "[N,C,H,W]"), ("fp32-image", "[N,H,W,C]")):
            path = written.folder / f"unet_plus_plus-{name}" / IR_FILE
            model = openvino_core().read_model(path)
            assert str(model.get_parameters()[0].get_layout()) == layout


class TestPackage:
    def test_folders_are_models_of_a_server(self, written: Package) -> None:
        listed = json.loads((written.folder / SERVER_CONFIG).read_text())["model_config_list"]
        names = [f"unet_plus_plus-{p}{f}" for p in ("fp32", "fp16", "int8") for f in ("", "-image")]
        assert [model["config"]["name"] for model in listed] == names
        for model in listed:
            base = model["config"]["base_path"].removeprefix("/models/")
            assert (written.folder / base / "1" / "model.bin").is_file()

    def test_the_benchmark_command_runs(self, written: Package) -> None:
        command = written.contents.steps[0].command
        assert command.startswith("benchmark_app -m unet_plus_plus-int8/1/model.xml")
        program, *arguments = shlex.split(command)
        arguments[arguments.index("-t") + 1] = "1"
        done = subprocess.run(
            [str(Path(sys.executable).with_name(program)), *arguments],
            cwd=written.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Throughput" in done.stdout

    def test_one_form_alone(self, tiny_models: dict[str, Path], tmp_path: Path) -> None:
        request = request_of(tiny_models, "int8 openvino-cpu", preprocessing=Preprocessing.OUTSIDE)
        folder = package(request, target=OPENVINO, output=tmp_path / "out").folder
        assert [p.name for p in folder.iterdir() if p.is_dir()] == ["unet_plus_plus-int8"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("fp16", r"net.fp16.onnx is fp16; give the fp32 model"),
            ("int8 ort-x86", r"is int8 for ort-x86; .* `segdeploy quantize --target openvino-cpu`"),
        ],
    )
    def test_other_models(
        self, tiny_models: dict[str, Path], tmp_path: Path, name: str, message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            package(request_of(tiny_models, name), target=OPENVINO, output=tmp_path / "out")

    def test_a_model_that_takes_images(self, tiny_models: dict[str, Path], tmp_path: Path) -> None:
        model = image_interface(load_model(tiny_models["fp32"]), TINY).model
        save_model(model, tmp_path / "mask.onnx")
        request = Request(sources=(PackagedModel.open(tmp_path / "mask.onnx"),))
        with pytest.raises(InputError, match=r"mask.onnx takes 8-bit images"):
            package(request, target=OPENVINO, output=tmp_path / "out")

    def test_without_openvino(
        self, tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        missing = Availability(name="openvino", version=None, reason="openvino is not installed")
        monkeypatch.setattr(openvino_models, "availability", lambda name: missing)
        with pytest.raises(InputError, match="needs OpenVINO: openvino is not installed"):
            package(request_of(tiny_models, "fp32"), target=OPENVINO, output=tmp_path / "out")

    def test_an_onnx_file_openvino_cannot_read(self, tmp_path: Path) -> None:
        (tmp_path / "bad.onnx").write_bytes(b"no model")
        with pytest.raises(InputError, match=r"OpenVINO cannot convert .*bad.onnx"):
            write_ir(tmp_path / "bad.onnx", tmp_path / "x.xml", facts={}, batch=None)


class TestReadingBack:
    @pytest.fixture
    def folder(self, written: Package, tmp_path: Path) -> Path:
        return Path(shutil.copytree(written.folder, tmp_path / "copy"))

    def test_what_was_written_passes(self, folder: Path) -> None:
        OPENVINO.verify(folder)

    def test_a_model_that_is_not_an_ir(self, folder: Path) -> None:
        (folder / "unet_plus_plus-fp32" / IR_FILE).write_text("<net/>")
        with pytest.raises(InputError, match=r"unet_plus_plus-fp32/1/model.xml is no IR of this"):
            OPENVINO.verify(folder)

    def test_weights_cut_short(self, folder: Path) -> None:
        path = folder / "unet_plus_plus-fp32" / "1" / "model.bin"
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(InputError, match=r"unet_plus_plus-fp32/1/model.xml is no IR of this"):
            OPENVINO.verify(folder)

    def test_one_form_in_the_place_of_the_other(self, folder: Path) -> None:
        plain, inside = (folder / f"unet_plus_plus-fp32{end}" for end in ("", "-image"))
        text = (inside / IR_FILE).read_text()
        (inside / IR_FILE).write_text(text.replace("image-probability", "tensor-probability"))
        with pytest.raises(InputError, match=r"-fp32-image/1/model.xml takes .* metadata says"):
            OPENVINO.verify(folder)
        assert plain.is_dir()

    def test_a_server_configuration_that_names_others(self, folder: Path) -> None:
        path = folder / SERVER_CONFIG
        text = path.read_text()
        path.write_text(text.replace('"name": "unet_plus_plus-fp16"', '"name": "other"'))
        with pytest.raises(
            InputError, match="'other' is served from '/models/unet_plus_plus-fp16'"
        ):
            OPENVINO.verify(folder)
        shutil.rmtree(folder / "unet_plus_plus-fp16")
        path.write_text(text)
        with pytest.raises(InputError, match=r"config.json lists .* there are"):
            OPENVINO.verify(folder)
        path.write_text("{}")
        with pytest.raises(InputError, match="is no configuration of a model server"):
            OPENVINO.verify(folder)
