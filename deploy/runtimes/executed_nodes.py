"""Every kernel a runtime runs for a file: what lies between the layers, too.

``deploy.runtimes.executed`` tells the layers' precision. Where Q and DQ stand shows in the rest:
conversions of layout and precision, what runs in float between integers, what was fused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.graph import GraphIndex
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.registry import CPU_RUNTIMES, RuntimeName, import_backend
from segdeploy.deploy.system.errors import UsageError

STORES_NOTHING = frozenset({"Const", "Input", "Output", "Parameter", "Result"})
"""Of OpenVINO's graph, what is no kernel."""

SCALARS = 1
"""Elements of a constant that may be a scale or a zero point of a whole tensor."""


@dataclass(frozen=True, kw_only=True)
class ExecutedNode:
    """One kernel.

    Attributes:
        operator: what the runtime calls it.
        precision: it computes in, or what it writes, where the runtime tells.
        details: layout, implementation and shapes, or which of its scales are equal.
    """

    operator: str
    precision: str
    details: str

    @property
    def words(self) -> str:
        """For people: the operator and its precision."""
        return " ".join(filter(None, (self.operator, self.precision)))


def executed_nodes(
    name: RuntimeName, artifact: Artifact, *, execution: Execution
) -> tuple[ExecutedNode, ...]:
    """List the kernels of a file, in the order they run.

    Args:
        name: the runtime.
        artifact: the ONNX file.
        execution: how it will run.

    Raises:
        InputError: the runtime does not accept the file.
        UsageError: this project does not read the graph of this runtime.
    """
    if name not in CPU_RUNTIMES:
        raise UsageError(f"the graph that {name.value} executes is not read")
    import_backend(name)
    if name is RuntimeName.OPENVINO:
        return tuple(_of_openvino(artifact, execution))
    from segdeploy.deploy.runtimes.ort import optimised_graph

    return tuple(of_ort(optimised_graph(artifact, execution)))


def _of_openvino(artifact: Artifact, execution: Execution) -> Iterator[ExecutedNode]:
    from segdeploy.deploy.runtimes.openvino import OpenVinoRuntime

    runtime = OpenVinoRuntime(artifact, execution=execution)
    with runtime:
        for node in runtime.graph().get_ordered_ops():
            said = {key: value.astype(str) for key, value in node.get_rt_info().items()}
            operator = said.get("layerType", "")
            if operator in STORES_NOTHING:
                continue
            fused = len(said.get("originalLayersNames", "").split(","))
            told = [said.get(k, "") for k in ("primitiveType", "outputPrecisions", "outputLayouts")]
            if operator == "Subgraph":  # several operators in one kernel: how many is all it tells
                told.append(str(fused))
            shapes = [str(output.get_partial_shape()) for output in node.outputs()]
            precision = f"{said.get('runtimePrecision', '')}->{said.get('outputPrecisions', '')}"
            yield ExecutedNode(
                operator=operator, precision=precision, details=" ".join((*told, *shapes))
            )


def of_ort(graph: onnx.GraphProto) -> Iterator[ExecutedNode]:
    """The kernels of ONNX Runtime's optimised graph.

    Which scales and zero points of a node are equal decides what some kernels do, as that of a
    Concat, which copies where they are.
    """
    index = GraphIndex(graph)
    types = {
        value.name: onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    for node in graph.node:
        small = [
            (n, tensor)
            for n, tensor in ((name, index.constants.get(name)) for name in node.input)
            if tensor is not None and onnx.external_data_helper.uses_external_data(tensor) is False
        ]
        values = [index.value(name) for name, _ in small]
        scalars = [value.item() for value in values if value.size == SCALARS]
        equal = "".join(str(scalars.index(value) % 10) for value in scalars)
        made = [types.get(name, "") for name in node.output]
        yield ExecutedNode(
            operator=node.op_type, precision="", details=f"{len(node.input)} {equal} {made}"
        )
