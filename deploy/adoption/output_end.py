"""What a foreign model gives: which output, its layout, and how it becomes probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import onnx
from numpy.typing import NDArray

from segdeploy.deploy.adoption.input_end import FLOATS
from segdeploy.deploy.data.output_contract import Activation, Colour, OutputContract
from segdeploy.deploy.onnx_model.graph import GraphIndex
from segdeploy.deploy.onnx_model.output_check import Ending, ending_of
from segdeploy.deploy.system.errors import InputError, one_line

CLASS_NAME = "foreground"
"""Of a network of one class that nobody named."""

FOREGROUND = 1
"""Channel of the foreground where there are two; the background comes first."""

PASSES_ON = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that leave values as they are."""

SUM_TOLERANCE = 1e-2
"""How far the probabilities of a pixel may be from a sum of 1; fp16 rounds them."""


class OutputKind(str, Enum):
    """What the values of an output mean."""

    SIGMOID = "sigmoid"
    """Probabilities of labels, each channel one of its own."""
    SOFTMAX = "softmax"
    """Probabilities of classes that exclude each other, two channels or more."""
    SIGMOID_LOGITS = "sigmoid-logits"
    """What a Sigmoid makes probabilities of."""
    SOFTMAX_LOGITS = "softmax-logits"
    """What a Softmax over the channels makes probabilities of."""
    LOGITS = "logits"
    """The latter where there are several channels, the former where there is one."""
    ARGMAX = "argmax"
    """The number of each pixel's class; what it is chosen from is in the graph."""

    @property
    def activation(self) -> Activation:
        """How the channels of probabilities go together."""
        labels = self in (OutputKind.SIGMOID, OutputKind.SIGMOID_LOGITS)
        return Activation.SIGMOID if labels else Activation.SOFTMAX

    @property
    def appended(self) -> Activation | None:
        """What is still to be applied."""
        return self.activation if self in LOGITS else None


LOGITS = frozenset({OutputKind.SIGMOID_LOGITS, OutputKind.SOFTMAX_LOGITS})

_OPERATORS = {Activation.SIGMOID: "Sigmoid", Activation.SOFTMAX: "Softmax"}


@dataclass(frozen=True, kw_only=True)
class Meant:
    """What is stated of an output's classes.

    Attributes:
        activation: how they go together; ``None`` where the output tells.
        classes: their names, in the order of the channels. ``None`` numbers them, and takes of two
            that exclude each other the foreground alone; so does one name.
        colours: of the classes; ``None`` takes ours.
        ignored_index: value of a label map whose pixels count nowhere.
    """

    activation: Activation | None = None
    classes: tuple[str, ...] | None = None
    colours: tuple[Colour, ...] | None = None
    ignored_index: int | None = None

    def logits(self, channels: int) -> OutputKind:
        """Which logits an output holds where nothing more is said of them."""
        natural = Activation.SIGMOID if channels == 1 else Activation.SOFTMAX
        softmax = (self.activation or natural) is Activation.SOFTMAX
        return OutputKind.SOFTMAX_LOGITS if softmax else OutputKind.SIGMOID_LOGITS

    def contract(self, output: str, activation: Activation, channels: int) -> OutputContract:
        """That of the probabilities.

        Args:
            output: its name, for the error message.
            activation: how its channels go together.
            channels: of the output.

        Raises:
            InputError: names of another number than channels, or another activation.
        """
        names = self.classes
        if activation is Activation.SOFTMAX and channels == 2 and len(names or "-") == 1:
            activation, channels = Activation.SIGMOID, 1
        if self.activation not in (None, activation):
            raise InputError(
                f"output {output!r} is {activation.value}, the output contract says "
                f"{self.activation.value if self.activation else ''}; state the kind "
                "(--output-kind) or another contract"
            )
        if names is None:
            kind = "class" if activation is Activation.SOFTMAX else "label"
            names = tuple(f"{kind} {k}" for k in range(channels)) if channels > 1 else (CLASS_NAME,)
        if len(names) != channels:
            raise InputError(
                f"output {output!r} has {channels} channel{'s' * (channels > 1)}, and "
                f"{len(names)} {'name is' if len(names) == 1 else 'names are'} given; expected one "
                "for each (--classes)"
            )
        return OutputContract(
            activation=activation,
            classes=names,
            colours=self.colours,
            ignored_index=self.ignored_index,
        )


UNSAID = Meant()


class Layout(str, Enum):
    """The axes of an output."""

    CHANNELS_FIRST = "NCHW"
    CHANNELS_LAST = "NHWC"
    NO_CHANNELS = "NHW"


@dataclass(frozen=True, kw_only=True)
class OutputEnd:
    """The output that becomes probabilities.

    Attributes:
        name: of the tensor whose values count; with class numbers, what these are chosen from.
        dtype: NumPy's name of its type.
        kind: what its values mean; never ``LOGITS`` or ``ARGMAX``, which are resolved.
        layout: its axes.
        channels: of the tensor.
        contract: of the probabilities.
        numbers: the output of class numbers that was cut off; ``None`` where there was none.
    """

    name: str
    dtype: str
    kind: OutputKind
    layout: Layout
    channels: int
    contract: OutputContract
    numbers: str | None = None

    @property
    def foreground(self) -> bool:
        """Whether the probability of one of two classes is kept alone."""
        return self.channels > self.contract.channels

    @property
    def note(self) -> str:
        """What becomes of the output, in words."""
        appended = self.kind.appended
        kind = self.kind.value if appended is None else f"logits, {_OPERATORS[appended]} appended"
        cut = "" if self.numbers is None else f" of {self.numbers!r}, whose ArgMax is cut off,"
        chosen = ", the second of two channels" if self.foreground else ""
        return f"output {self.name!r}{cut} as {kind}{chosen}"

    def probabilities(self, output: NDArray[np.generic]) -> NDArray[np.float64]:
        """Those of the first image of a batch, float64 (channels of the contract, H, W).

        Example:
            >>> end = OutputEnd(name="y", dtype="float32", kind=OutputKind.SIGMOID_LOGITS,
            ...                 layout=Layout.NO_CHANNELS, channels=1, contract=OutputContract())
            >>> end.probabilities(np.zeros((1, 1, 2), np.float32))
            array([[[0.5, 0.5]]])

        Args:
            output: what the model gave.

        Raises:
            InputError: NaN or Inf, or values that this kind cannot have.
        """
        planes = _planes(output[0].astype(np.float64), self.layout)
        if not np.isfinite(planes).all():
            raise InputError(
                f"output {self.name!r} holds NaN or Inf; expected finite numbers: look at the "
                "weights, and at the input contract"
            )
        if self.kind.appended is not None:
            planes = _normalised(planes, self.kind.appended)
        elif not (planes.min() >= 0 and planes.max() <= 1):
            raise InputError(
                f"output {self.name!r} is said to be {self.kind.value} and has values from "
                f"{planes.min():.4g} to {planes.max():.4g}; expected 0 to 1: state logits "
                "(--output-kind logits)"
            )
        elif self.kind is OutputKind.SOFTMAX and abs(planes.sum(0) - 1).max() > SUM_TOLERANCE:
            raise InputError(
                f"the {self.channels} channels of output {self.name!r} do not add up to 1; "
                "expected a Softmax over the channels: state softmax-logits where it is none, or "
                "sigmoid where they are labels of their own (--output-kind)"
            )
        return planes[FOREGROUND : FOREGROUND + 1] if self.foreground else planes


def _planes(image: NDArray[np.float64], layout: Layout) -> NDArray[np.float64]:
    """One image's output as (C, H, W)."""
    if layout is Layout.CHANNELS_FIRST:
        return image
    planes: NDArray[np.float64] = (
        image.transpose(2, 0, 1) if layout is Layout.CHANNELS_LAST else image[None]
    )
    return planes


def _normalised(logits: NDArray[np.float64], activation: Activation) -> NDArray[np.float64]:
    """Sigmoid of each channel, or Softmax over them."""
    if activation is Activation.SIGMOID:
        labels: NDArray[np.float64] = np.exp(-np.logaddexp(0, -logits))
        return labels
    powers = np.exp(logits - logits.max(axis=0))
    shares: NDArray[np.float64] = powers / powers.sum(axis=0)
    return shares


def chosen_from(graph: onnx.GraphProto) -> dict[str, str]:
    """Outputs that are numbers of classes, and the tensor that each is chosen from.

    A Sigmoid before an ArgMax changes nothing of what is chosen: the tensor before it counts.

    Args:
        graph: of the model.
    """
    index = GraphIndex(graph)
    found = {}
    for output in graph.output:
        node = _before(index, output.name, PASSES_ON)
        if node is not None and node.op_type == "ArgMax":
            inner = _before(index, node.input[0], frozenset({"Identity"}))
            monotone = inner is not None and inner.op_type == "Sigmoid"
            found[output.name] = inner.input[0] if monotone and inner else node.input[0]
    return found


def output_end(
    model: onnx.ModelProto,
    values: Mapping[str, NDArray[np.generic]],
    *,
    size: tuple[int, int],
    name: str | None = None,
    kind: OutputKind | None = None,
    meant: Meant = UNSAID,
) -> OutputEnd:
    """Decide which output holds the probabilities, and how.

    Args:
        model: theirs.
        values: every output for an image of ``size``, and every tensor of ``chosen_from``.
        size: height and width of the input.
        name: which output; ``None`` takes the only one, or the deepest of several alike.
        kind: what its values mean; ``None`` where the last operator tells.
        meant: what is stated of its classes.

    Raises:
        InputError: no such output, none that is a mask of the input's size, names of another
            number than channels, or a kind that neither the graph nor the caller tells, or that
            they tell differently.
    """
    sources = chosen_from(model.graph)
    outputs = {each.name: values[each.name] for each in model.graph.output}
    chosen = _chosen(model.graph, outputs, size=size, name=name)
    numbers = chosen if chosen in sources else None
    inner = sources.get(chosen, chosen)
    layout, channels = _laid_out(inner, values[inner], size)
    told, last = _told(model, inner, layout, channels)
    stated = kind
    if numbers is not None:
        if kind not in (None, OutputKind.ARGMAX):
            raise _told_otherwise(chosen, "an ArgMax", OutputKind.ARGMAX, stated)
        kind = OutputKind.SOFTMAX if told is OutputKind.SOFTMAX else OutputKind.SOFTMAX_LOGITS
    elif kind is OutputKind.ARGMAX:
        raise InputError(
            f"output {chosen!r} comes from {last}, no ArgMax; state what it holds: --output-kind "
            "softmax-logits where an ArgMax follows elsewhere"
        )
    elif told is None and kind is None:
        raise InputError(
            f"output {chosen!r} comes from {last}, neither a Sigmoid nor a Softmax; state what it "
            "holds: --output-kind logits, or sigmoid or softmax where these are probabilities"
        )
    if kind is OutputKind.LOGITS:
        kind = meant.logits(channels)
    if numbers is None and told is not None and kind not in (None, told):
        raise _told_otherwise(chosen, last, told, stated)
    found = kind or told
    assert found is not None
    if found.activation is Activation.SOFTMAX and channels == 1:
        raise InputError(
            f"output {chosen!r} has 1 channel of {found.value}; expected two or more, or one of "
            "sigmoid"
        )
    return OutputEnd(
        name=inner,
        dtype=str(values[inner].dtype),
        kind=found,
        layout=layout,
        channels=channels,
        contract=meant.contract(chosen, found.activation, channels),
        numbers=numbers,
    )


def _told_otherwise(name: str, last: str, told: OutputKind, kind: OutputKind | None) -> InputError:
    return InputError(
        f"output {name!r} comes from {last}: {told.value}, and {kind.value if kind else ''} is "
        "stated; leave --output-kind out"
    )


def _chosen(
    graph: onnx.GraphProto,
    values: Mapping[str, NDArray[np.generic]],
    *,
    size: tuple[int, int],
    name: str | None,
) -> str:
    """Name of the output to take."""
    if name is not None:
        if name not in values:
            raise InputError(
                f"the model has no output {one_line(repr(name), limit=80)}; it has {_shown(values)}"
            )
        return name
    if len(values) == 1:
        return next(iter(values))
    forms = {_form(value, size) for value in values.values()}
    if len(forms) == 1 and None not in forms:
        depths = _depths(graph)
        deepest = max(depths[each] for each in values)
        found = [each for each in values if depths[each] == deepest]
        if len(found) == 1:
            return found[0]
    raise InputError(
        f"the model has the outputs {_shown(values)}; state which is the mask: --output-name NAME"
    )


def _form(value: NDArray[np.generic], size: tuple[int, int]) -> tuple[Layout, int] | None:
    """Layout and channels of a mask of the input's size; ``None`` for another output."""
    if str(value.dtype) not in FLOATS:
        return None
    if value.ndim == 4 and value.shape[2:] == size:
        return Layout.CHANNELS_FIRST, value.shape[1]
    if value.ndim == 4 and value.shape[1:3] == size:
        return Layout.CHANNELS_LAST, value.shape[3]
    return (Layout.NO_CHANNELS, 1) if value.ndim == 3 and value.shape[1:] == size else None


def _laid_out(name: str, value: NDArray[np.generic], size: tuple[int, int]) -> tuple[Layout, int]:
    form = _form(value, size)
    found = f"{value.dtype} {'x'.join(map(str, value.shape))}"
    if form is None and str(value.dtype) not in FLOATS:
        raise InputError(
            f"output {name!r} is {found}: classes, no probabilities; export the network without "
            "its ArgMax or threshold"
        )
    if form is None:
        raise InputError(
            f"output {name!r} is {found} for images of {size[0]}x{size[1]}; expected a mask of "
            "that size: export the network with its last upsampling"
        )
    return form


def _told(
    model: onnx.ModelProto, name: str, layout: Layout, channels: int
) -> tuple[OutputKind | None, str]:
    """What the last operator that computes values tells, and the operator in words."""
    found = ending_of(model, name, axis=layout.value.find("C") if "C" in layout.value else None)
    if found is None:
        return None, "operators that tell nothing of its values"
    operator = found.node.op_type
    if operator == "Softmax" and found.ending is Ending.SIGMOID and channels > 1:
        return None, f"some classes of {found.shown}"
    if operator == "LogSoftmax":
        return OutputKind.SOFTMAX_LOGITS, found.shown
    if found.ending is Ending.SIGMOID:
        return OutputKind.SIGMOID, found.shown
    # One over another axis than the channels is refused by its values.
    return (OutputKind.SOFTMAX if operator == "Softmax" else None), found.shown


def _before(index: GraphIndex, name: str, passed: frozenset[str]) -> onnx.NodeProto | None:
    """The operator that makes a tensor, seen through others."""
    node = index.producer.get(name)
    while node is not None and node.op_type in passed:
        node = index.producer.get(node.input[0])
    return node


def _depths(graph: onnx.GraphProto) -> dict[str, int]:
    """Nodes on the longest way from the input to each tensor."""
    depth: dict[str, int] = {value.name: 0 for value in graph.input}
    for node in graph.node:
        deepest = 1 + max((depth.get(each, 0) for each in node.input), default=0)
        depth |= dict.fromkeys(node.output, deepest)
    return depth


def _shown(values: Mapping[str, NDArray[np.generic]]) -> str:
    shapes: Sequence[str] = [
        f"{one_line(name, limit=40)} ({'x'.join(map(str, value.shape))})"
        for name, value in values.items()
    ]
    return one_line(", ".join(shapes), limit=300)
