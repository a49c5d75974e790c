"""Every activation of an ONNX file, from any runtime: the tensors become outputs of the graph."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import describe, load_model, save_model
from segdeploy.deploy.onnx_model.graph import GraphIndex
from segdeploy.deploy.runtimes.base import Execution, Runtime
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.system.errors import InputError, UsageError

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)

PERTURBATION = 1e-3
"""By how much ``perturb`` scales a layer's weights; the checks must notice."""


@dataclass(frozen=True, kw_only=True)
class Activation:
    """A float tensor that a node of a graph makes.

    Attributes:
        name: of the tensor.
        operator: of the node, e.g. ``Conv``.
        element: its ONNX type.
    """

    name: str
    operator: str
    element: int


def activations(model: onnx.ModelProto) -> tuple[Activation, ...]:
    """The float activations of a graph, in the order they are computed.

    What does not depend on the image, as the weights that an int8 file stores, is left out.

    Raises:
        InputError: the types of the tensors cannot be inferred.
    """
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except onnx.shape_inference.InferenceError as error:
        raise InputError(f"the model contradicts its own shapes ({error})") from error
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.value_info, *graph.output, *graph.input)
    }
    return tuple(
        Activation(name=name, operator=node.op_type, element=types[name])
        for node in GraphIndex(graph).nodes
        for name in node.output
        if types.get(name) in _FLOATS
    )


def expose(source: Artifact, output: Path, *, tensors: Collection[str]) -> Artifact:
    """Write a copy of a model that also returns the named tensors.

    A runtime cannot fuse across a tensor that it must return: the copy runs the same operators,
    but not always the kernels that the file itself gets.

    Raises:
        InputError: the file cannot be read, or its types cannot be inferred.
        OSError: the output cannot be written.
    """
    model = load_model(source.path)
    present = {value.name for value in model.graph.output}
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(found.name, found.element, None)
        for found in activations(model)
        if found.name in tensors and found.name not in present
    )
    save_model(model, output)
    return describe(output, model=model)


def perturb(source: Artifact, output: Path, *, layer: str, by: float = PERTURBATION) -> Artifact:
    """Write a copy of a model with one layer's weights scaled by ``1 + by``: a known fault.

    Args:
        source: the model.
        output: where to write.
        layer: name of a node with a weight; every node that shares it changes with it.
        by: relative change.

    Raises:
        UsageError: no such layer.
        OSError: the output cannot be written.
    """
    model = load_model(source.path)
    weights = GraphIndex(model.graph).constants
    layers = {
        node.name: weights[node.input[1]]
        for node in model.graph.node
        if node.op_type in ("Conv", "MatMul", "Gemm") and node.input[1] in weights
    }
    if layer not in layers:
        near = difflib.get_close_matches(layer, layers, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(list(layers)[:5])}"
        raise UsageError(f"{source.path} has no layer {layer!r} with float weights{hint}")
    tensor = layers[layer]
    values = numpy_helper.to_array(tensor)
    scaled = (values.astype(np.float64) * (1 + by)).astype(values.dtype)
    tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))
    save_model(model, output)
    return describe(output, model=model)


class OnnxValues:
    """An ONNX file in a runtime, its tensors returned. A context manager.

    Args:
        source: the file.
        runtime: what runs it.
        tensors: names of those to return; ``None`` takes every float activation.
        execution: how to run it.

    Raises:
        InputError: the file or the runtime cannot be loaded.
        UsageError: the model takes or gives something else than one tensor.
    """

    def __init__(
        self,
        source: Artifact,
        runtime: RuntimeName,
        *,
        tensors: Collection[str] | None = None,
        execution: Execution,
    ) -> None:
        if len(source.inputs) != 1 or source.inputs[0].dtype != "float32":
            raise UsageError(
                f"{source.path} takes {[(s.name, s.dtype) for s in source.inputs]}; layers are "
                "compared in models that take one normalised float32 image"
            )
        own = [found.name for found in activations(load_model(source.path))]
        self.name = f"{source.path.name} on {runtime.value}"
        self.names: tuple[str, ...] = tuple(
            name for name in own if tensors is None or name in tensors
        )
        with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
            exposed = expose(source, Path(folder) / "exposed.onnx", tensors=self.names)
            self._runtime: Runtime = open_runtime(runtime, exposed, execution=execution)
        self._input = source.inputs[0].name

    def values(self, image: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Every named activation of one image (3, H, W), each with a batch axis of 1."""
        results = self._runtime.infer({self._input: image[None]})
        return {name: results[name] for name in self.names}

    def __enter__(self) -> OnnxValues:
        return self

    def __exit__(self, *error: object) -> None:
        self._runtime.__exit__(*error)
