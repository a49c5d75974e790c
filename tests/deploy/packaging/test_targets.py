"""What every package target keeps to, and the parts that several of them share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tiny import TINY

from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models import R2UNet
from segdeploy.deploy.models.checkpoint import load_checkpoint, save_checkpoint
from segdeploy.deploy.onnx_model.file import (
    describe,
    load_model,
    metadata,
    save_model,
    set_metadata,
)
from segdeploy.deploy.packaging.base import (
    COMMANDS,
    MANIFEST,
    README,
    PackagedModel,
    PackageTarget,
    Request,
)
from segdeploy.deploy.packaging.float_layers import (
    float_layers,
    indices,
    shared_weights,
    visiting_order,
)
from segdeploy.deploy.packaging.package import package
from segdeploy.deploy.packaging.plain_model import OPSET, plain_model
from segdeploy.deploy.packaging.registry import PACKAGE_TARGETS, verify_package
from segdeploy.deploy.packaging.text_protobuf import Schema, fields_of, text_of
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.stages.rewrite import RewriteName, rewrite
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.targets.profiles import PROFILES

NEEDS = {
    "ascend": ("calibration", "evaluation"),
    "tensorrt": ("table",),
    "vacc": ("calibration", "evaluation"),
}
OWN = sorted(NEEDS)


@pytest.fixture
def make_request(
    tmp_path: Path, small_onnx: Callable[..., Path], image_set: Path
) -> Callable[..., Request]:
    """Function (target, contract) -> what that target needs of a small network."""

    def make(target: str, preprocess: Preprocess = TINY) -> Request:
        path = small_onnx(tmp_path / "net.onnx", preprocess)
        source, train = PackagedModel.open(path), open_set(image_set, "train").take(3, seed=0)
        needs = NEEDS.get(target, ())
        if "table" not in needs:
            return Request(
                sources=(source,),
                calibration=train if "calibration" in needs else None,
                evaluation=open_set(image_set, "test") if "evaluation" in needs else None,
            )
        table = calibrate(source.artifact, train, preprocess=preprocess, threads=1)
        return Request(sources=(source,), table=table, table_sha256="0" * 64)

    return make


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory, _tiny_r2u: R2UNet) -> PackagedModel:
    """A small R2U-Net as exported."""
    folder = tmp_path_factory.mktemp("recurrent")
    save_checkpoint(_tiny_r2u, folder / "net.safetensors", preprocess=TINY)
    checkpoint = load_checkpoint(folder / "net.safetensors")
    return PackagedModel.open(export(checkpoint, folder / "r2u.onnx").path)


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("target", [PACKAGE_TARGETS[name] for name in OWN], ids=OWN)
class TestEveryTarget:
    def test_the_same_request_gives_the_same_bytes(
        self, target: PackageTarget, make_request: Callable[..., Request], tmp_path: Path
    ) -> None:
        request = make_request(target.name)
        folders = [package(request, target=target, output=tmp_path / n).folder for n in "ab"]
        assert contents(folders[0]) == contents(folders[1])

    def test_it_is_complete_and_says_what_was_not_run(
        self, target: PackageTarget, make_request: Callable[..., Request], tmp_path: Path
    ) -> None:
        written = package(make_request(target.name), target=target, output=tmp_path / "out")
        assert verify_package(written.folder) == written
        page = (written.folder / README).read_text()
        assert page.count("\n# ") == COMMANDS + page.startswith("# ") - 1
        assert target.document in page
        assert written.contents.executed
        for limit in written.contents.not_run:
            assert f"Not run on hardware:\n\n- {limit}" in page
        assert str(tmp_path) not in page + (written.folder / MANIFEST).read_text()

    def test_every_file_a_command_starts_from_is_there(
        self, target: PackageTarget, make_request: Callable[..., Request], tmp_path: Path
    ) -> None:
        written = package(make_request(target.name), target=target, output=tmp_path / "out")
        for step in written.contents.steps:
            words = step.command.split()
            named = [w for w in words if w.endswith((".sh", ".yaml", ".json", ".onnx", ".txt"))]
            assert [word for word in named if not (written.folder / word).is_file()] == []

    def test_another_contract_gives_other_files(
        self, target: PackageTarget, make_request: Callable[..., Request], tmp_path: Path
    ) -> None:
        one = package(make_request(target.name), target=target, output=tmp_path / "one")
        changes: tuple[dict[str, object], ...] = (
            {"size": (48, 32)},
            {"channel_order": "RGB"},
            {"mean": (0.1, 0.2, 0.3), "channel_order": "RGB"},
            {"std": (0.5, 0.25, 0.5), "channel_order": "RGB"},
        )
        for index, change in enumerate(changes):
            request = make_request(target.name, replace(TINY, **change))
            other = package(request, target=target, output=tmp_path / f"other{index}")
            stored = json.loads((other.folder / MANIFEST).read_text())["preprocess"]
            assert stored == json.loads(request.sources[0].preprocess.to_json())
            changed = {
                name
                for name, found in contents(other.folder).items()
                if contents(one.folder).get(name) != found
            }
            own = changed - {README, MANIFEST, "checksums.sha256"}
            assert [name for name in own if not name.endswith(".onnx")], change

    def test_it_refuses_an_image_model_and_two_of_one_precision(
        self, target: PackageTarget, make_request: Callable[..., Request], tmp_path: Path
    ) -> None:
        request = make_request(target.name)
        made = rewrite(
            request.sources[0].artifact,
            tmp_path / "mask.onnx",
            names=[RewriteName.IMAGE_INTERFACE],
        )
        for sources, message in (
            (request.sources * 2, "are both fp32; give one of them"),
            ((PackagedModel.open(made.path),), "mask.onnx takes 8-bit images"),
        ):
            with pytest.raises(InputError, match=message):
                package(replace(request, sources=sources), target=target, output=tmp_path / "x")
        assert not (tmp_path / "x").exists()


class TestPlainModel:
    def test_opset_11_computes_the_same_bits_at_a_fixed_batch(
        self, recurrent: PackagedModel
    ) -> None:
        plain = plain_model(recurrent, batch=2)
        assert [entry.version for entry in plain.opset_import] == [OPSET]
        assert plain.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
        assert metadata(plain) == recurrent.metadata
        image = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
        found = [
            onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"image": image})[0]
            for model in (recurrent.model(), plain)
        ]
        np.testing.assert_array_equal(found[0], found[1])

    def test_what_opset_11_has_no_form_for_is_refused(
        self, tmp_path: Path, small_onnx: Callable[..., Path]
    ) -> None:
        path = small_onnx(tmp_path / "net.onnx")
        for change, message in (
            (lambda node: setattr(node, "op_type", "Mish"), "the operator Mish"),
            (lambda node: node.attribute.append(helper.make_attribute("axes", [2, 3])), "axes"),
        ):
            model = load_model(path)
            (resize,) = [node for node in model.graph.node if node.op_type == "Resize"]
            change(resize)
            (tmp_path / "changed.onnx").write_bytes(model.SerializeToString())
            source = replace(
                PackagedModel.open(path), artifact=describe(tmp_path / "changed.onnx", model=model)
            )
            object.__setattr__(source, "model", lambda model=model: model)
            with pytest.raises(InputError, match=message):
                plain_model(source, batch=1)

    def test_a_fixed_batch_stays(self, tmp_path: Path, small_onnx: Callable[..., Path]) -> None:
        fixed = PackagedModel.open(small_onnx(tmp_path / "net.onnx", batch=4))
        assert plain_model(fixed, batch=4).graph.input[0].type.tensor_type.shape.dim[0].dim_value
        with pytest.raises(InputError, match=r"takes \(4, 3, 32, 32\)"):
            plain_model(fixed, batch=1)


class TestFloatLayers:
    @pytest.fixture
    def source(self, tmp_path: Path, small_onnx: Callable[..., Path]) -> PackagedModel:
        return PackagedModel.open(small_onnx(tmp_path / "net.onnx"))

    @pytest.fixture
    def table(self, source: PackagedModel, image_set: Path) -> CalibrationTable:
        images = open_set(image_set, "train").take(2, seed=0)
        return calibrate(source.artifact, images, preprocess=TINY, threads=1)

    def int8(
        self, source: PackagedModel, table: CalibrationTable, folder: Path, *exclude: str
    ) -> PackagedModel:
        made = to_int8(
            source.artifact,
            folder / "net.int8.onnx",
            table=table,
            table_sha256="0" * 64,
            profile=PROFILES["ort-x86"],
            exclude=exclude,
        )
        return PackagedModel.open(made.path)

    def test_names_come_from_the_int8_model_and_from_the_flag(
        self, source: PackagedModel, table: CalibrationTable, tmp_path: Path
    ) -> None:
        int8 = self.int8(source, table, tmp_path, "head", "pool")
        found = float_layers(Request(sources=(source, int8), exclude=("high",)), source)
        assert (found.convolutions, found.others) == (("high", "head"), ("pool",))

    def test_an_int8_model_of_another_network_is_refused(
        self, source: PackagedModel, table: CalibrationTable, tmp_path: Path
    ) -> None:
        int8 = self.int8(source, table, tmp_path)
        model = load_model(source.artifact.path)
        set_metadata(model, metadata(model) | {"note": "other"})
        save_model(model, tmp_path / "other.onnx")
        other = PackagedModel.open(tmp_path / "other.onnx")
        with pytest.raises(InputError, match=r"was not made from .*other.onnx"):
            float_layers(Request(sources=(other, int8)), other)

    def test_a_name_that_is_no_layer_is_refused(self, source: PackagedModel) -> None:
        with pytest.raises(UsageError, match="has no layer heads"):
            float_layers(Request(sources=(source,), exclude=("heads",)), source)

    def test_convolutions_are_counted_inputs_first_in_argument_order(self) -> None:
        """c = Concat(b(x), a(x)), in the file a stands before b; d reads c and a."""
        conv = ("Conv", ["w"])
        nodes = [
            helper.make_node(conv[0], ["x", *conv[1]], ["a"], name="a"),
            helper.make_node(conv[0], ["x", *conv[1]], ["b"], name="b"),
            helper.make_node("Concat", ["b", "a"], ["c"], name="c", axis=1),
            helper.make_node(conv[0], ["c", *conv[1]], ["d"], name="d"),
        ]
        value = helper.make_tensor_value_info("d", TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "g", [], [value])
        assert visiting_order(graph) == ["b", "a", "d"]
        assert indices(graph, ["d", "a"]) == [1, 2]

    def test_every_convolution_is_counted_once(self, recurrent: PackagedModel) -> None:
        graph = recurrent.model().graph
        order = visiting_order(graph)
        assert sorted(order) == sorted(n.name for n in graph.node if n.op_type == "Conv")
        place = {name: index for index, name in enumerate(order)}
        assert place["RRCNN1.RCNN.0.conv.0"] < place["RRCNN1.RCNN.0.conv.0@2"]
        assert shared_weights(graph) == 54  # 18 recurrent convolutions, three times each

    def test_a_network_without_recurrence_shares_no_weight(self, source: PackagedModel) -> None:
        assert shared_weights(source.model().graph) == 0


SCHEMA = Schema(
    messages={
        "File": {"item": "repeated Item", "named": "map Item = 7"},
        "Item": {"n": "int32 = 4", "kind": "Kind = 2", "sizes": "repeated int32"},
    },
    enums={"Kind": {"A": 0, "B": 5}},
)


class TestTextProtobuf:
    def test_it_reads_what_the_schema_allows(self) -> None:
        text = "item { n: 3 kind: B } # comment\nitem: { n: 4 }"
        found = fields_of(SCHEMA.read(text, source="f"))
        assert found == {"item": [{"n": 3, "kind": "B"}, {"n": 4}]}

    def test_numbers_are_those_declared_else_the_place(self) -> None:
        message = SCHEMA.new()
        found = {
            (name, field.name): field.number
            for name, fields in (
                ("File", message.DESCRIPTOR.fields),
                ("Item", message.DESCRIPTOR.fields_by_name["item"].message_type.fields),
            )
            for field in fields
        }
        assert found == {
            ("File", "item"): 1,
            ("File", "named"): 7,
            ("Item", "n"): 4,
            ("Item", "kind"): 2,
            ("Item", "sizes"): 3,
        }

    @given(
        numbers=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5),
        name=st.text(max_size=9),
        kind=st.sampled_from(["A", "B"]),
    )
    def test_what_is_written_is_read_back(self, numbers: list[int], name: str, kind: str) -> None:
        message = SCHEMA.new()
        message.item.add(kind=kind, sizes=numbers)
        message.named[name].n = len(numbers)
        again = SCHEMA.read(text_of(message), source="f")
        assert fields_of(again) == fields_of(message)
        assert again.named[name].n == len(numbers)

    @pytest.mark.parametrize("text", ["item { m: 3 }", "item { kind: C }", "item { n: 1", "x"])
    def test_it_refuses_anything_else(self, text: str) -> None:
        with pytest.raises(InputError, match="f is no text protobuf of its kind"):
            SCHEMA.read(text, source="f")
