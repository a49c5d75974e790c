"""image_interface: the mask is that of the network behind the host's own normalisation."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tiny import TINY, exported, quantized

from segdeploy.benchmarks.parity.records import ParityRow
from segdeploy.benchmarks.parity.run import parity_section
from segdeploy.benchmarks.speed.entries import entries_for
from segdeploy.deploy.data.image_set import SegmentationSet, open_set
from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.data.resizing import resize
from segdeploy.deploy.models import UNetPlusPlus
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision, TensorSpec
from segdeploy.deploy.onnx_model.file import (
    describe,
    load_model,
    metadata,
    output_entries,
    output_in,
    save_model,
    set_metadata,
)
from segdeploy.deploy.onnx_model.interface import Interface, interface_of
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.rewrites.image_interface import arithmetic, image_interface
from segdeploy.deploy.runtimes.base import Execution, infer_each
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.stages.to_fp16 import to_fp16
from segdeploy.deploy.system.errors import InputError
from segdeploy.deploy.targets.profiles import OPENVINO_CPU, ORT_X86

Pixels = NDArray[np.uint8]
Probability = NDArray[np.float32]

CONTRACTS = {
    "published": TINY,
    "imagenet": replace(
        TINY, channel_order="RGB", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ),
    "grey levels": replace(TINY, scale=1.0, mean=(103.9, 116.8, 123.7), std=(57.4, 57.1, 58.4)),
}
FUSED = 1e-5
"""How near 0.5 a probability may fall on the other side where a runtime fuses arithmetic."""

BETWEEN_STEPS = 0.02
"""Share of pixels that may differ where it fuses and the image lies between int8 steps."""

triples = st.tuples(*[st.floats(0, 1)] * 3)
contracts = st.builds(
    Preprocess,
    size=st.just((32, 32)),
    channel_order=st.sampled_from(("RGB", "BGR")),
    scale=st.sampled_from((1 / 255, 1 / 256, 1.0)),
    mean=triples,
    std=st.tuples(*[st.floats(0.05, 2)] * 3),
)


@dataclass(frozen=True, kw_only=True)
class Networks:
    """One network in every precision, and images."""

    images: SegmentationSet
    files: dict[str, Artifact]
    folder: Path

    def pair(self, name: str, preprocess: Preprocess) -> tuple[Artifact, Artifact]:
        """A network that carries the contract, and its rewritten form."""
        model = load_model(self.files[name].path)
        set_metadata(model, metadata(model) | {"preprocess": preprocess.to_json()})
        plain, rewritten = self.folder / "plain.onnx", self.folder / "mask.onnx"
        save_model(model, plain)
        save_model(image_interface(model, preprocess).model, rewritten)
        return describe(plain), describe(rewritten)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory, _tiny_unet: UNetPlusPlus) -> Networks:
    folder = tmp_path_factory.mktemp("networks")
    images = bright_squares(folder / "set")
    fp32 = exported(_tiny_unet, folder, head=2)
    table = calibrate(fp32, images, preprocess=TINY, threads=1)
    files = {"fp32": fp32, "fp16": to_fp16(fp32, folder / "fp16.onnx")}
    for profile in (ORT_X86, OPENVINO_CPU):
        name = f"int8 {profile.name}"
        path = folder / f"{name}.onnx"
        files[name] = quantized(fp32, path, table, profile=profile)
    return Networks(images=images, files=files, folder=folder)


def bright_squares(root: Path) -> SegmentationSet:
    """Six noisy images of 40x44, a bright square and its mask on each."""
    generator = np.random.default_rng(5)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(6):
        mask = np.zeros((40, 44), bool)
        mask[4 * index : 4 * index + 16, 10:30] = True
        image = generator.normal(40, 12, (40, 44, 3)) + 140 * mask[..., None]
        pixels = np.rint(image.clip(0, 255)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{index}.png")
        Image.fromarray(mask).save(root / "masks" / f"{index}.png")
    return open_set(root, None)


def noise(seed: int, count: int) -> Pixels:
    """Images (count, 32, 32, 3) of every brightness, coarse and fine."""
    generator = np.random.default_rng(seed)
    coarse = generator.uniform(0, 255, (count, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    fine = generator.normal(0, generator.uniform(1, 40), (count, 32, 32, 3))
    pixels: Pixels = np.rint((coarse + fine).clip(0, 255)).astype(np.uint8)
    return pixels


def answer(artifact: Artifact, feed: NDArray[Any], name: RuntimeName) -> NDArray[Any]:
    """What a model gives for one batch."""
    execution = Execution(threads=1, batch=len(feed))
    with open_runtime(name, artifact, execution=execution) as runtime:
        result: NDArray[Any] = runtime.infer({artifact.inputs[0].name: feed})[
            artifact.outputs[0].name
        ]
        return result


def both(
    pair: tuple[Artifact, Artifact], preprocess: Preprocess, pixels: Pixels, name: RuntimeName
) -> tuple[Probability, Pixels]:
    """The probability (N, h, w) behind the host's normalisation, and the rewritten model's mask."""
    plain, rewritten = pair
    normalised = np.stack([preprocess.normalise(image) for image in pixels])
    probability, mask = answer(plain, normalised, name), answer(rewritten, pixels, name)
    assert mask.dtype == np.dtype(np.uint8)
    assert mask.shape == pixels.shape[:3]
    assert mask.max() <= 1
    return probability[:, 0], mask


class TestNormalisation:
    @settings(max_examples=200, deadline=None)
    @given(contracts)
    def test_every_pixel_value_is_normalised_to_the_last_bit(self, preprocess: Preprocess) -> None:
        levels = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
        found = levels.transpose(2, 0, 1)[None].astype(np.float32)
        if preprocess.channel_order == "BGR":
            found = found[:, ::-1]
        steps = {"Mul": np.multiply, "Add": np.add, "Sub": np.subtract, "Div": np.divide}
        for step, operand in arithmetic(preprocess):
            found = steps[step](found, operand)
            assert found.dtype == np.float32
        assert np.array_equal(found[0], preprocess.normalise(levels))

    @given(triples, st.tuples(*[st.sampled_from((0.25, 0.5, 1.0, 2.0))] * 3))
    def test_a_power_of_two_as_std_folds_into_one_multiplication_and_addition(
        self, mean: tuple[float, float, float], std: tuple[float, float, float]
    ) -> None:
        steps = arithmetic(replace(TINY, mean=mean, std=std))
        assert [step for step, _ in steps] == ["Mul", "Add"]


class TestMasks:
    @pytest.mark.parametrize("batch", [1, 3])
    @pytest.mark.parametrize("precision", ["fp32", "fp16", "int8 ort-x86"])
    @settings(max_examples=6, deadline=None)
    @given(preprocess=contracts, seed=st.integers(0, 999))
    def test_onnx_runtime_gives_the_thresholded_probability(
        self, networks: Networks, precision: str, batch: int, preprocess: Preprocess, seed: int
    ) -> None:
        pair = networks.pair(precision, preprocess)
        probability, mask = both(pair, preprocess, noise(seed, batch), RuntimeName.ONNXRUNTIME)
        assert np.array_equal(mask == 1, probability >= 0.5)

    @pytest.mark.parametrize("contract", CONTRACTS)
    @pytest.mark.parametrize("precision", ["fp32", "int8 ort-x86"])
    def test_such_masks_hold_both_classes(
        self, networks: Networks, precision: str, contract: str
    ) -> None:
        """Without both, the laws above and below would say little."""
        preprocess = CONTRACTS[contract]
        pair = networks.pair(precision, preprocess)
        probability, mask = both(pair, preprocess, noise(1, 3), RuntimeName.ONNXRUNTIME)
        assert np.array_equal(mask == 1, probability >= 0.5)
        assert 0.01 < mask.mean() < 0.99

    @pytest.mark.skipif(
        importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
    )
    @pytest.mark.parametrize("batch", [1, 3])
    @pytest.mark.parametrize("contract", CONTRACTS)
    @pytest.mark.parametrize("precision", ["fp32", "fp16", "int8 openvino-cpu"])
    def test_openvino_differs_only_where_its_rounding_decides(
        self, networks: Networks, precision: str, contract: str, batch: int
    ) -> None:
        preprocess = CONTRACTS[contract]
        pair = networks.pair(precision, preprocess)
        probability, mask = both(pair, preprocess, noise(2, batch), RuntimeName.OPENVINO)
        differs = (mask == 1) != (probability >= 0.5)
        if precision.startswith("int8"):
            assert differs.mean() <= BETWEEN_STEPS
        else:
            assert np.all(np.abs(probability[differs] - 0.5) < FUSED)

    @pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.FLOAT16])
    @pytest.mark.parametrize(("order", "first"), [("RGB", 0), ("BGR", 2)])
    def test_the_first_channel_is_red_or_blue_and_one_half_is_foreground(
        self, tmp_path: Path, element: int, order: str, first: int
    ) -> None:
        """A network that returns its first channel: value / 256, so that 128 is exactly 0.5."""
        plain = Preprocess(size=(32, 32), scale=1 / 256, mean=(0, 0, 0), std=(1, 1, 1))
        preprocess = replace(plain, channel_order=order)
        save_model(
            image_interface(first_channel(preprocess, element), preprocess).model,
            tmp_path / "mask.onnx",
        )
        pixels = noise(3, 2)
        pixels[:, 0, :2] = [[127], [128]]
        mask = answer(describe(tmp_path / "mask.onnx"), pixels, RuntimeName.ONNXRUNTIME)
        assert mask[:, 0, :2].tolist() == [[0, 1], [0, 1]]
        assert np.array_equal(mask, pixels[..., first] >= 128)

    @pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.FLOAT16])
    @pytest.mark.parametrize("name", [RuntimeName.ONNXRUNTIME, RuntimeName.OPENVINO])
    def test_of_classes_that_exclude_each_other_the_first_of_the_largest_is_taken(
        self, tmp_path: Path, element: int, name: RuntimeName
    ) -> None:
        """A network that returns its channels as they are: 256 levels each, and many equal."""
        if importlib.util.find_spec(name.value) is None:
            pytest.skip(f"{name.value} is not installed")
        preprocess = Preprocess(size=(32, 32), scale=1 / 256, mean=(0, 0, 0), std=(1, 1, 1))
        model = image_interface(three_channels(preprocess, element), preprocess).model
        onnx.checker.check_model(model, full_check=True)
        assert output_in(model, source="it") == THREE
        save_model(model, tmp_path / "mask.onnx")
        artifact = describe(tmp_path / "mask.onnx")
        assert artifact.outputs[0].shape == ("batch", 32, 32)
        pixels = noise(3, 2) // 64 * 64  # four levels: equal channels at every fourth pixel
        mask = answer(artifact, pixels, name)
        assert mask.dtype == np.dtype(np.uint8)
        assert np.array_equal(mask, pixels[..., ::-1].argmax(axis=3))
        assert set(np.unique(mask)) == {0, 1, 2}

    def test_labels_that_may_overlap_have_no_single_mask(self) -> None:
        model = three_channels(TINY)
        labels = OutputContract(classes=THREE.classes)
        set_metadata(model, {"preprocess": TINY.to_json()} | output_entries(labels))
        with pytest.raises(InputError, match=r"^the model's 3 labels may overlap, and a mask"):
            image_interface(model, TINY)


THREE = OutputContract(activation=Activation.SOFTMAX, classes=("background", "cell", "wall"))


def three_channels(preprocess: Preprocess, element: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """A network (batch, 3, h, w) -> (batch, 3, h, w) that keeps its channels, as three classes."""
    model = first_channel(preprocess, element)
    set_metadata(model, {"preprocess": preprocess.to_json()} | output_entries(THREE))
    (until,) = [tensor for tensor in model.graph.initializer if tensor.name == "to"]
    until.CopyFrom(numpy_helper.from_array(np.array([3]), "to"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    return model


def first_channel(preprocess: Preprocess, element: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """A network (batch, 3, h, w) -> (batch, 1, h, w) that keeps one channel as it is."""
    graph = helper.make_graph(
        [helper.make_node("Slice", ["image", "from", "to", "axis"], ["probability"], name="s")],
        "first",
        [helper.make_tensor_value_info("image", element, ["batch", 3, *preprocess.size])],
        [helper.make_tensor_value_info("probability", element, ["batch", 1, *preprocess.size])],
        [
            numpy_helper.from_array(np.array([value]), name)
            for name, value in (("from", 0), ("to", 1), ("axis", 1))
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    set_metadata(model, {"preprocess": preprocess.to_json()})
    return model


class TestFile:
    @pytest.mark.parametrize("name", ["fp32", "fp16", "int8 ort-x86"])
    def test_ends_are_bytes_the_network_between_is_as_before(
        self, networks: Networks, name: str
    ) -> None:
        source = load_model(networks.files[name].path)
        before = source.SerializeToString(deterministic=True)
        result = image_interface(source, TINY)
        assert source.SerializeToString(deterministic=True) == before
        assert result.sites == 1
        onnx.checker.check_model(result.model, full_check=True)
        kept = {node.name for node in source.graph.node}
        found = [node for node in result.model.graph.node if node.name in kept]
        assert found == list(source.graph.node)
        constants = {tensor.name: tensor for tensor in result.model.graph.initializer}
        assert all(constants[tensor.name] == tensor for tensor in source.graph.initializer)

    def test_metadata_says_so_and_keeps_the_rest(self, networks: Networks) -> None:
        plain, rewritten = networks.pair("int8 ort-x86", TINY)
        said = metadata(load_model(rewritten.path))
        assert said.pop("interface") == "image-mask"
        assert said == metadata(load_model(plain.path))
        assert rewritten.inputs == (
            TensorSpec(name="pixels", shape=("batch", 32, 32, 3), dtype="uint8"),
        )
        assert rewritten.outputs == (
            TensorSpec(name="mask", shape=("batch", 32, 32), dtype="uint8"),
        )
        assert (rewritten.precision, rewritten.target) == (Precision.INT8, "ort-x86")

    def test_channels_are_gathered_only_for_bgr(self) -> None:
        for order, count in (("RGB", 0), ("BGR", 1)):
            preprocess = replace(TINY, channel_order=order)
            nodes = image_interface(first_channel(preprocess), preprocess).model.graph.node
            assert [node.op_type for node in nodes].count("Gather") == count


class TestMisuse:
    def test_a_second_time_is_refused(self) -> None:
        model = image_interface(first_channel(TINY), TINY).model
        with pytest.raises(InputError, match="interface is 'image-mask' already; give the file"):
            image_interface(model, TINY)

    def test_without_a_contract_there_is_nothing_to_build_in(self) -> None:
        model = first_channel(TINY)
        set_metadata(model, {})
        with pytest.raises(InputError, match=r"no preprocessing contract .* `segdeploy export`"):
            image_interface(model, TINY)

    def test_another_contract_than_the_model_carries_is_refused(self) -> None:
        with pytest.raises(InputError, match=r'expects .*"BGR".* asked to build in .*"RGB"'):
            image_interface(first_channel(TINY), replace(TINY, channel_order="RGB"))

    @pytest.mark.parametrize("end", ["input", "output"])
    @pytest.mark.parametrize("change", ["type", "rank", "channels", "number"])
    def test_other_inputs_or_outputs_are_refused(self, end: str, change: str) -> None:
        model = first_channel(TINY)
        values = getattr(model.graph, end)
        if change == "type":
            values[0].type.tensor_type.elem_type = TensorProto.UINT8
        elif change == "rank":
            del values[0].type.tensor_type.shape.dim[3]
        elif change == "channels":
            values[0].type.tensor_type.shape.dim[1].dim_value = 4
        else:
            values.add().CopyFrom(helper.make_tensor_value_info("other", TensorProto.FLOAT, [1]))
        with pytest.raises(InputError, match=r"the model has inputs .*expected one image"):
            image_interface(model, TINY)


class TestInterface:
    def test_what_a_model_takes_is_the_contract_or_its_resize_alone(self) -> None:
        image = noise(4, 1)[0][:, :20]
        preprocess = replace(TINY, antialias=True)
        assert np.array_equal(Interface.TENSOR.prepared(image, preprocess), preprocess.apply(image))
        pixels = Interface.IMAGE.prepared(image, preprocess)
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, resize(image, (32, 32), antialias=True))

    def test_files_tell_their_form(self, networks: Networks) -> None:
        plain, rewritten = networks.pair("fp16", TINY)
        assert interface_of(plain.inputs, plain.outputs) is Interface.TENSOR
        assert interface_of(rewritten.inputs, rewritten.outputs) is Interface.IMAGE
        for inputs, outputs in (
            (rewritten.inputs, plain.outputs),
            (plain.inputs, rewritten.outputs),
            (plain.inputs * 2, plain.outputs),
            (plain.inputs, ()),
        ):
            with pytest.raises(InputError, match="expected one image and one probability"):
                interface_of(inputs, outputs)

    def test_images_one_by_one_give_the_mask_as_zero_and_one(self, networks: Networks) -> None:
        plain, rewritten = networks.pair("fp32", TINY)
        found = {}
        for artifact in (plain, rewritten):
            execution = Execution(threads=1)
            with open_runtime(RuntimeName.ONNXRUNTIME, artifact, execution=execution) as runtime:
                form = interface_of(runtime.inputs, runtime.outputs)
                images = [form.prepared(sample.image(), TINY) for sample in networks.images]
                found[form] = infer_each(runtime, images)[:, 0]
        expected = found[Interface.TENSOR] >= 0.5
        assert found[Interface.IMAGE].dtype == np.float32
        assert np.array_equal(found[Interface.IMAGE], expected.astype(np.float32))
        assert 0 < expected.mean() < 1


class TestParity:
    def section(self, networks: Networks) -> dict[str, ParityRow]:
        """Rows by name of a network, and of both forms of its int8 file, beside that network."""
        plain, rewritten = networks.pair("int8 ort-x86", TINY)
        files = {"plain": plain, "mask": rewritten}
        execution = Execution(threads=1)
        with open_runtime(
            RuntimeName.ONNXRUNTIME, networks.files["fp32"], execution=execution
        ) as reference:
            section = parity_section(
                reference,
                "reference",
                entries_for(files, [RuntimeName.ONNXRUNTIME]),
                images=networks.images,
                preprocess=TINY,
                output=OutputContract(),
                max_drop=100,
                seed=0,
                execution=execution,
                progress=lambda items, label: items,
            )
        return {row.name.removesuffix(" on ONNX Runtime"): row for row in section.rows}

    def test_both_forms_score_alike_but_a_mask_has_no_auc(self, networks: Networks) -> None:
        rows = self.section(networks)
        plain, mask = rows["plain"], rows["mask"]
        assert plain.scores is not None
        assert plain.scores.auc is not None
        assert mask.scores == replace(plain.scores, auc=None)
        for figure in ("disagreement_percent", "ci95_percentage_points", "iou_per_image_percent"):
            assert getattr(mask, figure) == getattr(plain, figure)
