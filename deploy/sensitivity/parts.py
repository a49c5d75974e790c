"""Parts of a model as functions: some tensors in, some tensors out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from segdeploy.deploy.runtimes.ort_session import OrtSession, session_options
from segdeploy.deploy.system.errors import InputError

Values = NDArray[Any]


class GraphView:
    """A loaded model with its producers, readers and constants at hand. Not modified.

    Attributes:
        model: the model.
        nodes: that depend on the image, in the order they are computed.
        producer: tensor to the node that makes it, constant ones included.
        readers: tensor to the nodes that read it.
        constants: initialisers by name.
        changing: tensors that depend on the image.
        input: the image.
        output: the graph's first output.

    Raises:
        InputError: the model takes or gives something else than one tensor.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.model = model
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.producer = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        images = [value.name for value in graph.input if value.name not in self.constants]
        if len(images) != 1 or len(graph.output) != 1:
            raise InputError(
                f"the model takes {images} and gives {[value.name for value in graph.output]}; "
                "layers are compared in models with one input and one output"
            )
        self.input, self.output = images[0], graph.output[0].name
        changing = set(images)
        self.nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
            if not changing.isdisjoint(node.input):
                changing.update(filter(None, node.output))
                self.nodes.append(node)
        self.changing = frozenset(changing)

    def constant(self, name: str) -> Values | None:
        """An initialiser's values; ``None`` for any other tensor."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def between(self, inputs: Iterable[str], outputs: Iterable[str]) -> list[onnx.NodeProto]:
        """The nodes that compute ``outputs`` from ``inputs`` and constants, in graph order."""
        given, wanted, seen = set(inputs), list(outputs), set[str]()
        while wanted:
            name = wanted.pop()
            node = self.producer.get(name)
            if name in given or node is None or node.output[0] in seen:
                continue
            seen.add(node.output[0])
            wanted += [source for source in node.input if source]
        return [node for node in self.model.graph.node if node.output[0] in seen]


class GraphPart:
    """The part of a graph between some tensors, ready to run on one thread, from any thread.

    Args:
        view: the model.
        inputs: float tensors to feed, in the order of the call.
        outputs: tensors to return, none of them an input.
        literal: run every node as it stands; otherwise ONNX Runtime optimises. An int8 part is
            then computed as its file states it, in float32: what kernels of a device add is not
            in it.

    Raises:
        InputError: ONNX Runtime does not accept the part.
    """

    def __init__(
        self, view: GraphView, inputs: Sequence[str], outputs: Sequence[str], *, literal: bool
    ) -> None:
        nodes = view.between(inputs, outputs)
        read = {name for node in nodes for name in node.input} - set(inputs)
        graph = helper.make_graph(
            nodes,
            "part",
            [_float_value(name) for name in inputs],
            [_float_value(name) for name in outputs],
            [tensor for name, tensor in view.constants.items() if name in read],
        )
        part = helper.make_model(
            graph, opset_imports=view.model.opset_import, ir_version=view.model.ir_version
        )
        # No arena, or each of a hundred parts would keep its peak.
        options = session_options(
            threads=1, memory_pattern=False, arena=False, optimise=not literal
        )
        self._session = OrtSession(
            part.SerializeToString(), options, shown=f"what makes {outputs[0]!r}"
        )
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)

    def __call__(self, *arrays: Values) -> list[Values]:
        """One array for each input, batch first; one for each output comes back.

        Raises:
            RunError: ONNX Runtime failed.
        """
        feeds = dict(zip(self._inputs, arrays, strict=True))
        return self._session.run(feeds, self._outputs, where=f"at {self._outputs[0]!r}")


def _float_value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
