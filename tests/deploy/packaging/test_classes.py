"""Packages of several classes: every toolchain is told them, and what runs here decides alike."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper, numpy_helper
from PIL import Image
from tiny import (
    SPLIT_OF_TWELVE,
    THREE_CLASSES,
    TINY,
    TWO_LABELS,
    quantized,
    write_image_set,
    write_png_file,
    write_small_onnx,
)

from segdeploy.api.parity import DeviceOutputs, parity
from segdeploy.api.verify import verify
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.onnx_model.file import describe, output_of
from segdeploy.deploy.packaging.base import MANIFEST, README, Package, PackagedModel, Request
from segdeploy.deploy.packaging.onnx.target import ONNX
from segdeploy.deploy.packaging.package import package
from segdeploy.deploy.packaging.plain_model import OPSET, plain_model
from segdeploy.deploy.packaging.preprocessing import Preprocessing
from segdeploy.deploy.packaging.registry import PACKAGE_TARGETS, verify_package
from segdeploy.deploy.packaging.triton.model import read_config
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.runtimes.openvino_core import openvino_core
from segdeploy.deploy.system.errors import InputError
from segdeploy.deploy.targets.profiles import OPENVINO_CPU, ORT_X86, TENSORRT

CONTRACTS = {
    "three": replace(
        THREE_CLASSES, colours=((0, 0, 0), (10, 200, 30), (250, 5, 60)), ignored_index=255
    ),
    "two": TWO_LABELS,
}
INT8 = {
    "onnx": ORT_X86,
    "openvino": OPENVINO_CPU,
    "tensorrt": TENSORRT,
    "triton": ORT_X86,
}
HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
Make = Callable[..., Package]
Values = NDArray[Any]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Function (target, kind of output) -> the package of a small network brought along."""
    root = tmp_path_factory.mktemp("classes")
    for kind in CONTRACTS:
        write_image_set(root / kind, SPLIT_OF_TWELVE)
        for path in [*(root / kind / "masks").iterdir()]:
            cells = np.asarray(Image.open(path)) > 0
            if kind == "three":
                write_png_file(path, cells + (np.arange(cells.shape[1]) % 3 == 2).astype(np.uint8))
            else:
                path.unlink()
                for name in CONTRACTS[kind].classes:
                    write_png_file(path.parent / name / path.name, cells * np.uint8(255))
    train = open_set(root / "three", "train").take(3, seed=0)

    @cache
    def models(kind: str) -> dict[str, Path]:
        path = write_small_onnx(root / f"{kind}.sim.onnx", output=CONTRACTS[kind])
        fp32 = describe(path)
        table = calibrate(fp32, train, preprocess=TINY, threads=1)
        int8 = {
            profile.name: quantized(
                fp32, root / f"{kind}.int8.{profile.name}.onnx", table, profile=profile
            ).path
            for profile in {*INT8.values()}
        }
        return {"fp32": path} | int8

    @cache
    def make(target: str, kind: str) -> Package:
        if target == "openvino" and not HAS_OPENVINO:
            pytest.skip("openvino is not installed")
        paths = models(kind)
        chosen = [paths["fp32"], *([paths[INT8[target].name]] if target in INT8 else [])]
        holds = target in ("ascend", "vacc")
        request = Request(
            sources=tuple(PackagedModel.open(path) for path in chosen),
            calibration=train if holds else None,
            evaluation=open_set(root / kind, "test") if holds else None,
        )
        out = root / f"{kind}-{target}"
        return package(request, target=PACKAGE_TARGETS[target], output=out)

    return make


def run(path: Path, feed: Values) -> Values:
    """What ONNX Runtime gives for a batch."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: feed})[0])


def pictures(count: int = 3) -> NDArray[np.uint8]:
    """Coarse noise of the contract's size."""
    blocks = np.random.default_rng(3).integers(0, 256, (count, 8, 8, 3), np.uint8)
    return blocks.repeat(4, axis=1).repeat(4, axis=2)


def tensors(images: NDArray[np.uint8]) -> Values:
    return np.stack([TINY.apply(image) for image in images])


def script(folder: Path, *words: object) -> str:
    """What the package's own program prints."""
    asked = [sys.executable, "segment.py", *map(str, words)]
    done = subprocess.run(asked, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", CONTRACTS)
@pytest.mark.parametrize("target", sorted(PACKAGE_TARGETS))
class TestEveryTarget:
    def test_the_manifest_and_the_readme_name_the_classes(
        self, make: Make, target: str, kind: str
    ) -> None:
        written, contract = make(target, kind), CONTRACTS[kind]
        assert verify_package(written.folder) == written
        stated = json.loads((written.folder / MANIFEST).read_text())["output"]
        assert [each["name"] for each in stated["classes"]] == list(contract.classes)
        assert [tuple(each["colour"]) for each in stated["classes"]] == list(contract.palette)
        assert stated["ignored_index"] == contract.ignored_index
        assert stated["post_processing"] == ("argmax" if contract.exclusive else "threshold")
        page = (written.folder / README).read_text()
        for channel, name in enumerate(contract.classes):
            assert f"| {channel} | {name} | " in page
        assert ("argmax over the channels" in page) is contract.exclusive
        assert ("labels may overlap" in page) is contract.overlapping
        assert ("value 255 in a label map count nowhere" in page) is contract.exclusive

    def test_nothing_is_said_of_a_network_that_the_file_does_not_say(
        self, make: Make, target: str, kind: str
    ) -> None:
        folder = make(target, kind).folder
        page = (folder / README).read_text()
        assert page.startswith(f"# {kind} for ")
        assert "None" not in page.split("## The files")[0]
        own = page.replace(PACKAGE_TARGETS[target].document, "").lower()
        for word in ("foreground", "mask of 0 and 1", "masks of 0 and 1", "r2u", "unet"):
            assert word not in own


@pytest.mark.parametrize("target", sorted(PACKAGE_TARGETS))
class TestOutputs:
    def test_what_is_no_probability_is_refused_in_one_line(
        self, make: Make, tmp_path: Path, target: str
    ) -> None:
        """By the graph, and where it does not tell, by the values of images."""
        root, path = make("vacc", "two").folder.parent, tmp_path / "theirs.onnx"

        def packaged() -> Package:
            request = Request(sources=(PackagedModel.open(path),))
            if target in ("ascend", "vacc"):
                images = (open_set(root / "two", split) for split in ("train", "test"))
                request = replace(request, calibration=next(images), evaluation=next(images))
            return package(request, target=PACKAGE_TARGETS[target], output=tmp_path / "out")

        for operator, message in (
            ("Identity", r"ends in node 'head' \(Conv\), .* no prob.*`segdeploy adopt` appends it"),
            ("Tanh", r"theirs.onnx: predictions range from -.*; expected probabilities in 0 to 1"),
        ):
            model = onnx.load(write_small_onnx(path, output=TWO_LABELS))
            model.graph.node[-1].op_type = operator
            onnx.save(model, path)
            with pytest.raises(InputError, match=message) as told:
                packaged()
            assert "\n" not in str(told.value)
            assert not (tmp_path / "out").exists()


class TestOnnx:
    def test_the_image_model_gives_the_class_of_each_pixel(self, make: Make) -> None:
        folder, images = make("onnx", "three").folder, pictures()
        for name in ("three.sim", "three.int8.ort-x86"):
            probability = run(folder / f"{name}.onnx", tensors(images))
            found = run(folder / f"{name}.image.onnx", images)
            assert found.dtype == np.uint8
            assert np.array_equal(found, THREE_CLASSES.label_map(probability))
            assert len(np.unique(found)) > 1
            assert output_of(describe(folder / f"{name}.image.onnx")) == CONTRACTS["three"]

    def test_labels_that_may_overlap_have_no_image_model(self, make: Make, tmp_path: Path) -> None:
        folder = make("onnx", "two").folder
        assert [path.name for path in sorted(folder.glob("*.onnx"))] == [
            "two.int8.ort-x86.onnx",
            "two.sim.onnx",
        ]
        request = Request(
            sources=(PackagedModel.open(folder / "two.sim.onnx"),),
            preprocessing=Preprocessing.INSIDE,
        )
        with pytest.raises(InputError, match="2 labels may overlap, and a mask holds one class"):
            package(request, target=ONNX, output=tmp_path / "x")

    def test_models_of_other_classes_are_no_precision_of_one_model(self, make: Make) -> None:
        files = [make("onnx", kind).folder / f"{kind}.sim.onnx" for kind in CONTRACTS]
        with pytest.raises(InputError, match=r"two.sim.onnx has other classes \(cell, nucleus\)"):
            Request(sources=tuple(map(PackagedModel.open, files)))


@pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is not installed")
class TestOpenvino:
    @pytest.mark.parametrize("label", ["fp32", "int8"])
    def test_raw_images_give_the_class_of_each_pixel(self, make: Make, label: str) -> None:
        from segdeploy.deploy.packaging.openvino.ir import compile_model, infer

        folder, images = make("openvino", "three").folder, pictures()
        plain, image = (
            compile_model(folder / name / "1" / "model.xml", batch=1)
            for name in (f"three-{label}", f"three-{label}-image")
        )
        for pixels in images:
            probability = infer(plain, TINY.apply(pixels)[None])
            found = infer(image, pixels[None])
            assert (found.dtype, found.shape) == (np.uint8, (1, *TINY.size))
            assert np.array_equal(found, THREE_CLASSES.label_map(probability))

    def test_equal_values_give_the_first_class(self) -> None:
        import openvino
        from openvino import opset8 as ops

        from segdeploy.deploy.packaging.openvino.ir import infer
        from segdeploy.deploy.packaging.openvino.preprocess import decide

        image = ops.parameter([-1, 5, 16, 16], openvino.Type.f32, name="image")
        image.output(0).get_tensor().set_names({"image"})
        same = openvino.Model([ops.result(ops.relu(image))], [image], "same")
        compiled = openvino_core().compile_model(decide(same), "CPU")
        feed = np.random.default_rng(0).integers(0, 3, (2, 5, 16, 16)).astype(np.float32)
        assert np.array_equal(infer(compiled, feed), feed.argmax(axis=1))

    def test_labels_that_may_overlap_stay_probabilities(self, make: Make) -> None:
        from segdeploy.deploy.packaging.openvino.ir import read_ir

        ir = read_ir(make("openvino", "two").folder / "two-fp32-image" / "1" / "model.xml")
        assert (ir.output.dtype, ir.output.shape) == ("float32", ("?", 2, *TINY.size))
        assert ir.facts["interface"] == "image-probability"


class TestTriton:
    def test_configurations_state_planes_or_classes_and_their_names(self, make: Make) -> None:
        folder = make("triton", "three").folder
        stated = json.loads((folder / MANIFEST).read_text())["output"]
        number = {"float32": 11, "uint8": 2}
        paths = sorted((folder / "models").glob("*/config.pbtxt"))
        assert len(paths) == 6 if HAS_OPENVINO else 4
        for path in paths:
            config = read_config(path)
            decided = config.name.endswith("-image")
            batch = [] if config.max_batch_size else [-1]
            (output,) = config.output
            assert output.data_type == number["uint8" if decided else "float32"]
            assert list(output.dims) == [*batch, *([] if decided else [3]), *TINY.size]
            assert json.loads(config.parameters["output"].string_value) == stated

    def test_other_classes_than_the_models_are_found(self, make: Make, tmp_path: Path) -> None:
        target = PACKAGE_TARGETS["triton"]
        source = PackagedModel.open(make("onnx", "three").folder / "three.sim.onnx")
        folder = package(Request(sources=(source,)), target=target, output=tmp_path / "t").folder
        path = sorted((folder / "models").glob("*/config.pbtxt"))[0]
        path.write_text(path.read_text().replace("cell", "hole"))
        with pytest.raises(InputError, match="states other classes than its model's metadata"):
            target.verify(folder)

    @pytest.mark.skipif(not HAS_OPENVINO, reason="openvino is not installed")
    def test_labels_that_may_overlap_are_served_from_images_by_openvino_alone(
        self, make: Make
    ) -> None:
        served = {path.name for path in (make("triton", "two").folder / "models").iterdir()}
        assert {name for name in served if name.endswith("-image")} == {"two-fp32-openvino-image"}


class TestProgram:
    def test_it_writes_an_index_image_with_the_palette(self, make: Make, tmp_path: Path) -> None:
        folder, contract = make("onnx", "three").folder, CONTRACTS["three"]
        image = pictures(1)[0]
        Image.fromarray(image).save(tmp_path / "image.png")
        expected = contract.label_map(run(folder / "three.sim.onnx", tensors(image[None])))[0]
        models = [folder / "three.sim.onnx", folder / "three.sim.image.onnx"]
        if HAS_OPENVINO:
            served = make("openvino", "three").folder
            models += [served / name / "1/model.xml" for name in ("three-fp32", "three-fp32-image")]
        for model in models:
            said = script(folder, model, tmp_path / "image.png", "-o", tmp_path / "mask.png")
            with Image.open(tmp_path / "mask.png") as mask:
                assert mask.mode == "P"
                assert np.array_equal(np.asarray(mask), expected)
                colours = np.asarray(mask.convert("RGB"))
            assert np.array_equal(colours, np.array(contract.palette, np.uint8)[expected])
            assert f"background {(expected == 0).mean():.1%}, cell" in said

    def test_labels_that_may_overlap_have_a_mask_each(self, make: Make, tmp_path: Path) -> None:
        folder, image = make("onnx", "two").folder, pictures(1)[0]
        Image.fromarray(image).save(tmp_path / "image.png")
        script(folder, "two.sim.onnx", tmp_path / "image.png", "-o", tmp_path / "mask.png")
        probability = run(folder / "two.sim.onnx", tensors(image[None]))
        for channel, members in enumerate(TWO_LABELS.members(probability)[0]):
            with Image.open(tmp_path / f"mask_{channel}.png") as mask:
                assert np.array_equal(np.asarray(mask), members * np.uint8(255))

    @pytest.mark.parametrize(("target", "ending"), [("ascend", "npy"), ("vacc", "npz")])
    @pytest.mark.parametrize("kind", CONTRACTS)
    def test_what_a_device_returned_becomes_masks(
        self, make: Make, tmp_path: Path, target: str, ending: str, kind: str
    ) -> None:
        folder, contract, images = make(target, kind).folder, CONTRACTS[kind], pictures(2)
        probability = run(folder / f"{kind}.sim.onnx", tensors(images[:1]))
        (tmp_path / "predictions").mkdir()
        forms = {"planes": probability, "half": probability[0].astype(np.float16)}
        if contract.exclusive:
            forms["classes"] = contract.label_map(probability).astype(np.int64)
        for name, values in forms.items():
            path = tmp_path / "predictions" / f"{name}.{ending}"
            np.save(path, values) if ending == "npy" else np.savez(path, output_0=values)
        script(folder, "--outputs", tmp_path / "predictions", "-o", tmp_path / "masks")
        for name, values in forms.items():
            written = sorted((tmp_path / "masks").glob(f"{name}*.png"))
            found = np.stack([np.asarray(Image.open(path)) for path in written])
            if contract.exclusive:
                expected = values if name == "classes" else values.reshape(3, 32, 32).argmax(0)
                assert np.array_equal(found[0], expected.reshape(32, 32))
            else:
                assert np.array_equal(found > 0, values.reshape(2, 32, 32) >= 0.5)


class TestEvaluationSet:
    @pytest.mark.parametrize("target", ["ascend", "vacc"])
    @pytest.mark.parametrize("kind", CONTRACTS)
    def test_it_holds_the_truth_of_every_class(self, make: Make, target: str, kind: str) -> None:
        folder, contract = make(target, kind).folder, CONTRACTS[kind]
        held, brought = open_set(folder / "evaluation", "test"), folder.parent / kind
        truths = held.truths(TINY, contract)
        assert np.array_equal(truths, open_set(brought, "test").truths(TINY, contract))
        assert truths.shape == (4, *((2,) if contract.overlapping else ()), *TINY.size)
        assert truths.any()

    def test_masks_that_lie_otherwise_are_refused(self, make: Make, tmp_path: Path) -> None:
        root = make("vacc", "three").folder.parent
        request = Request(
            sources=(PackagedModel.open(root / "three.sim.onnx"),),
            calibration=open_set(root / "three", "train"),
            evaluation=open_set(root / "two", "test"),
        )
        for target in ("ascend", "vacc"):
            with pytest.raises(InputError, match="3 classes exclude each other; expected label"):
                package(request, target=PACKAGE_TARGETS[target], output=tmp_path / target)


class TestReturned:
    @pytest.mark.parametrize("target", ["ascend", "vacc"])
    def test_what_a_device_returns_is_scored_as_the_reference(
        self, make: Make, tmp_path: Path, target: str
    ) -> None:
        """The device's graph computed here: class numbers of Ascend, planes of VACC."""
        folder = make(target, "three").folder
        device = "three.sim.argmax.onnx" if target == "ascend" else "three.sim.onnx"
        held = open_set(folder / "evaluation", "test")
        for sample in held:
            (returned,) = run(folder / device, TINY.apply(sample.image())[None])[None]
            if target == "ascend":
                np.save(tmp_path / f"{sample.name}_0.npy", returned)
            else:
                np.savez(tmp_path / f"{sample.name}.npz", output_0=returned)
        order = folder / ("outputs.txt" if target == "ascend" else "npz_datalist.txt")
        found = parity(
            reference=folder / "three.sim.onnx",
            data=folder / "evaluation",
            outputs=[DeviceOutputs(folder=tmp_path, order=order)],
        )
        assert found.kept
        device_row = found.rows[1]
        assert device_row.disagreement_percent == 0
        assert not verify(folder).changes


class TestDevices:
    def test_the_ascend_graph_ends_in_an_argmax_of_the_same_network(self, make: Make) -> None:
        folder, feed = make("ascend", "three").folder, tensors(pictures(1))
        probability = run(folder / "three.sim.onnx", feed)
        found = run(folder / "three.sim.argmax.onnx", feed)
        assert np.array_equal(found, THREE_CLASSES.label_map(probability))
        lines = [(folder / name).read_text() for name in ("quantize.sh", "convert.sh", "run.sh")]
        assert "--model three.sim.argmax.onnx --save_path amct/three.sim.argmax " in lines[0]
        assert "--model=amct/three.sim.argmax_deploy_model.onnx --output=three.sim_int8" in lines[1]
        assert "--reference three.sim.onnx" in lines[2]

    def test_each_tensorrt_model_has_one_that_decides(self, make: Make) -> None:
        folder, feed = make("tensorrt", "three").folder, tensors(pictures(2))
        build = (folder / "build.sh").read_text()
        for name in ("three.sim", "three.sim.fp16", "three.int8.tensorrt"):
            found = run(folder / f"{name}.argmax.onnx", feed)
            probability = run(folder / f"{name}.onnx", feed)
            assert np.array_equal(found, THREE_CLASSES.label_map(probability))
            assert f"--onnx={name}.argmax.onnx --stronglyTyped --minShapes=image:1x3x32x32" in build
            assert f"--saveEngine={name}.argmax.plan" in build

    @pytest.mark.parametrize("target", ["ascend", "tensorrt"])
    def test_an_argmax_of_another_network_is_found(
        self, make: Make, tmp_path: Path, target: str
    ) -> None:
        folder = make(target, "three").folder
        path = folder / "three.sim.argmax.onnx"
        kept = path.read_bytes()
        changed = onnx.load(path)
        raw = np.frombuffer(changed.graph.initializer[2].raw_data, np.float32) + 1
        changed.graph.initializer[2].raw_data = raw.astype(np.float32).tobytes()
        try:
            path.write_bytes(changed.SerializeToString())
            with pytest.raises(InputError, match=r"argmax.onnx is not the model beside it"):
                PACKAGE_TARGETS[target].verify(folder)
        finally:
            path.write_bytes(kept)

    def test_vacc_names_the_argmax_as_post_processing(self, make: Make) -> None:
        page = (make("vacc", "three").folder / README).read_text()
        assert "3 channels, background among them, and the argmax over them is the post-" in page


class TestOpset11:
    @pytest.mark.parametrize("kind", CONTRACTS)
    def test_the_same_bits(self, tmp_path: Path, kind: str) -> None:
        source = PackagedModel.open(write_small_onnx(tmp_path / "n.onnx", output=CONTRACTS[kind]))
        plain, feed = plain_model(source, batch=2), tensors(pictures(2))
        assert [entry.version for entry in plain.opset_import] == [OPSET]
        (tmp_path / "plain.onnx").write_bytes(plain.SerializeToString())
        expected = run(source.artifact.path, feed)
        assert np.array_equal(run(tmp_path / "plain.onnx", feed), expected)

    @pytest.mark.parametrize(
        ("nodes", "constants"),
        [
            ([("ReduceMean", ["image", "axes"], {"keepdims": 1})], {"axes": [2, 3]}),
            ([("Split", ["image", "sizes"], {"axis": 1})], {"sizes": [1, 2]}),
            (
                [("Unsqueeze", ["image", "axes"], {}), ("Squeeze", [0, "axes"], {})],
                {"axes": [1]},
            ),
            ([("Softmax", ["image"], {"axis": -1})], {}),
            ([("Softmax", ["image"], {"axis": 2})], {}),
            ([("LeakyRelu", ["image"], {"alpha": 0.1})], {}),
            ([("AveragePool", ["image"], {"kernel_shape": [2, 2], "strides": [2, 2]})], {}),
        ],
    )
    def test_what_networks_of_others_hold_has_a_form(
        self, tmp_path: Path, nodes: list[Any], constants: dict[str, list[int]]
    ) -> None:
        source, feed = brought(tmp_path, nodes, constants), tensors(pictures(1))
        plain = plain_model(source, batch=1)
        assert not plain.graph.initializer
        (tmp_path / "plain.onnx").write_bytes(plain.SerializeToString())
        expected = run(source.artifact.path, feed)
        assert np.array_equal(run(tmp_path / "plain.onnx", feed), expected)

    @pytest.mark.parametrize(
        ("nodes", "message"),
        [
            ([("HardSwish", ["image"], {})], "the operator HardSwish"),
            (
                [("AveragePool", ["image"], {"kernel_shape": [2, 2], "dilations": [2, 2]})],
                r"AveragePool n0 has dilations \[2, 2\], which opset 11 lacks",
            ),
        ],
    )
    def test_what_has_none_is_refused_by_name(
        self, tmp_path: Path, nodes: list[Any], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            plain_model(brought(tmp_path, nodes, {}), batch=1)

    def test_operators_that_look_alike_in_both_opsets_are_known_by_name(self) -> None:
        """Softmax's default axis is the only default that opset 13 to 20 changed unseen."""
        changed = set()
        for schema in defs.get_all_schemas():
            if schema.domain or not defs.has(schema.name, max_inclusive_version=OPSET):
                continue
            old = defs.get_schema(schema.name, OPSET, "").attributes
            new = schema.attributes
            changed |= {
                schema.name
                for name in old.keys() & new.keys()
                if old[name].default_value != new[name].default_value
            }
        assert changed <= {"Softmax", "LogSoftmax", "Hardmax"}


def brought(folder: Path, nodes: list[Any], constants: dict[str, list[int]]) -> PackagedModel:
    """A chain of operators between a network's ends; a number stands for an earlier result."""
    made = []
    for place, (operator, sources, settings) in enumerate(nodes):
        inputs = [f"n{source}" if isinstance(source, int) else source for source in sources]
        outputs = [f"n{place}", "rest"] if operator == "Split" else [f"n{place}"]
        made.append(helper.make_node(operator, inputs, outputs, name=f"n{place}", **settings))
    last = f"n{len(nodes) - 1}"
    graph = helper.make_graph(
        made,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    inferred = onnx.shape_inference.infer_shapes(model)
    onnx.save(inferred, folder / "chain.onnx")
    source = PackagedModel.open(write_small_onnx(folder / "net.onnx"))
    changed = replace(source, artifact=replace(source.artifact, path=folder / "chain.onnx"))
    object.__setattr__(changed, "model", lambda: onnx.load(folder / "chain.onnx"))
    return changed
