"""Triton repositories: what `config.pbtxt` states is what the model has, by NVIDIA's own schema."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import json_format, text_format
from tiny import TINY

from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.resizing import resize
from segdeploy.deploy.onnx_model.file import describe
from segdeploy.deploy.packaging.base import Package, PackagedModel, Request
from segdeploy.deploy.packaging.openvino import models as openvino_models
from segdeploy.deploy.packaging.openvino.ir import read_ir
from segdeploy.deploy.packaging.package import package
from segdeploy.deploy.packaging.preprocessing import Preprocessing
from segdeploy.deploy.packaging.triton import target as triton
from segdeploy.deploy.packaging.triton.model import CONFIG, MODEL_CONFIG, WARMUP, read_config
from segdeploy.deploy.packaging.triton.target import REPOSITORY, TRITON
from segdeploy.deploy.runtimes.base import Availability
from segdeploy.deploy.runtimes.openvino_core import openvino_core
from segdeploy.deploy.system.errors import InputError

NAMES = {
    f"unet_plus_plus-{model}{form}"
    for model in ("fp32-onnxruntime", "fp32-openvino", "int8-onnxruntime", "int8-openvino")
    for form in ("", "-image")
}


def request_of(tiny_models: dict[str, Path], *names: str, **settings: Any) -> Request:
    return Request(
        sources=tuple(PackagedModel.open(tiny_models[name]) for name in names), **settings
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Package:
    """A repository of every model the two backends serve."""
    request = request_of(tiny_models, "fp32", "int8 ort-x86", "int8 openvino-cpu")
    return package(request, target=TRITON, output=tmp_path_factory.mktemp("triton") / "out")


@pytest.fixture(scope="module")
def schema() -> ModuleType:
    """NVIDIA's compiled ``model_config.proto``, without the gRPC package around it."""
    found = importlib.util.find_spec("tritonclient")
    assert found is not None
    assert found.submodule_search_locations
    path = Path(found.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ends_of(folder: Path) -> list[tuple[str, str, list[int]]]:
    """Name, type and shape of a model's input and output, read without this project's help."""
    if "onnxruntime" in folder.name:
        graph = onnx.load(folder / "1" / "model.onnx").graph
        names = {onnx.TensorProto.FLOAT: "TYPE_FP32", onnx.TensorProto.UINT8: "TYPE_UINT8"}
        return [
            (
                value.name,
                names[value.type.tensor_type.elem_type],
                [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim],
            )
            for value in (*graph.input, *graph.output)
        ]
    model = openvino_core().read_model(folder / "1" / "model.xml")
    return [
        (
            port.get_any_name(),
            {"f32": "TYPE_FP32", "u8": "TYPE_UINT8"}[port.get_element_type().get_type_name()],
            [-1 if d.is_dynamic else d.get_length() for d in port.get_partial_shape()],
        )
        for port in (*model.inputs, *model.outputs)
    ]


class TestConfiguration:
    def test_nvidias_schema_reads_every_file_alike(
        self, written: Package, schema: ModuleType
    ) -> None:
        paths = sorted((written.folder / REPOSITORY).glob(f"*/{CONFIG}"))
        assert {path.parent.name for path in paths} == NAMES
        for path in paths:
            theirs = text_format.Parse(path.read_text(), schema.ModelConfig())
            ours = read_config(path)
            assert json_format.MessageToDict(theirs) == json_format.MessageToDict(ours)
            assert theirs.SerializeToString(deterministic=True) == ours.SerializeToString(
                deterministic=True
            )

    def test_our_fields_are_nvidias(self, schema: ModuleType) -> None:
        compared = compare(MODEL_CONFIG.new().DESCRIPTOR, schema.ModelConfig.DESCRIPTOR)
        assert compared > 25

    def test_names_types_and_shapes_are_the_models(
        self, written: Package, schema: ModuleType
    ) -> None:
        for name in sorted(NAMES):
            folder = written.folder / REPOSITORY / name
            config = text_format.Parse((folder / CONFIG).read_text(), schema.ModelConfig())
            skipped = 1 if config.max_batch_size else 0
            stated = [
                (end.name, schema.DataType.Name(end.data_type), list(end.dims))
                for end in (*config.input, *config.output)
            ]
            assert stated == [(n, t, shape[skipped:]) for n, t, shape in ends_of(folder)], name
            assert config.name == name
            assert (folder / "1" / config.default_model_filename).is_file()
            assert [schema.ModelInstanceGroup.Kind.Name(g.kind) for g in config.instance_group] == [
                "KIND_CPU"
            ]

    def test_each_backend_batches_as_it_can(self, written: Package) -> None:
        """The OpenVINO backend would fix a model to ``max_batch_size``."""
        for name in sorted(NAMES):
            config = read_config(written.folder / REPOSITORY / name / CONFIG)
            batches = "onnxruntime" in name
            assert config.max_batch_size == (8 if batches else 0)
            assert config.HasField("dynamic_batching") == batches
            assert (config.input[0].dims[0] == -1) == (not batches)

    def test_auto_completion_finds_no_batch_axis_to_complete(self, written: Package) -> None:
        for folder in (written.folder / REPOSITORY).glob("*-openvino*"):
            assert 'name="layout"' not in (folder / "1" / "model.xml").read_text()
        assert "--disable-auto-complete-config" in written.contents.steps[0].command

    def test_warm_up_data_is_a_real_image_as_the_model_takes_it(self, written: Package) -> None:
        image = open_set(bundled.sample(), "test").samples[0].image()
        forms = {
            "-onnxruntime": TINY.apply(image),
            "-onnxruntime-image": resize(image, TINY.size),
            "-openvino": TINY.apply(image),
            "-openvino-image": image,
        }
        for end, feed in forms.items():
            folder = written.folder / REPOSITORY / f"unet_plus_plus-fp32{end}"
            config = read_config(folder / CONFIG)
            (name,) = [spec.name for spec in config.input]
            runs = []
            for warmup in config.model_warmup:
                stated = warmup.inputs[name]
                data = (folder / WARMUP / stated.input_data_file).read_bytes()
                found = np.frombuffer(data, feed.dtype).reshape(tuple(stated.dims))
                batch = found[None] if config.max_batch_size else found
                assert all(np.array_equal(one, feed) for one in batch)
                runs.append(len(batch) * warmup.batch_size)
            assert runs == [1, 8]

    def test_a_fixed_batch_is_stated_and_not_formed(
        self, tiny_models: dict[str, Path], tmp_path: Path
    ) -> None:
        request = request_of(
            tiny_models, "int8 ort-x86", batches=(4, 4, 4), preprocessing=Preprocessing.OUTSIDE
        )
        folder = package(request, target=TRITON, output=tmp_path / "out").folder
        config = read_config(folder / REPOSITORY / "unet_plus_plus-int8-onnxruntime" / CONFIG)
        assert config.max_batch_size == 0
        assert not config.HasField("dynamic_batching")
        assert list(config.input[0].dims) == [4, 3, 32, 32]
        assert list(config.output[0].dims) == [4, 1, 32, 32]
        (warmup,) = config.model_warmup
        assert (warmup.batch_size, list(warmup.inputs["image"].dims)) == (1, [4, 3, 32, 32])

    def test_commands_name_models_that_are_there(self, written: Package) -> None:
        named = re.findall(r"unet_plus_plus-[a-z0-9-]+", str(written.contents.steps[1:]))
        assert len(named) == 2
        assert set(named) <= NAMES


def compare(ours: Any, theirs: Any) -> int:
    """Hold every field of a message against NVIDIA's; how many were compared."""
    compared = 0
    for field in ours.fields:
        twin = theirs.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (
            twin.number,
            twin.type,
            twin.is_repeated,
        ), field.full_name
        compared += 1
        if field.enum_type is not None:
            for value in field.enum_type.values:
                assert twin.enum_type.values_by_name[value.name].number == value.number
        if field.message_type is not None:
            compared += compare(field.message_type, twin.message_type)
    return compared


class TestChoices:
    def test_the_same_request_gives_the_same_bytes(
        self, tiny_models: dict[str, Path], tmp_path: Path
    ) -> None:
        request = request_of(tiny_models, "int8 openvino-cpu", "fp16")
        one, other = (
            package(request, target=TRITON, output=tmp_path / name) for name in ("one", "other")
        )
        assert one.files == other.files
        assert {p.name for p in (one.folder / REPOSITORY).iterdir()} == {
            f"unet_plus_plus-{model}{form}"
            for model in ("int8-openvino", "fp16-onnxruntime")
            for form in ("", "-image")
        }

    def test_int8_for_another_device_is_refused(
        self, tiny_models: dict[str, Path], tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match=r"is int8 for tensorrt; .* take int8 for ort-x86"):
            package(
                request_of(tiny_models, "int8 tensorrt"), target=TRITON, output=tmp_path / "out"
            )

    def test_two_models_of_one_name_are_refused(
        self, tiny_models: dict[str, Path], tmp_path: Path
    ) -> None:
        request = request_of(tiny_models, "int8 ort-x86", "int8 ort-arm")
        with pytest.raises(InputError, match=r"two models here would be called 'unet_plus"):
            package(request, target=TRITON, output=tmp_path / "out")

    def test_without_openvino_its_backend_is_left_out_and_said_so(
        self, tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        missing = Availability(name="openvino", version=None, reason="openvino is not installed")
        for module in (triton, openvino_models):
            monkeypatch.setattr(module, "availability", lambda name: missing)
        written = package(
            request_of(tiny_models, "fp32", preprocessing=Preprocessing.OUTSIDE),
            target=TRITON,
            output=tmp_path / "out",
        )
        assert [path.name for path in (written.folder / REPOSITORY).iterdir()] == [
            "unet_plus_plus-fp32-onnxruntime"
        ]
        assert any("left out: openvino is not installed" in note for note in written.contents.notes)
        with pytest.raises(InputError, match="needs OpenVINO: openvino is not installed"):
            package(
                request_of(tiny_models, "int8 openvino-cpu"),
                target=TRITON,
                output=tmp_path / "other",
            )


class TestReadingBack:
    @pytest.fixture
    def folder(self, written: Package, tmp_path: Path) -> Path:
        return Path(shutil.copytree(written.folder, tmp_path / "copy"))

    def test_what_was_written_passes(self, folder: Path) -> None:
        TRITON.verify(folder)

    @pytest.mark.parametrize(
        ("model", "before", "after", "message"),
        [
            ("fp32-onnxruntime", "dims: [3, 32, 32]", "dims: [3, 32, 31]", r"states .* model has"),
            ("fp32-onnxruntime", 'name: "probability"', 'name: "other"', r"states .* model has"),
            ("fp32-openvino", "TYPE_FP32", "TYPE_FP16", r"states .* the model has"),
            ("fp32-openvino-image", "[-1, -1, -1, 3]", "[1, -1, -1, 3]", r"states .* model has"),
            ("fp32-onnxruntime", "max_batch_size", "max_batch", r"is no Triton configuration"),
            ("fp32-onnxruntime", "fp32-onnxruntime", "other", r"is for 'unet_plus_plus-other'"),
            ("fp32-onnxruntime", '"image"\n    }', '"none"\n    }', r"does not hold the 12288 byt"),
        ],
    )
    def test_a_configuration_that_does_not_fit(
        self, folder: Path, model: str, before: str, after: str, message: str
    ) -> None:
        path = folder / REPOSITORY / f"unet_plus_plus-{model}" / CONFIG
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after, 1))
        with pytest.raises(InputError, match=message):
            TRITON.verify(folder)

    def test_warm_up_data_cut_short(self, folder: Path) -> None:
        path = folder / REPOSITORY / "unet_plus_plus-int8-onnxruntime" / WARMUP / "image"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(InputError, match=r"warmup/image does not hold the 12288 bytes"):
            TRITON.verify(folder)

    def test_batches_for_a_model_whose_batch_is_fixed(
        self, folder: Path, tiny_models: dict[str, Path]
    ) -> None:
        path = folder / REPOSITORY / "unet_plus_plus-fp32-onnxruntime" / "1" / "model.onnx"
        model = onnx.load(path)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1
        del model.graph.value_info[:]
        onnx.save(model, path)
        with pytest.raises(InputError, match="lets Triton form batches; the model's is fixed to 1"):
            TRITON.verify(folder)
        assert describe(path).inputs[0].shape[0] == 1

    def test_no_model_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="models holds no model"):
            TRITON.verify(tmp_path)

    def test_the_manifest_lists_the_models_they_were_made_from(self, written: Package) -> None:
        manifest = json.loads((written.folder / "package.json").read_text())
        assert [model["target"] for model in manifest["models"]] == [
            None,
            "ort-x86",
            "openvino-cpu",
        ]
        ir = read_ir(written.folder / REPOSITORY / "unet_plus_plus-int8-openvino/1/model.xml")
        assert ir.facts["target"] == "openvino-cpu"
