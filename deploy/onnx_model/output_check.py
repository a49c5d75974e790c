"""Whether a graph's output is what its output contract says, as far as the graph tells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import onnx

from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.graph import GraphIndex, attributes, layer_name
from segdeploy.deploy.onnx_model.interface import Interface, interface_of
from segdeploy.deploy.onnx_model.shapes import infer_shapes, one_image
from segdeploy.deploy.system.errors import InputError, one_line

MENDED = "`segdeploy adopt` makes it one of ours"

MOVES = frozenset(
    {
        "Cast",
        "DepthToSpace",
        "DequantizeLinear",
        "Dropout",
        "Flatten",
        "Identity",
        "QuantizeLinear",
        "Reshape",
        "Resize",
        "SpaceToDepth",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
        "Upsample",
    }
)
"""Operators behind which a probability is one still, and a logit too."""

CHOOSES = frozenset({"Gather", "Slice", "Split"})
"""Operators that give some of the values they take."""

COMBINES = frozenset({"Add", "Concat", "Div", "Mul", "Sub"})
"""Operators whose result has no bounds where none of what they combine has."""

UNBOUNDED = frozenset(
    {
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "Gemm",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "LogSoftmax",
        "MatMul",
        "QLinearConv",
    }
)
"""Operators whose results are no probabilities."""

SIGMOIDS = frozenset({"HardSigmoid", "Sigmoid"})

CHANNEL_AXIS = 1
FURTHEST = 64
"""Operators that are looked at behind the output."""

CHANNELS_ALONE = 13
"""Opset from which Softmax is over one axis; before, over all from that axis on."""


class Ending(str, Enum):
    """What the last operator that computes values makes of them."""

    SIGMOID = "labels of their own"
    SOFTMAX = "classes that exclude each other"
    LOGITS = "no probabilities"


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a graph tells about its output.

    Attributes:
        ending: what its values are.
        node: the operator that tells.
    """

    ending: Ending
    node: onnx.NodeProto

    @property
    def shown(self) -> str:
        """The operator, for messages."""
        name = one_line(repr(layer_name(self.node)), limit=80)
        return f"node {name} ({one_line(self.node.op_type, limit=40)})"


def require_output_of(contract: OutputContract, artifact: Artifact, model: onnx.ModelProto) -> None:
    """Refuse a model whose output is not what its output contract says.

    The graph is asked for the ends, the channels, the size and the last operator that computes
    values. Where that tells nothing, the values of images do: ``require_probabilities``.

    Args:
        contract: the model's.
        artifact: the file.
        model: its content.

    Raises:
        InputError: other ends than ``interface_of`` knows, other channels, another size than the
            input's, or a last operator that gives something else.
    """
    try:
        interface = interface_of(artifact.inputs, artifact.outputs)
    except InputError as error:
        raise InputError(f"{artifact.path}: {error}") from error
    if interface is Interface.TENSOR:
        _require_channels(contract, artifact)
    _require_size(artifact, model, interface)
    if interface is Interface.TENSOR:
        _require_ending(contract, artifact, model)


def _require_channels(contract: OutputContract, artifact: Artifact) -> None:
    found = artifact.outputs[0].shape[1]
    if isinstance(found, int) and found != contract.channels:
        raise InputError(
            f"{artifact.path} gives {found} channels, its output contract says "
            f"{contract.channels} ({one_line(', '.join(contract.classes), limit=60)}); {MENDED}: "
            "it takes one of two, or states a class for each"
        )


def _require_size(artifact: Artifact, model: onnx.ModelProto, interface: Interface) -> None:
    """Height and width, as stated or, where they are not, as they follow from the input's."""
    first = 1 if interface is Interface.IMAGE else 2
    taken = artifact.inputs[0].shape[first : first + 2]
    if not all(isinstance(side, int) for side in taken):
        return
    given = artifact.outputs[0].shape[first : first + 2]
    if not all(isinstance(side, int) for side in given):
        shapes = infer_shapes(model, [one_image(model.graph.input[0])])
        given = tuple(shapes.get(artifact.outputs[0].name, ()))[first : first + 2]
    if given and taken != given:
        raise InputError(
            f"{artifact.path} gives {_size(given)} for images of {_size(taken)}; expected the same "
            "size: export the network with its last upsampling"
        )


def _require_ending(contract: OutputContract, artifact: Artifact, model: onnx.ModelProto) -> None:
    told = ending_of(model, artifact.outputs[0].name)
    expected = Ending.SOFTMAX if contract.exclusive else Ending.SIGMOID
    if told is None or told.ending is expected:
        return
    if told.ending is Ending.LOGITS:
        raise InputError(
            f"{artifact.path} ends in {told.shown}, whose values are no probabilities; expected a "
            f"{contract.activation.value} over the classes: `segdeploy adopt` appends it"
        )
    raise InputError(
        f"{artifact.path} ends in {told.shown}, {told.ending.value}; its output contract says "
        f"{contract.activation.value}: {expected.value}; {MENDED}"
    )


def ending_of(
    model: onnx.ModelProto, output: str, *, axis: int | None = CHANNEL_AXIS
) -> Told | None:
    """What the last operator that computes values tells; ``None`` where it tells nothing.

    Args:
        model: a loaded model.
        output: name of a tensor.
        axis: of its channels; ``None`` where it has no such axis.
    """
    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    return _Walk(GraphIndex(model.graph), opset=opset).told(output, axis, FURTHEST)


class _Walk:
    """From an output back to the operators that compute it."""

    def __init__(self, index: GraphIndex, *, opset: int) -> None:
        self.index, self.opset = index, opset

    def told(self, name: str, axis: int | None, left: int) -> Told | None:
        """What makes a tensor whose channels are on ``axis``, if that is known."""
        node = self.index.producer.get(name)
        if node is None or left == 0 or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type in SIGMOIDS:
            return Told(ending=Ending.SIGMOID, node=node)
        if node.op_type == "Softmax":
            return self._softmax(node, axis)
        if node.op_type in UNBOUNDED:
            return Told(ending=Ending.LOGITS, node=node)
        if node.op_type in MOVES:
            return self.told(node.input[0], self._moved(node, axis), left - 1)
        if node.op_type in CHOOSES:
            found = self.told(node.input[0], axis, left - 1)
            # Some channels of a Softmax are probabilities that need not add up to 1.
            taken = found is not None and found.ending is Ending.SOFTMAX
            return replace(found, ending=Ending.SIGMOID) if found and taken else found
        return self._combined(node, left) if node.op_type in COMBINES else None

    def _combined(self, node: onnx.NodeProto, left: int) -> Told | None:
        changing = [name for name in node.input if name in self.index.changing]
        found = [self.told(name, None, min(left - 1, FURTHEST // 8)) for name in changing]
        first = found[0] if found else None
        alike = first is not None and all(each and each.ending is first.ending for each in found)
        if not alike or first is None:
            return None
        kept = first.ending is Ending.LOGITS or (
            node.op_type == "Concat" and first.ending is Ending.SIGMOID
        )
        return first if kept else None

    def _moved(self, node: onnx.NodeProto, axis: int | None) -> int | None:
        """Where the channels are before an operator of ``MOVES``; ``None`` where it is unknown."""
        if node.op_type == "Transpose":
            order = attributes(node).get("perm")
            return None if axis is None or order is None else int(order[axis])
        stays = node.op_type in {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}
        return None if stays else axis

    def _softmax(self, node: onnx.NodeProto, axis: int | None) -> Told:
        over = int(attributes(node).get("axis", -1 if self.opset >= CHANNELS_ALONE else 1)) % 4
        alone = self.opset >= CHANNELS_ALONE or over == 3
        right = axis is None or (alone and over == axis)
        return Told(ending=Ending.SOFTMAX if right else Ending.LOGITS, node=node)


def _size(sides: tuple[int | str, ...]) -> str:
    return "x".join(map(str, sides))
