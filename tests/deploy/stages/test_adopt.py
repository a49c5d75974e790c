"""Any ONNX becomes one of ours: it computes what it did, and every later stage takes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import foreign_onnx
import numpy as np
import onnx
import onnxruntime
import pytest
from foreign_onnx import FOREIGN, SIDE, Change, foreign
from onnx import TensorProto, helper

from segdeploy.deploy.adoption.output_end import Meant, OutputKind
from segdeploy.deploy.data.image_set import SegmentationSet, open_set
from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.data.presets import PRESETS, preset
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import contract_of, load_model, output_of
from segdeploy.deploy.onnx_model.interface import Interface, interface_of
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.runtimes.base import Execution, infer_each
from segdeploy.deploy.runtimes.registry import availability, open_runtime
from segdeploy.deploy.stages.adopt import Adopted, adopt
from segdeploy.deploy.stages.rewrite import RewriteName, rewrite
from segdeploy.deploy.stages.simplify import simplify
from segdeploy.deploy.stages.to_fp16 import to_fp16
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.targets.profiles import OPENVINO_CPU, ORT_X86

every_kind = pytest.mark.parametrize("name", FOREIGN)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, small_onnx: Callable[..., Path]) -> Path:
    return small_onnx(tmp_path_factory.mktemp("ours") / "small.onnx")


@pytest.fixture(scope="module")
def images(
    tmp_path_factory: pytest.TempPathFactory, make_image_set: Callable[[Path, list[str]], Path]
) -> SegmentationSet:
    root = tmp_path_factory.mktemp("images") / "set"
    return open_set(make_image_set(root, ["train"] * 3 + ["val", "test"]), "train")


@pytest.fixture
def adopted(
    ours: Path, images: SegmentationSet, tmp_path: Path
) -> Callable[[str], tuple[Path, Adopted]]:
    """Function from a name of ``FOREIGN`` to that file and what became of it."""

    def make(name: str) -> tuple[Path, Adopted]:
        kind = FOREIGN[name]
        theirs = foreign(name, ours, tmp_path / "theirs.onnx")
        options = dict(kind.options or {})
        if "output_kind" in options:
            options["output_kind"] = OutputKind(options["output_kind"])
        output = tmp_path / "ours.onnx"
        result = adopt(theirs, output, preprocess=kind.preset, images=images.samples, **options)  # type: ignore[arg-type]  # options of several types
        return theirs, result

    return make


def run(path: Path, feed: np.ndarray) -> list[np.ndarray]:  # type: ignore[type-arg]  # of any type
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: feed}))


@every_kind
def test_computes_what_theirs_did(
    name: str, adopted: Callable[[str], tuple[Path, Adopted]], images: SegmentationSet
) -> None:
    theirs, result = adopted(name)
    kind, contract = FOREIGN[name], contract_of(result.artifact)
    assert contract == preset(kind.preset, (SIDE, SIDE))
    for sample in images:
        image = contract.apply(sample.image())[None]
        expected = kind.read(run(theirs, kind.fed(image)))
        (found,) = run(result.artifact.path, image)
        assert found.shape == (1, len(kind.classes), SIDE, SIDE)
        np.testing.assert_allclose(found[0], expected.reshape(found.shape[1:]), atol=kind.tolerance)
    assert result.difference <= kind.tolerance
    assert result.images == len(images)
    assert kind.notes in "; ".join(result.notes)
    meant = output_of(result.artifact)
    assert (meant.classes, meant.exclusive) == (kind.classes, kind.exclusive)


@every_kind
def test_is_quantized_like_one_of_ours(
    name: str,
    adopted: Callable[[str], tuple[Path, Adopted]],
    images: SegmentationSet,
    tmp_path: Path,
) -> None:
    source = adopted(name)[1].artifact
    assert interface_of(source.inputs, source.outputs) is Interface.TENSOR
    require_int8_close(source, source, images, tmp_path)


@pytest.mark.parametrize("name", ["channels last", "logits of two", "one image", "opset 9"])
def test_is_one_of_ours_in_every_later_stage(
    name: str,
    adopted: Callable[[str], tuple[Path, Adopted]],
    images: SegmentationSet,
    tmp_path: Path,
) -> None:
    source = adopted(name)[1].artifact
    simple = simplify(source, tmp_path / "sim.onnx")
    half = to_fp16(simple, tmp_path / "fp16.onnx")
    kept = {RewriteName.RECURRENT_SUM, RewriteName.UPSAMPLE_CONVOLUTION}
    rewritten = rewrite(simple, tmp_path / "opt.onnx", names=kept)
    image = contract_of(source).apply(images.samples[0].image())[None]
    (expected,) = run(source.path, image)
    np.testing.assert_allclose(run(rewritten.path, image)[0], expected, atol=1e-4)
    np.testing.assert_allclose(run(half.path, image)[0], expected, atol=2e-2)
    require_int8_close(rewritten, source, images, tmp_path)


def require_int8_close(
    step: Artifact, source: Artifact, images: SegmentationSet, folder: Path
) -> None:
    """What is made of a file in int8 gives, in its runtime, about what the source gives."""
    contract = contract_of(source)
    prepared = [contract.apply(sample.image()) for sample in images]
    expected = np.stack([run(source.path, image[None])[0][0] for image in prepared])
    table = calibrate(step, images, preprocess=contract, threads=1)
    for profile in (ORT_X86, OPENVINO_CPU):
        if not availability(profile.runtime).ready:
            continue
        output = folder / f"{profile.name}.onnx"
        int8 = to_int8(step, output, table=table, table_sha256="ab" * 32, profile=profile)
        assert "QuantizeLinear" in {node.op_type for node in load_model(int8.path).graph.node}
        with open_runtime(profile.runtime, int8, execution=Execution(threads=1)) as runtime:
            found = infer_each(runtime, prepared, output_of(source))
            assert np.abs(found - expected).mean() < 0.05


def test_the_same_file_gives_the_same_bytes(
    adopted: Callable[[str], tuple[Path, Adopted]],
) -> None:
    first = adopted("two heads")[1].artifact
    assert adopted("two heads")[1].artifact.sha256 == first.sha256


def test_takes_any_batch_where_the_graph_does(
    adopted: Callable[[str], tuple[Path, Adopted]],
) -> None:
    for name in ("batch of 4", "traced with one", "sizes computed"):
        assert adopted(name)[1].artifact.inputs[0].shape[0] == "batch"
    assert adopted("one image")[1].artifact.inputs[0].shape[0] == 1


def test_sizes_that_were_computed_are_constants(
    adopted: Callable[[str], tuple[Path, Adopted]],
) -> None:
    graph = load_model(adopted("sizes computed")[1].artifact.path).graph
    assert {"Shape", "Gather"}.isdisjoint(node.op_type for node in graph.node)
    assert len([node for node in graph.node if node.op_type == "Resize"]) == 1


def test_leaves_out_what_only_other_outputs_need(
    adopted: Callable[[str], tuple[Path, Adopted]],
) -> None:
    graph = load_model(adopted("two heads")[1].artifact.path).graph
    assert "early" not in {node.name for node in graph.node}
    assert "early.weight" not in {tensor.name for tensor in graph.initializer}


def test_names_of_layers_stay_and_separate_lists(
    adopted: Callable[[str], tuple[Path, Adopted]],
) -> None:
    names = [n.name for n in load_model(adopted("our names inside")[1].artifact.path).graph.node]
    assert {"high", "low", "merge", "head_1"} <= set(names)


def quarter_size(model: onnx.ModelProto) -> None:
    """The mask of the lower half."""
    foreign_onnx.other_outputs(model)
    del model.graph.output[1:]


def thresholded(model: onnx.ModelProto) -> None:
    """A mask instead of a probability."""
    foreign_onnx.store(model, "half", np.float32(0.5))
    model.graph.node.append(helper.make_node("Greater", ["probability", "half"], ["mask"]))
    form = helper.make_tensor_value_info("mask", TensorProto.BOOL, ["n", 1, SIDE, SIDE])
    model.graph.output[0].CopyFrom(form)


def one_of_softmax(model: onnx.ModelProto) -> None:
    """A Softmax over one channel, which is 1 everywhere."""
    foreign_onnx.ended(foreign_onnx.logits, "Softmax", axis=1)(model)


def three_of_four(model: onnx.ModelProto) -> None:
    """A Softmax without its background."""
    foreign_onnx.ended(foreign_onnx.several(4), "Softmax", axis=1)(model)
    for name, value in (("from", 1), ("to", 4), ("on", 1)):
        foreign_onnx.store(model, name, np.array([value]))
    taken = helper.make_node("Slice", ["Softmax", "from", "to", "on"], ["objects"])
    model.graph.node.append(taken)
    model.graph.output[0].name = "objects"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3


def softmax_of_rows(model: onnx.ModelProto) -> None:
    """A Softmax over another axis than the channels."""
    foreign_onnx.softmax(model)
    model.graph.node[-1].attribute[0].i = 3


def grey(model: onnx.ModelProto) -> None:
    """One channel in."""
    foreign_onnx.replaced(model, "high.weight", lambda w: w[:, :1])
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1


def two_inputs(model: onnx.ModelProto) -> None:
    """An image and something else."""
    model.graph.input.append(helper.make_tensor_value_info("prompt", TensorProto.FLOAT, [1]))


def infinite(model: onnx.ModelProto) -> None:
    """Weights that overflow."""
    foreign_onnx.logits(model)
    foreign_onnx.replaced(model, "head.weight", lambda w: w * np.float32(np.inf))


def quantized(model: onnx.ModelProto) -> None:
    """Integers already."""
    foreign_onnx.store(model, "step", np.float32(0.1))
    foreign_onnx.node(model, "sigmoid").input[0] = "real"
    place = len(model.graph.node) - 1
    whole = helper.make_node("QuantizeLinear", ["head", "step"], ["whole"])
    real = helper.make_node("DequantizeLinear", ["whole", "step"], ["real"], name="dq")
    model.graph.node.insert(place, whole)
    model.graph.node.insert(place + 1, real)


def too_old(model: onnx.ModelProto) -> None:
    """Opset 6."""
    foreign_onnx.old(7)(model)
    foreign_onnx.node(model, "up").op_type = "Relu"
    del foreign_onnx.node(model, "up").attribute[:]
    model.opset_import[0].version = 6


def alike(model: onnx.ModelProto) -> None:
    """Two heads of one depth."""
    for end in ("first", "second"):
        model.graph.node.append(helper.make_node("Sigmoid", ["head"], [end], name=end))
    value = model.graph.output[0]
    model.graph.node.remove(foreign_onnx.node(model, "sigmoid"))
    value.name = "first"
    model.graph.output.add().CopyFrom(value)
    model.graph.output[1].name = "second"


REFUSED: dict[str, tuple[Change, dict[str, object], str]] = {
    "logits": (foreign_onnx.logits, {}, "'head' comes from node 'head' .Conv., .*--output-kind"),
    "logits as sigmoid": (
        foreign_onnx.logits,
        {"output_kind": OutputKind.SIGMOID},
        "said to be sigmoid and has values from .*; expected 0 to 1: state logits",
    ),
    "sigmoid as logits": (
        foreign_onnx.unchanged,
        {"output_kind": OutputKind.LOGITS},
        "'sigmoid' .Sigmoid.: sigmoid, and logits is stated; leave",
    ),
    "a quarter": (quarter_size, {}, "16x16 for images of 32x32|1x8x16x16 for images of 32x32"),
    "a threshold": (thresholded, {}, "bool 1x1x32x32: classes, no probabilities; .*ArgMax"),
    "four names for 21": (
        foreign_onnx.several(21),
        {"output_kind": OutputKind.SOFTMAX_LOGITS, "meant": Meant(classes=tuple("abcd"))},
        "'head' has 21 channels, and 4 names are given; expected one for each .--classes",
    ),
    "one name for four": (
        foreign_onnx.several(4),
        {"output_kind": OutputKind.LOGITS, "meant": Meant(classes=("cell",))},
        "has 4 channels, and 1 name is given",
    ),
    "300 classes": (
        foreign_onnx.several(300),
        {"output_kind": OutputKind.LOGITS},
        "300 classes of softmax; expected 2 to 255",
    ),
    "one of softmax": (one_of_softmax, {}, "1 channel of softmax; expected two or more, or one"),
    "labels of a contract of classes": (
        foreign_onnx.ended(foreign_onnx.several(4), "Sigmoid"),
        {"meant": Meant(activation=Activation.SOFTMAX, classes=tuple("abcd"))},
        "output 'Sigmoid' is sigmoid, the output contract says softmax; state the kind",
    ),
    "three of four": (three_of_four, {}, "from some classes of node 'Softmax' .*; state what"),
    "three of four as all": (
        three_of_four,
        {"output_kind": OutputKind.SOFTMAX},
        "3 channels of output 'objects' do not add up to 1",
    ),
    "labels as classes": (
        foreign_onnx.ended(foreign_onnx.several(4), "Sigmoid"),
        {"output_kind": OutputKind.SOFTMAX},
        "'Sigmoid' .Sigmoid.: sigmoid, and softmax is stated",
    ),
    "numbers as softmax": (
        foreign_onnx.class_numbers(foreign_onnx.several(4)),
        {"output_kind": OutputKind.SOFTMAX},
        "'Cast' comes from an ArgMax: argmax, and softmax is stated; leave",
    ),
    "no numbers": (
        foreign_onnx.several(4),
        {"output_kind": OutputKind.ARGMAX},
        "'head' comes from node 'head' .Conv., no ArgMax; state",
    ),
    "softmax of rows": (softmax_of_rows, {}, "do not add up to 1; expected a Softmax over"),
    "two inputs": (two_inputs, {}, "inputs .*'prompt'.; expected one image"),
    "no finite values": (infinite, {"output_kind": OutputKind.LOGITS}, "holds NaN or Inf"),
    "integers": (quantized, {}, "node .* computes in integers; expected the float network"),
    "opset 6": (too_old, {}, "written in opset 6; expected 7 or newer"),
    "no such output": (
        foreign_onnx.heads,
        {"output_name": "mask"},
        "no output 'mask'; it has probability .1x1x32x32., early mask",
    ),
    "features beside": (foreign_onnx.other_outputs, {}, "outputs low/Relu .*--output-name NAME"),
    "two heads of one depth": (alike, {}, "first .1x1x32x32., second .*--output-name NAME"),
    "any size": (foreign_onnx.sides_open, {}, "any size; .* --size HEIGHT WIDTH"),
    "another size": (foreign_onnx.unchanged, {"size": (64, 64)}, "32x32 .* says 64x64"),
    "fractions for pixels": (foreign_onnx.pixels, {}, "8-bit pixels .* --preprocess pixels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_one_line_with_the_way_out(
    name: str, ours: Path, images: SegmentationSet, tmp_path: Path
) -> None:
    change, options, message = REFUSED[name]
    model = onnx.load(ours)
    change(model)
    theirs, output = tmp_path / "theirs.onnx", tmp_path / "ours.onnx"
    onnx.save(model, theirs)
    with pytest.raises(InputError, match=message) as caught:
        adopt(theirs, output, preprocess="zero-one", images=images.samples, **options)  # type: ignore[arg-type]  # options of several types
    assert str(theirs) in str(caught.value)
    assert str(caught.value).isprintable()
    assert not output.exists()


def test_a_preset_has_the_channels_of_the_model(
    ours: Path, images: SegmentationSet, tmp_path: Path
) -> None:
    model = onnx.load(ours)
    grey(model)
    onnx.save(model, tmp_path / "theirs.onnx")
    found = adopt(
        tmp_path / "theirs.onnx",
        tmp_path / "ours.onnx",
        preprocess="zero-one",
        images=images.samples,
    )
    assert contract_of(found.artifact).channel_order == "GREY"
    with pytest.raises(InputError, match="values for 3 channels, the network takes 1"):
        adopt(
            tmp_path / "theirs.onnx",
            tmp_path / "ours.onnx",
            preprocess="imagenet",
            images=images.samples,
        )


def test_presets_are_told_by_name() -> None:
    with pytest.raises(UsageError, match=f"choose from {', '.join(PRESETS)}"):
        preset("torchvision", (32, 32))


@pytest.mark.parametrize(
    ("name", "black", "white"),
    [("published", -1, 1), ("zero-one", 0, 1), ("minus-one-one", -1, 1), ("pixels", 0, 255)],
)
def test_presets_are_what_their_names_say(name: str, black: float, white: float) -> None:
    ends = np.array([[[0] * 3, [255] * 3]], np.uint8)
    found = preset(name, (32, 32)).normalise(ends)
    np.testing.assert_allclose(found[:, 0], np.tile([black, white], (3, 1)), atol=1e-6)


def test_imagenet_is_what_torchvision_documents() -> None:
    """Red, green and blue of (x / 255 - mean) / std, in that order."""
    found = preset("imagenet", (32, 32)).normalise(np.array([[[255, 0, 51]]], np.uint8))
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(found[:, 0, 0], expected, rtol=1e-5)


NUMBERS: dict[str, tuple[Change, dict[str, object], str]] = {
    "of logits": (foreign_onnx.several(4), {}, "'head' of 'Cast', whose ArgMax is cut off, as log"),
    "of a softmax": (foreign_onnx.ended(foreign_onnx.several(4), "Softmax", axis=1), {}, "softmax"),
    "of labels": (foreign_onnx.ended(foreign_onnx.several(4), "Sigmoid"), {}, "'head' of 'Cast'"),
    "stated": (foreign_onnx.several(4), {"output_kind": OutputKind.ARGMAX}, "Softmax appended"),
    "of two": (foreign_onnx.two_channels, {}, "the second of two channels"),
}


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("name", NUMBERS)
def test_class_numbers_give_way_to_what_they_are_chosen_from(
    name: str, keepdims: int, ours: Path, images: SegmentationSet, tmp_path: Path
) -> None:
    change, options, note = NUMBERS[name]
    model = onnx.load(ours)
    foreign_onnx.class_numbers(change, keepdims=keepdims)(model)
    onnx.save(model, tmp_path / "theirs.onnx")
    result = adopt(
        tmp_path / "theirs.onnx",
        tmp_path / "ours.onnx",
        preprocess="zero-one",
        images=images.samples,
        **options,  # type: ignore[arg-type]  # options of several types
    )
    assert note in "; ".join(result.notes)
    assert result.changed == 0
    meant, contract = output_of(result.artifact), contract_of(result.artifact)
    for sample in images:
        image = contract.apply(sample.image())[None]
        theirs = run(tmp_path / "theirs.onnx", image)[0].reshape(1, SIDE, SIDE)
        found = run(result.artifact.path, image)[0]
        np.testing.assert_array_equal(meant.label_map(found), theirs)
        if meant.exclusive:
            np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_colours_and_the_ignored_index_travel_with_the_model(
    ours: Path, images: SegmentationSet, tmp_path: Path
) -> None:
    model = onnx.load(ours)
    foreign_onnx.several(3)(model)
    onnx.save(model, tmp_path / "theirs.onnx")
    colours = ((0, 0, 0), (255, 0, 0), (0, 255, 0))
    result = adopt(
        tmp_path / "theirs.onnx",
        tmp_path / "ours.onnx",
        preprocess="zero-one",
        images=images.samples,
        output_kind=OutputKind.LOGITS,
        meant=Meant(classes=("ground", "cell", "wall"), colours=colours, ignored_index=255),
    )
    assert output_of(result.artifact) == OutputContract(
        activation=Activation.SOFTMAX,
        classes=("ground", "cell", "wall"),
        colours=colours,
        ignored_index=255,
    )
