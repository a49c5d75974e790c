"""ONNX Runtime on the CPU."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from deploy.artifact import Artifact, Precision
from deploy.errors import InputError, RunError
from deploy.runtimes.base import Feeds, Runtime, precision_in_words, require_fit

_LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
_WEIGHT_TYPES = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
}


class OrtRuntime:
    """An ONNX file in ONNX Runtime's CPU provider, all graph optimisations on.

    ``precision_executed`` is read from the graph that ONNX Runtime made of the file: how many
    convolutions it runs as integer kernels, and in which type the others. Its threads stop
    spinning after each call, so that a runtime measured next is not disturbed.
    """

    name = "onnxruntime"

    def __init__(self, artifact: Artifact, *, batch: int, threads: int) -> None:
        self.inputs, self.outputs = artifact.inputs, artifact.outputs
        self.threads = threads
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.force_spinning_stop", "1")
        for axis in {d for spec in artifact.inputs for d in spec.shape[:1] if isinstance(d, str)}:
            options.add_free_dimension_override_by_name(axis, batch)
        try:
            with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
                optimised = Path(folder) / "optimised.onnx"
                options.optimized_model_filepath = str(optimised)
                self._session = onnxruntime.InferenceSession(
                    str(artifact.path), options, providers=["CPUExecutionProvider"]
                )
                graph = onnx.load(optimised, load_external_data=False).graph
        except _LOAD_ERRORS as error:
            raise InputError(f"ONNX Runtime cannot load {artifact.path}: {error}") from error
        self.precision_executed = executed_precision(graph, requested=artifact.precision)

    def infer(self, feeds: Feeds) -> dict[str, NDArray[np.float32]]:
        """Run one batch; see the contract in ``deploy.runtimes.base``."""
        require_fit(self.inputs, feeds)
        try:
            values = self._session.run(None, dict(feeds))
        except (*_LOAD_ERRORS, ValueError) as error:
            raise RunError(f"ONNX Runtime failed: {error}") from error
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *error: object) -> None:
        del self._session


def executed_precision(graph: onnx.GraphProto, *, requested: Precision) -> str:
    """Put the precision of an optimised graph's convolutions into words.

    Args:
        graph: what ONNX Runtime executes.
        requested: what the file asked for.

    Returns:
        For example ``int8``, ``int8 (29 of 31 convolutions)``, ``fp32`` or
        ``fp32 (weights stored in fp16)``.
    """
    weight_types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    found: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type == "QLinearConv":
            found["int8"] += 1
        elif node.op_type.endswith("Conv") and len(node.input) > 1:
            weight_type = weight_types.get(node.input[1], onnx.TensorProto.FLOAT)
            found[_WEIGHT_TYPES.get(weight_type, "fp32")] += 1
    return precision_in_words(found, requested=requested)
