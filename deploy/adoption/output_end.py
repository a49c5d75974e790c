"""What a foreign model gives: which output, its layout, and how it becomes a probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import onnx
from numpy.typing import NDArray

from segdeploy.deploy.adoption.input_end import FLOATS
from segdeploy.deploy.onnx_model.graph import GraphIndex
from segdeploy.deploy.system.errors import InputError, one_line

FOREGROUND = 1
"""Channel of the foreground where there are two; the background comes first."""

PASSES_ON = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
CHOOSES = frozenset({"Gather", "Slice", "Split"})
"""Operators that leave values as they are: all of them, or some."""

SUM_TOLERANCE = 1e-2
"""How far two probabilities may be from a sum of 1; fp16 rounds them."""


class OutputKind(str, Enum):
    """What the values of an output mean."""

    SIGMOID = "sigmoid"
    """The probability of the foreground, one channel."""
    SOFTMAX = "softmax"
    """The probabilities of background and foreground, two channels."""
    LOGITS = "logits"
    """What a Sigmoid, or with two channels a Softmax, makes probabilities of."""


class Layout(str, Enum):
    """The axes of an output."""

    CHANNELS_FIRST = "NCHW"
    CHANNELS_LAST = "NHWC"
    NO_CHANNELS = "NHW"


@dataclass(frozen=True, kw_only=True)
class OutputEnd:
    """The output that becomes the probability of the foreground.

    Attributes:
        name: of the tensor.
        dtype: NumPy's name of its type.
        kind: what its values mean.
        layout: its axes.
        channels: 1 or 2.
    """

    name: str
    dtype: str
    kind: OutputKind
    layout: Layout
    channels: int

    def probability(self, output: NDArray[np.generic]) -> NDArray[np.float64]:
        """The foreground's probability (H, W) of the first image of a batch, in float64.

        Example:
            >>> end = OutputEnd(name="y", dtype="float32", kind=OutputKind.LOGITS,
            ...                 layout=Layout.NO_CHANNELS, channels=1)
            >>> end.probability(np.zeros((1, 1, 2), np.float32))
            array([[0.5, 0.5]])

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
        if self.kind is OutputKind.LOGITS:
            planes = _normalised(planes)
        elif not (planes.min() >= 0 and planes.max() <= 1):
            raise InputError(
                f"output {self.name!r} is said to be {self.kind.value} and has values from "
                f"{planes.min():.4g} to {planes.max():.4g}; expected 0 to 1: state logits "
                "(--output-kind logits)"
            )
        elif self.kind is OutputKind.SOFTMAX and abs(planes.sum(0) - 1).max() > SUM_TOLERANCE:
            raise InputError(
                f"the two channels of output {self.name!r} do not add up to 1; expected a Softmax "
                "over the channels: state logits where it is none (--output-kind logits)"
            )
        found: NDArray[np.float64] = planes[FOREGROUND if self.channels == 2 else 0]
        return found


def _planes(image: NDArray[np.float64], layout: Layout) -> NDArray[np.float64]:
    """One image's output as (C, H, W)."""
    if layout is Layout.CHANNELS_FIRST:
        return image
    planes: NDArray[np.float64] = (
        image.transpose(2, 0, 1) if layout is Layout.CHANNELS_LAST else image[None]
    )
    return planes


def _normalised(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sigmoid of one channel, Softmax over two."""
    against = np.zeros_like(logits) if len(logits) == 1 else logits[::-1]
    probability: NDArray[np.float64] = np.exp(-np.logaddexp(0, against - logits))
    return probability


def output_end(
    graph: onnx.GraphProto,
    values: Mapping[str, NDArray[np.generic]],
    *,
    size: tuple[int, int],
    name: str | None = None,
    kind: OutputKind | None = None,
) -> OutputEnd:
    """Decide which output is the probability, and how.

    Args:
        graph: of the model.
        values: every output for an image of ``size``.
        size: height and width of the input.
        name: which output; ``None`` takes the only one, or the deepest of several alike.
        kind: what its values mean; ``None`` where the last operator tells.

    Raises:
        InputError: no such output, none that is a mask of the input's size, more classes than two,
            or a kind that neither the graph nor the caller tells, or that they tell differently.
    """
    chosen = _chosen(graph, values, size=size, name=name)
    value = values[chosen]
    layout, channels = _laid_out(chosen, value, size)
    told, node = _told(GraphIndex(graph), chosen, channels)
    last = "the input" if node is None else f"node {one_line(repr(node.name), limit=80)}"
    last += f" ({node.op_type})" if node is not None else ""
    if told is None and kind is None:
        raise InputError(
            f"output {chosen!r} comes from {last}, neither a Sigmoid nor a Softmax; state what it "
            "holds: --output-kind logits, or sigmoid or softmax where these are probabilities"
        )
    if told is not None and kind not in (None, told):
        raise InputError(
            f"output {chosen!r} comes from {last}: {told.value}, and {kind.value if kind else ''} "
            "is stated; leave --output-kind out"
        )
    found = told or kind
    assert found is not None
    if (found is OutputKind.SOFTMAX) != (channels == 2) and found is not OutputKind.LOGITS:
        raise InputError(
            f"output {chosen!r} has {channels} channel{'s' * (channels > 1)} of {found.value}; "
            "expected one of sigmoid, or two of softmax, background and foreground"
        )
    return OutputEnd(
        name=chosen, dtype=str(value.dtype), kind=found, layout=layout, channels=channels
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
    if form[1] > 2:
        raise InputError(
            f"output {name!r} is {found}: {form[1]} channels; expected one class, as one channel "
            "or as background and foreground: more classes are not supported yet"
        )
    return form


def _told(
    index: GraphIndex, name: str, channels: int
) -> tuple[OutputKind | None, onnx.NodeProto | None]:
    """What the last operator that computes values tells, and the operator."""
    chosen = False
    node = index.producer.get(name)
    while node is not None and node.op_type in PASSES_ON | CHOOSES:
        chosen |= node.op_type in CHOOSES
        node = index.producer.get(node.input[0])
    if node is not None and node.op_type == "Sigmoid":
        return OutputKind.SIGMOID, node
    if node is not None and node.op_type == "Softmax":
        # One channel taken from a Softmax is a probability like that of a Sigmoid.
        return OutputKind.SIGMOID if chosen and channels == 1 else OutputKind.SOFTMAX, node
    return None, node


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
