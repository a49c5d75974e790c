"""Random small graphs as other exporters write them: layers in any order over an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE = 16


@dataclass
class Sketch:
    """A graph being drawn: float tensors (n, c, h, w), the newest last, and what they are read by.

    Attributes:
        choice: of numbers, so that one seed gives one graph.
        opset: it is written in.
        nodes: in order.
        stored: initialisers.
        shapes: (c, h, w) of each tensor that a later layer may read.
        count: of names given.
        batch: 1, or the name of an axis.
        nameless: whether nodes lack names or share them.
    """

    choice: np.random.Generator
    opset: int = 18
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    stored: list[TensorProto] = field(default_factory=list)
    shapes: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    count: int = 0
    batch: int | str = 1
    nameless: bool = False

    @property
    def last(self) -> str:
        """The newest tensor."""
        return list(self.shapes)[-1]

    def name(self) -> str:
        """A new name for a tensor."""
        self.count += 1
        return f"t{self.count}"

    def constant(self, values: NDArray[np.generic] | list[int]) -> str:
        """A constant: an initialiser, a node, or an Identity of either."""
        name = self.name()
        array = np.asarray(values)
        form = self.choice.integers(4)
        if form == 0:
            tensor = numpy_helper.from_array(array)
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.stored.append(numpy_helper.from_array(array, name))
        if form == 1:
            copy = self.name()
            self.nodes.append(helper.make_node("Identity", [name], [copy]))
            return copy
        return name

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        """A node; some have no name, some have one that others have, too."""
        made = [self.name() for _ in range(outputs)]
        called = ["", "layer", made[0]][self.choice.integers(3)] if self.nameless else made[0]
        node = helper.make_node(operator, list(inputs), made, name=called, **attributes)
        self.nodes.append(node)
        return made[0]

    def keep(self, name: str, shape: tuple[int, int, int]) -> None:
        """A tensor that later layers may read; none is too large."""
        if np.prod(shape) <= 1 << 14:
            self.shapes[name] = shape

    def normal(self, *shape: int) -> NDArray[np.float32]:
        """Random weights."""
        scale = 1 / np.sqrt(np.prod(shape[1:], initial=1))
        return self.choice.normal(0, scale, shape).astype(np.float32)


Layer = Callable[[Sketch], None]


def conv(s: Sketch) -> None:
    """A convolution with or without bias, over groups or not."""
    x, (c, h, w) = s.last, s.shapes[s.last]
    groups = c if s.choice.integers(4) == 0 else 1
    out = c * int(s.choice.integers(1, 3)) if groups > 1 else int(s.choice.integers(1, 7))
    inputs = [x, s.constant(s.normal(out, c // groups, 3, 3))]
    if s.choice.integers(2):
        inputs.append(s.constant(s.normal(out)))
    made = s.add("Conv", *inputs, pads=[1] * 4, kernel_shape=[3, 3], group=groups)
    if s.choice.integers(2):
        made = s.add("Relu", made)
    s.keep(made, (out, h, w))


def shared_conv(s: Sketch) -> None:
    """One convolution used twice."""
    x, (c, h, w) = s.last, s.shapes[s.last]
    weight, bias = s.constant(s.normal(c, c, 1, 1)), s.constant(s.normal(c))
    made = s.add("Relu", s.add("Conv", x, weight, bias))
    s.keep(s.add("Conv", s.add("Add", x, made), weight, bias), (c, h, w))


def computed_weight(s: Sketch) -> None:
    """A convolution whose weight depends on the image."""
    x, (c, h, w) = s.last, s.shapes[s.last]
    scale = s.add("ReduceMean", x, keepdims=0) if s.opset >= 18 else s.constant(np.float32(1))
    weight = s.add("Mul", s.constant(s.normal(2, c, 1, 1)), scale)
    s.keep(s.add("Conv", x, weight), (2, h, w))


def strided(s: Sketch) -> None:
    """A convolution of stride 2, or a pooling."""
    x, (c, h, w) = s.last, s.shapes[s.last]
    if min(h, w) < 4:
        return
    kind = s.choice.integers(3)
    if kind == 0:
        made = s.add("Conv", x, s.constant(s.normal(c, c, 2, 2)), strides=[2, 2])
    else:
        operator = ("MaxPool", "AveragePool")[kind - 1]
        made = s.add(operator, x, kernel_shape=[2, 2], strides=[2, 2])
    s.keep(made, (c, h // 2, w // 2))


def indexed_pool(s: Sketch) -> None:
    """A MaxPool that gives the places, too."""
    x, (c, h, w) = s.last, s.shapes[s.last]
    made = s.add("MaxPool", x, outputs=2, kernel_shape=[3, 3], pads=[1] * 4)
    s.keep(made, (c, h, w))


def resized(s: Sketch) -> None:
    """Twice the size, by a factor or by a size that may be computed."""
    x, (c, h, w) = s.last, s.shapes[s.last]
    mode = ("nearest", "linear", "cubic")[s.choice.integers(3)]
    by = s.choice.integers(3)
    if by == 0:
        inputs = [x, "", s.constant(np.array([1, 1, 2, 2], np.float32))]
    elif by == 1:
        inputs = [x, "", "", s.constant([1, c, 2 * h, 2 * w])]
    else:
        shape = s.add("Shape", x)
        both = s.constant([0, 1])
        ends = s.constant([2, 3])
        lead = s.add("Gather", shape, both)
        twice = s.add("Mul", s.add("Gather", shape, ends), s.constant([2, 2]))
        inputs = [x, "", "", s.add("Concat", lead, twice, axis=0)]
    s.keep(s.add("Resize", *inputs, mode=mode), (c, 2 * h, 2 * w))


def pointwise(s: Sketch) -> None:
    """An operator on each value."""
    x = s.last
    operator = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Identity", "Abs", "Softplus")[
        s.choice.integers(8)
    ]
    s.keep(s.add(operator, x), s.shapes[x])


def with_constant(s: Sketch) -> None:
    """A sum, product or quotient with a constant of any shape that fits."""
    x, (c, h, w) = s.last, s.shapes[s.last]
    form = [(), (1,), (c, 1, 1), (1, c, 1, 1), (h, w), (1, c, h, w)][s.choice.integers(6)]
    operator = ("Add", "Mul", "Sub", "Div", "Max")[s.choice.integers(5)]
    values = s.choice.uniform(0.5, 2, form).astype(np.float32)
    if operator == "Add" and s.choice.integers(6) == 0:
        values = np.zeros(form, np.float32)
    inputs = [x, s.constant(values)]
    if s.choice.integers(2):
        inputs.reverse()
    s.keep(s.add(operator, *inputs), s.shapes[x])


def masked(s: Sketch) -> None:
    """A sum with minus infinity, and the Softmax that takes it."""
    x, (c, h, w) = s.last, s.shapes[s.last]
    values = np.zeros((1, 1, h, w), np.float32)
    values[..., -1] = -np.inf
    s.keep(s.add("Softmax", s.add("Add", x, s.constant(values)), axis=3), (c, h, w))


def summed(s: Sketch) -> None:
    """The sum of two tensors of one shape."""
    x = s.last
    alike = [name for name, shape in s.shapes.items() if shape == s.shapes[x]]
    s.keep(s.add("Add", x, alike[s.choice.integers(len(alike))]), s.shapes[x])


def joined(s: Sketch) -> None:
    """Several tensors of one size, a constant among them or the same one twice."""
    x, (c, h, w) = s.last, s.shapes[s.last]
    alike = [name for name, shape in s.shapes.items() if shape[1:] == (h, w)]
    parts = [x, alike[s.choice.integers(len(alike))]]
    channels = c + s.shapes[parts[1]][0]
    if s.choice.integers(2) and s.batch == 1:
        parts.append(s.constant(s.normal(1, 2, h, w)))
        channels += 2
    s.keep(s.add("Concat", *parts, axis=1), (channels, h, w))


def windows(s: Sketch) -> None:
    """Windows of the image in front instead of the batch, attended to and put back."""
    x, (c, h, w) = s.last, s.shapes[s.last]
    if h % 4 or w % 4 or s.batch != 1:
        return
    split = s.add("Reshape", x, s.constant([1, c, h // 4, 4, w // 4, 4]))
    turned = s.add("Transpose", split, perm=[0, 2, 4, 3, 5, 1])
    rows = s.add("Reshape", turned, s.constant([h * w // 16, 16, c]))
    seen = s.add("Add", rows, s.add("MatMul", rows, s.constant(s.normal(c, c))))
    back = s.add("Reshape", seen, s.constant([1, h // 4, w // 4, 4, 4, c]))
    turned = s.add("Transpose", back, perm=[0, 5, 1, 3, 2, 4])
    s.keep(s.add("Reshape", turned, s.constant([1, c, h, w])), (c, h, w))


def squeezed(s: Sketch) -> None:
    """Channels weighed by what a pooling of the whole image says of them."""
    x, (c, h, w) = s.last, s.shapes[s.last]
    pooled = s.add("GlobalAveragePool", x)
    inner = s.add("Conv", pooled, s.constant(s.normal(c, c, 1, 1)), s.constant(s.normal(c)))
    s.keep(s.add("Mul", x, s.add("Sigmoid", inner)), (c, h, w))


def normed(s: Sketch) -> None:
    """A BatchNormalization, or an InstanceNormalization."""
    x, (c, h, w) = s.last, s.shapes[s.last]
    ones, zeros = s.constant(np.ones(c, np.float32)), s.constant(np.zeros(c, np.float32))
    if s.choice.integers(2):
        s.keep(s.add("BatchNormalization", x, ones, zeros, zeros, ones), (c, h, w))
    else:
        s.keep(s.add("InstanceNormalization", x, ones, zeros), (c, h, w))


def through_integers(s: Sketch) -> None:
    """Values as int32 or float64 and back."""
    x = s.last
    element = (TensorProto.INT32, TensorProto.DOUBLE)[s.choice.integers(2)]
    cast = s.add("Cast", x, to=element)
    cast = s.add("Add", cast, cast)
    s.keep(s.add("Cast", cast, to=TensorProto.FLOAT), s.shapes[x])


def rearranged(s: Sketch) -> None:
    """Channels to places, or the other way round."""
    x, (c, h, w) = s.last, s.shapes[s.last]
    if c % 4 == 0:
        s.keep(s.add("DepthToSpace", x, blocksize=2), (c // 4, 2 * h, 2 * w))
    elif h % 2 == w % 2 == 0:
        s.keep(s.add("SpaceToDepth", x, blocksize=2), (4 * c, h // 2, w // 2))


def cut(s: Sketch) -> None:
    """The first channel, twice."""
    x, (_, h, w) = s.last, s.shapes[s.last]
    first = s.add("Slice", x, s.constant([0]), s.constant([1]), s.constant([1]))
    s.keep(s.add("Concat", first, first, axis=1), (2, h, w))


def transposed_conv(s: Sketch) -> None:
    """A transposed convolution."""
    x, (c, h, w) = s.last, s.shapes[s.last]
    weight = s.constant(s.normal(c, 2, 2, 2))
    s.keep(s.add("ConvTranspose", x, weight, strides=[2, 2]), (2, 2 * h, 2 * w))


def gate(s: Sketch) -> None:
    """Channels weighed by what the whole image says, or a tensor by its own Sigmoid."""
    x, (c, h, w) = s.last, s.shapes[s.last]
    if s.choice.integers(2):
        s.keep(s.add("Mul", s.add("Sigmoid", x), x), (c, h, w))
        return
    pooled = s.add("GlobalAveragePool", x)
    weight = s.add("Conv", pooled, s.constant(s.normal(c, c, 1, 1)), s.constant(s.normal(c)))
    hard = "HardSigmoid" if s.choice.integers(2) else "Sigmoid"
    s.keep(s.add("Mul", x, s.add(hard, weight)), (c, h, w))


def lobed(s: Sketch) -> None:
    """A convolution, and an activation that leaves some of what is negative."""
    x, (c, h, w) = s.last, s.shapes[s.last]
    made = s.add("Conv", x, s.constant(s.normal(c, c, 1, 1)), s.constant(s.normal(c)))
    operator = ("LeakyRelu", "HardSwish", "PRelu", "Clip")[s.choice.integers(4)]
    held = {
        "PRelu": [s.constant(np.full((c, 1, 1), 0.2, np.float32))],
        "Clip": [s.constant(np.float32(-0.5)), s.constant(np.float32(2))],
    }
    s.keep(s.add(operator, made, *held.get(operator, [])), (c, h, w))


def tokens(s: Sketch) -> None:
    """A matrix product over the channels of every pixel, as transformers have."""
    x, (c, h, w) = s.last, s.shapes[s.last]
    rows = s.add("Transpose", s.add("Reshape", x, s.constant([0, c, h * w])), perm=[0, 2, 1])
    made = s.add("MatMul", rows, s.constant(s.normal(c, c)))
    if s.choice.integers(2):
        made = s.add("Add", made, s.constant(s.normal(c)))
    back = s.add("Transpose", made, perm=[0, 2, 1])
    s.keep(s.add("Reshape", back, s.constant([0, c, h, w])), (c, h, w))


def all_constant(s: Sketch) -> None:
    """A part of the graph that no image reaches, joined to it."""
    x, (c, h, w) = s.last, s.shapes[s.last]
    weight = s.constant(s.normal(c, 2, 1, 1))
    still = s.add("Conv", s.constant(s.normal(1, 2, h, w)), weight)
    still = s.add("MaxPool", still, kernel_shape=[1, 1])
    s.keep(s.add("Add", x, still), (c, h, w))


def dropped(s: Sketch) -> None:
    """A Dropout that is not active, padding that is cut off again."""
    x, (c, h, w) = s.last, s.shapes[s.last]
    made = s.add("Dropout", x)
    made = s.add("Pad", made, s.constant([0, 0, 1, 1, 0, 0, 1, 1]), mode="reflect")
    ends = s.constant([1, 1]), s.constant([h + 1, w + 1]), s.constant([2, 3])
    s.keep(s.add("Slice", made, *ends), (c, h, w))


LAYERS: tuple[Layer, ...] = (
    conv,
    shared_conv,
    computed_weight,
    strided,
    indexed_pool,
    resized,
    pointwise,
    with_constant,
    masked,
    summed,
    joined,
    windows,
    squeezed,
    normed,
    through_integers,
    rearranged,
    cut,
    transposed_conv,
    gate,
    lobed,
    tokens,
    all_constant,
    dropped,
)


def random_model(
    layers: list[Layer],
    *,
    seed: int,
    batch: int | str = 1,
    channels: int = 3,
    classes: int = 1,
    sides_open: bool = False,
) -> onnx.ModelProto:
    """A graph of these layers, brought to the classes and the size of its image at the end.

    Args:
        layers: in this order.
        seed: of weights, forms of constants and all other choices.
        batch: 1, or the name of an axis.
        channels: of the image.
        classes: channels of the output; several are labels or exclude each other.
        sides_open: whether height and width have names instead of lengths.
    """
    s = Sketch(np.random.default_rng(seed), batch=batch, nameless=bool(seed % 2))
    s.shapes["image"] = (channels, SIDE, SIDE)
    for layer in layers:
        layer(s)
    x, (c, h, w) = s.last, s.shapes[s.last]
    if (h, w) != (SIDE, SIDE):
        factors = np.array([1, 1, SIDE / h, SIDE / w], np.float32)
        x = s.add("Resize", x, "", s.constant(factors), mode="linear")
    logits = s.add("Conv", x, s.constant(s.normal(classes, c, 1, 1)), s.constant(s.normal(classes)))
    if classes > 1 and s.choice.integers(2):
        probability = s.add("Softmax", logits, axis=1)
    else:
        probability = s.add("Sigmoid", logits)
    sides = ["h", "w"] if sides_open else [SIDE, SIDE]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, count, *sides])
        for name, count in (("image", channels), (probability, classes))
    ]
    graph = helper.make_graph(s.nodes, "drawn", ends[:1], ends[1:], s.stored)
    opsets = [helper.make_opsetid("", s.opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def write_random(path: Path, layers: list[Layer], *, seed: int, **form: Any) -> Path:
    """``random_model`` in a file."""
    path.write_bytes(random_model(layers, seed=seed, **form).SerializeToString())
    return path
