"""Parts of a model as functions: some tensors in, some tensors out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper

from segdeploy.deploy.onnx_model.graph import GraphIndex
from segdeploy.deploy.runtimes.ort_session import OrtSession, session_options
from segdeploy.deploy.system.errors import InputError

Values = NDArray[Any]


class GraphView(GraphIndex):
    """A loaded model of one input and one output. Not modified.

    Attributes:
        model: the model.
        input: the image.
        output: what it gives.

    Raises:
        InputError: the model takes or gives something else than one tensor.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(model.graph)
        self.model = model
        if len(self.inputs) != 1 or len(model.graph.output) != 1:
            raise InputError(
                f"the model takes {list(self.inputs)} and gives "
                f"{[value.name for value in model.graph.output]}; layers are compared in models "
                "with one input and one output"
            )
        (self.input,) = self.inputs
        (self.output,) = self.outputs


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
