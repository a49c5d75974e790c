"""OpenVINO on the CPU."""

from __future__ import annotations

from collections import Counter

import numpy as np
import openvino
from numpy.typing import NDArray

from deploy.artifact import Artifact, Precision
from deploy.errors import InputError, RunError
from deploy.runtimes.base import Feeds, Runtime, precision_in_words, require_fit

_ELEMENT_NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "u8": "int8", "i8": "int8"}


class OpenVinoRuntime:
    """An ONNX file compiled for the CPU with the latency hint, one stream.

    The inference precision is pinned to f32, so that a row called fp32 is not bf16 on a processor
    with AMX; quantized layers run in int8 all the same. ``precision_executed`` is read from the
    compiled model.
    """

    name = "openvino"

    def __init__(self, artifact: Artifact, *, batch: int, threads: int) -> None:
        self.inputs, self.outputs = artifact.inputs, artifact.outputs
        self.threads = threads
        try:
            core = openvino.Core()
            model = core.read_model(artifact.path)
            model.reshape({spec.name: [batch, *spec.shape[1:]] for spec in artifact.inputs})
            self._compiled = core.compile_model(
                model,
                "CPU",
                {
                    "PERFORMANCE_HINT": "LATENCY",
                    "NUM_STREAMS": 1,
                    "INFERENCE_NUM_THREADS": threads,
                    "INFERENCE_PRECISION_HINT": "f32",
                },
            )
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(f"OpenVINO cannot compile {artifact.path}: {reason}") from error
        self._request = self._compiled.create_infer_request()
        self.precision_executed = executed_precision(
            self._compiled.get_runtime_model(), requested=artifact.precision
        )

    def infer(self, feeds: Feeds) -> dict[str, NDArray[np.float32]]:
        """Run one batch; see the contract in ``deploy.runtimes.base``."""
        require_fit(self.inputs, feeds)
        try:
            results = self._request.infer(dict(feeds), share_inputs=True)
        except RuntimeError as error:
            raise RunError(f"OpenVINO failed: {error}") from error
        return {spec.name: results[spec.name].copy() for spec in self.outputs}

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *error: object) -> None:
        del self._request
        del self._compiled


def executed_precision(model: openvino.Model, *, requested: Precision) -> str:
    """Put the precision of a compiled model's convolutions into words.

    Returns:
        For example ``int8``, ``int8 (29 of 31 convolutions)`` or ``fp32 (weights stored in fp16)``.
    """
    found: Counter[str] = Counter()
    for node in model.get_ordered_ops():
        info = node.get_rt_info()
        if "layerType" in info and info["layerType"].astype(str) == "Convolution":
            element = info["runtimePrecision"].astype(str)
            found[_ELEMENT_NAMES.get(element, element)] += 1
    return precision_in_words(found, requested=requested)
