"""ONNX files as other exporters write them, each made from a small network of ours by a change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from segdeploy.deploy.adoption.output_end import Meant

Change = Callable[[onnx.ModelProto], None]
Array = NDArray[np.generic]

SIDE = 32


@dataclass(frozen=True)
class Foreign:
    """A network of another exporter, and how a test feeds it and reads it by hand.

    Attributes:
        change: makes it of a network of ours, in place.
        fed: from our image (1, 3, h, w) to what it takes.
        read: from its outputs to the probability (h, w), or (classes, h, w).
        preset: the contract's name.
        options: what must be stated to adopt it.
        notes: what adopting says of it.
        tolerance: of a probability.
        classes: their names.
        exclusive: whether they exclude each other.
        save: how the file is written.
    """

    change: Change
    fed: Callable[[NDArray[np.float32]], Array] = lambda image: image
    read: Callable[[list[Array]], Array] = lambda outputs: outputs[0][0, 0]
    preset: str = "zero-one"
    options: dict[str, object] | None = None
    notes: str = ""
    tolerance: float = 1e-5
    classes: tuple[str, ...] = ("foreground",)
    exclusive: bool = False
    save: Callable[[onnx.ModelProto, Path], None] = lambda model, path: onnx.save(model, path)


def foreign(name: str, ours: Path, path: Path) -> Path:
    """Write one of ``FOREIGN`` from a network of ours."""
    model = onnx.load(ours)
    del model.metadata_props[:]
    FOREIGN[name].change(model)
    FOREIGN[name].save(model, path)
    return path


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """A node by its name."""
    return next(found for found in model.graph.node if found.name == name)


def store(model: onnx.ModelProto, name: str, value: Array) -> None:
    """One more constant."""
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def replaced(model: onnx.ModelProto, name: str, change: Callable[[Array], Array]) -> None:
    """Another value for a constant."""
    tensor = next(found for found in model.graph.initializer if found.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))


def ends(model: onnx.ModelProto, **values: tuple[int, list[int | str]]) -> None:
    """Other inputs and outputs, by name: type and shape; the first is the input."""
    made = [helper.make_tensor_value_info(name, *form) for name, form in values.items()]
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.extend(made[:1])
    model.graph.output.extend(made[1:])


def unchanged(model: onnx.ModelProto) -> None:
    """Ours without metadata."""


def logits(model: onnx.ModelProto) -> None:
    """Without the Sigmoid."""
    model.graph.node.remove(node(model, "sigmoid"))
    model.graph.output[0].name = "head"


def two_channels(model: onnx.ModelProto) -> None:
    """Background and foreground, as logits."""
    logits(model)
    replaced(model, "head.weight", lambda w: np.concatenate([-0.3 * w, w]))
    replaced(model, "head.bias", lambda b: np.concatenate([b + 0.1, b]))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2


def softmax(model: onnx.ModelProto) -> None:
    """Background and foreground, as probabilities."""
    two_channels(model)
    model.graph.node.append(helper.make_node("Softmax", ["head"], ["both classes"], axis=1))
    model.graph.output[0].name = "both classes"


def several(count: int) -> Change:
    """Logits of several channels."""

    def change(model: onnx.ModelProto) -> None:
        logits(model)
        turn = np.linspace(-1, 1, count, dtype=np.float32)
        replaced(model, "head.weight", lambda w: np.concatenate([w * t for t in turn]))
        replaced(model, "head.bias", lambda b: np.concatenate([b * t - t * t for t in turn]))
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = count

    return change


def ended(change: Change, operator: str, **attributes: object) -> Change:
    """Another network with one more operator, whose values are float."""

    def changed(model: onnx.ModelProto) -> None:
        change(model)
        source = model.graph.output[0].name
        made = helper.make_node(operator, [source], [operator], name=operator, **attributes)
        model.graph.node.append(made)
        model.graph.output[0].name = operator

    return changed


def class_numbers(change: Change, *, axis: int = 1, keepdims: int = 0) -> Change:
    """Another network with an ArgMax behind it, and 8-bit class numbers."""

    def changed(model: onnx.ModelProto) -> None:
        ended(ended(change, "ArgMax", axis=axis, keepdims=keepdims), "Cast", to=TensorProto.UINT8)(
            model
        )
        shape: list[int | str] = ["n", SIDE, SIDE]
        if keepdims:
            shape.insert(axis, 1)
        model.graph.output[0].CopyFrom(
            helper.make_tensor_value_info("Cast", TensorProto.UINT8, shape)
        )

    return changed


def channels_last_of_four(model: onnx.ModelProto) -> None:
    """Four classes behind height and width, as TensorFlow has them."""
    ended(several(4), "Transpose", perm=[0, 2, 3, 1])(model)
    form = helper.make_tensor_value_info("Transpose", TensorProto.FLOAT, ["n", SIDE, SIDE, 4])
    model.graph.output[0].CopyFrom(form)


def foreground_of_softmax(model: onnx.ModelProto) -> None:
    """The foreground, taken out of a Softmax."""
    softmax(model)
    store(model, "one", np.array([1]))
    taken = helper.make_node("Gather", ["both classes", "one"], ["nuclei"], axis=1)
    model.graph.node.append(taken)
    model.graph.output[0].name = "nuclei"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1


def sides_open(model: onnx.ModelProto) -> None:
    """Height and width by names, as an export with dynamic axes has them."""
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim[2:], ("h", "w"), strict=True):
            axis.dim_param = name


def channels_last(model: onnx.ModelProto) -> None:
    """Images and masks with their channels behind, as TensorFlow has them."""
    node(model, "high").input[0] = "turned"
    node(model, "sigmoid").output[0] = "before"
    first = helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2])
    model.graph.node.insert(0, first)
    last = helper.make_node("Transpose", ["before"], ["mask"], perm=[0, 2, 3, 1])
    model.graph.node.append(last)
    kind = TensorProto.FLOAT
    ends(model, image=(kind, ["n", SIDE, SIDE, 3]), mask=(kind, ["n", SIDE, SIDE, 1]))


def no_channels(model: onnx.ModelProto) -> None:
    """A mask without an axis of channels."""
    node(model, "sigmoid").output[0] = "before"
    store(model, "axis", np.array([1]))
    model.graph.node.append(helper.make_node("Squeeze", ["before", "axis"], ["mask"]))
    kind = TensorProto.FLOAT
    ends(model, image=(kind, ["n", 3, SIDE, SIDE]), mask=(kind, ["n", SIDE, SIDE]))


def pixels(model: onnx.ModelProto) -> None:
    """8-bit images, normalised in the graph."""
    store(model, "scale", np.float32(1 / 255))
    node(model, "high").input[0] = "normal"
    cast = helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT)
    model.graph.node.insert(0, cast)
    model.graph.node.insert(1, helper.make_node("Mul", ["real", "scale"], ["normal"]))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def half(model: onnx.ModelProto) -> None:
    """fp16 from end to end."""
    for tensor in [*model.graph.initializer]:
        if tensor.name != "scales":
            replaced(model, tensor.name, lambda value: value.astype(np.float16))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16


def half_ends(model: onnx.ModelProto) -> None:
    """fp16 at the ends and float32 between."""
    node(model, "high").input[0] = "wide"
    node(model, "sigmoid").output[0] = "before"
    wide = helper.make_node("Cast", ["image"], ["wide"], to=TensorProto.FLOAT)
    model.graph.node.insert(0, wide)
    narrow = helper.make_node("Cast", ["before"], ["probability"], to=TensorProto.FLOAT16)
    model.graph.node.append(narrow)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16


def heads(model: onnx.ModelProto) -> None:
    """Two heads, the deeper one first."""
    store(model, "early.weight", np.full((1, 4, 1, 1), 0.1, np.float32))
    early = helper.make_node("Conv", ["high/Relu", "early.weight"], ["early"], name="early")
    model.graph.node.append(early)
    model.graph.node.append(helper.make_node("Sigmoid", ["early"], ["early mask"]))
    second = helper.make_tensor_value_info("early mask", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])
    model.graph.output.append(second)


def other_outputs(model: onnx.ModelProto) -> None:
    """A mask beside features."""
    value = helper.make_tensor_value_info("low/Relu", TensorProto.FLOAT, ["n", 8, 16, 16])
    model.graph.output.insert(0, value)


def before_head(model: onnx.ModelProto, operator: str, *constants: str) -> None:
    """One more operator between the body and the head."""
    node(model, "head").input[0] = "between"
    place = [each.name for each in model.graph.node].index("head")
    between = helper.make_node(operator, ["merge/Relu", *constants], ["between"])
    model.graph.node.insert(place, between)


def one_image(model: onnx.ModelProto) -> None:
    """The first of a batch alone."""
    for name, value in (("from", 0), ("to", 1), ("on", 0)):
        store(model, name, np.array([value]))
    before_head(model, "Slice", "from", "to", "on")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1


def traced_with_one(model: onnx.ModelProto) -> None:
    """The batch it was traced with, in a Reshape and a Resize."""
    store(model, "form", np.array([1, 4, SIDE, SIDE]))
    before_head(model, "Reshape", "form")
    store(model, "sizes", np.array([1, 8, SIDE, SIDE]))
    node(model, "up").input[:] = ["low/Relu", "", "", "sizes"]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1


def sizes_computed(model: onnx.ModelProto) -> None:
    """Any batch, height and width, computed while it runs, as the exporter of before writes it."""
    sides_open(model)
    for name, values in (("lead", [0, 1]), ("sides", [2, 3])):
        store(model, name, np.array(values))
    made = [
        helper.make_node("Shape", ["low/Relu"], ["small"]),
        helper.make_node("Gather", ["small", "lead"], ["same"]),
        helper.make_node("Shape", ["high/Relu"], ["large"]),
        helper.make_node("Gather", ["large", "sides"], ["wanted"]),
        helper.make_node("Concat", ["same", "wanted"], ["sizes"], axis=0),
    ]
    place = [each.name for each in model.graph.node].index("up")
    for offset, each in enumerate(made):
        model.graph.node.insert(place + offset, each)
    node(model, "up").input[:] = ["low/Relu", "", "", "sizes"]


def batch_of_4(model: onnx.ModelProto) -> None:
    """A batch that is fixed at the ends alone."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4


def our_names_inside(model: onnx.ModelProto) -> None:
    """Tensors called as our ends, the other way round, and a comma in a layer's name."""
    names = {"image": "probability", "probability": "image", "head": "head,1"}
    for value in (*model.graph.input, *model.graph.output):
        value.name = names[value.name]
    for each in model.graph.node:
        each.input[:] = [names.get(name, name) for name in each.input]
        each.output[:] = [names.get(name, name) for name in each.output]
    node(model, "head").name = "head,1"


def functions(model: onnx.ModelProto) -> None:
    """A function that calls another, as today's exporter of PyTorch writes them."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("lib", 1)]
    relu = [helper.make_node("Relu", ["a"], ["b"])]
    twice = [
        helper.make_node("act", ["a"], ["b"], domain="lib"),
        helper.make_node("act", ["b"], ["c"], domain="lib"),
    ]
    model.functions.append(helper.make_function("lib", "act", ["a"], ["b"], relu, opsets[:1]))
    model.functions.append(helper.make_function("lib", "twice", ["a"], ["c"], twice, opsets))
    model.opset_import.add(domain="lib", version=1)
    for name in ("high/Relu", "low/Relu"):
        found = node(model, name)
        found.op_type, found.domain = "twice", "lib"


def old(opset: int) -> Change:
    """An older opset, where what is Resize now is Upsample below 10."""

    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = opset
        model.ir_version = 4
        up = node(model, "up")
        del up.attribute[:]
        if opset < 10:
            up.op_type = "Upsample"
            if opset < 9:
                up.attribute.append(helper.make_attribute("scales", [1.0, 1.0, 2.0, 2.0]))
                up.input[:] = ["low/Relu"]
            else:
                up.input[:] = ["low/Relu", "scales"]
        elif opset == 10:
            up.input[:] = ["low/Relu", "scales"]
        else:
            store(model, "roi", np.zeros(0, np.float32))
            up.input[:] = ["low/Relu", "roi", "scales"]

    return change


def beside(model: onnx.ModelProto, path: Path) -> None:
    """All weights in a file beside the model."""
    onnx.save(
        model,
        path,
        save_as_external_data=True,
        location=f"{path.name}.data",
        size_threshold=0,
    )


def _sigmoid(values: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-values.astype(np.float64))))


def _second(values: Array) -> Array:
    return _sigmoid(values[1].astype(np.float64) - values[0])


def _softmax(values: Array) -> Array:
    powers = np.exp(values.astype(np.float64))
    return np.asarray(powers / powers.sum(axis=0))


_TURN = (0, 2, 3, 1)
FOUR = tuple(f"class {k}" for k in range(4))

FOREIGN: dict[str, Foreign] = {
    "no metadata": Foreign(unchanged),
    "weights beside": Foreign(unchanged, save=beside),
    "functions": Foreign(functions),
    "functions, weights beside": Foreign(functions, save=beside),
    "logits": Foreign(
        logits,
        read=lambda outputs: _sigmoid(outputs[0][0, 0]),
        options={"output_kind": "logits"},
        notes="as logits",
    ),
    "softmax": Foreign(softmax, read=lambda outputs: outputs[0][0, 1], notes="as softmax"),
    "logits of two": Foreign(
        two_channels,
        read=lambda outputs: _second(outputs[0][0]),
        options={"output_kind": "logits"},
    ),
    "softmax, both classes named": Foreign(
        softmax,
        read=lambda outputs: outputs[0][0],
        options={"meant": Meant(classes=("ground", "cell"))},
        classes=("ground", "cell"),
        exclusive=True,
    ),
    "four classes": Foreign(
        ended(several(4), "Softmax", axis=1),
        read=lambda outputs: outputs[0][0],
        notes="as softmax",
        classes=FOUR,
        exclusive=True,
    ),
    "logits of four": Foreign(
        several(4),
        read=lambda outputs: _softmax(outputs[0][0]),
        options={"output_kind": "logits"},
        notes="as logits, Softmax appended",
        classes=FOUR,
        exclusive=True,
    ),
    "logarithms of four": Foreign(
        ended(several(4), "LogSoftmax", axis=1),
        read=lambda outputs: np.exp(outputs[0][0].astype(np.float64)),
        notes="as logits, Softmax appended",
        classes=FOUR,
        exclusive=True,
    ),
    "logits of four labels": Foreign(
        several(4),
        read=lambda outputs: _sigmoid(outputs[0][0]),
        options={"output_kind": "sigmoid-logits", "meant": Meant(classes=tuple("abcd"))},
        notes="as logits, Sigmoid appended",
        classes=tuple("abcd"),
    ),
    "four labels": Foreign(
        ended(several(4), "Sigmoid"),
        read=lambda outputs: outputs[0][0],
        classes=tuple(f"label {k}" for k in range(4)),
    ),
    "channels last of four": Foreign(
        ended(channels_last_of_four, "Softmax", axis=3),
        read=lambda outputs: outputs[0][0].transpose(2, 0, 1),
        classes=FOUR,
        exclusive=True,
    ),
    "foreground of softmax": Foreign(foreground_of_softmax),
    "any size": Foreign(sides_open, options={"size": (SIDE, SIDE)}),
    "channels last": Foreign(
        channels_last,
        fed=lambda image: image.transpose(_TURN),
        read=lambda outputs: outputs[0][0, ..., 0],
        notes="channels last",
    ),
    "no channels": Foreign(no_channels, read=lambda outputs: outputs[0][0]),
    "pixels": Foreign(pixels, fed=lambda image: image.astype(np.uint8), preset="pixels"),
    "fp16": Foreign(
        half, fed=lambda image: image.astype(np.float16), notes="widened", tolerance=2e-2
    ),
    "fp16 ends": Foreign(
        half_ends, fed=lambda image: image.astype(np.float16), notes="widened", tolerance=2e-2
    ),
    "two heads": Foreign(heads, notes="'probability'"),
    "the other head": Foreign(
        heads, read=lambda outputs: outputs[1][0, 0], options={"output_name": "early mask"}
    ),
    "features beside": Foreign(
        other_outputs,
        read=lambda outputs: outputs[1][0, 0],
        options={"output_name": "probability"},
    ),
    "one image": Foreign(one_image, notes="one image at a time"),
    "traced with one": Foreign(traced_with_one),
    "sizes computed": Foreign(sizes_computed, options={"size": (SIDE, SIDE)}),
    "batch of 4": Foreign(batch_of_4, fed=lambda image: np.repeat(image, 4, axis=0)),
    "our names inside": Foreign(our_names_inside),
    **{f"opset {n}": Foreign(old(n), notes=f"opset {n} raised") for n in (7, 8, 9, 10, 11, 12)},
}
