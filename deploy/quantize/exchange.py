"""Calibration tables to and from other tools' files, for the tensors of one model."""

from __future__ import annotations

import math
from dataclasses import replace
from enum import Enum
from pathlib import Path

import onnx

from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.estimate import CalibrationRange
from segdeploy.calibration.exchange import (
    from_onnxruntime,
    from_tensorrt,
    to_onnxruntime,
    to_tensorrt,
)
from segdeploy.calibration.files import read_text, write_atomic
from segdeploy.calibration.table import CalibrationTable, imported_table
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import load_model
from segdeploy.deploy.quantize.activations import (
    every_activation,
    followed_ranges,
    unfused_outputs,
)
from segdeploy.deploy.system.errors import InputError


class ExchangeFormat(str, Enum):
    """Files of other tools, by their command-line names."""

    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"

    @property
    def suffix(self) -> str:
        """What replaces ``.json`` in the table's name."""
        return {"onnxruntime": ".onnxruntime.json", "tensorrt": ".tensorrt.cache"}[self.value]


def export_table(
    table: CalibrationTable, source: Artifact, output: Path, form: ExchangeFormat
) -> Path:
    """Write a table beside ``output`` in another tool's format.

    Other tools ask for every tensor by name, so what our table leaves out is written too: outputs
    of MaxPool and Resize with the range of their input, and what precedes a ReLU with the range
    behind it, which clips the same values.

    Args:
        table: of the model.
        source: the calibrated model.
        output: where our own table goes, ending in ``.json``.
        form: the other tool.

    Returns:
        The file written: ``net.calib.json`` gives ``net.calib.onnxruntime.json`` or
        ``net.calib.tensorrt.cache``.

    Raises:
        InputError: the table lacks a tensor of the model.
        OSError: the file cannot be written.
    """
    try:
        ranges = _every_range(table, load_model(source.path))
        write = to_onnxruntime if form is ExchangeFormat.ONNXRUNTIME else to_tensorrt
        path = exported_file(output, form)
        write_atomic(path, write(ranges).encode())
    except KeyError as error:
        raise InputError(f"the calibration table has no range for tensor {error}") from error
    except CalibrationError as error:
        raise InputError(str(error)) from error
    return path


def exported_file(output: Path, form: ExchangeFormat) -> Path:
    """Where ``export_table`` writes."""
    return output.with_name(output.name.removesuffix(".json") + form.suffix)


def _every_range(table: CalibrationTable, model: onnx.ModelProto) -> dict[str, CalibrationRange]:
    """The range of every tensor another tool's quantizer may ask for."""
    graph = model.graph
    follows = followed_ranges(graph)
    names = every_activation(model)
    ranges = {name: table.ranges[follows.get(name, name)] for name in names}
    ranges |= {name: table.ranges[name] for name in unfused_outputs(graph) if name in table.ranges}
    for node in graph.node:
        if node.op_type == "Relu" and node.output[0] in ranges:
            ranges[node.input[0]] = ranges[node.output[0]]
        if node.op_type == "Sigmoid" and node.input[0] in ranges:
            logits = ranges[node.input[0]]
            low, high = (1 / (1 + math.exp(-end)) for end in (logits.min, logits.max))
            ranges[node.output[0]] = replace(
                logits, min=0.0, max=high, observed_min=low, observed_max=high, share_clipped=0.0
            )
    return ranges


def import_table(path: Path, source: Artifact) -> CalibrationTable:
    """Read a table of ours, an ONNX Runtime calibration cache or a TensorRT calibration cache.

    The format is told by the content. The result is bound to ``source``.

    Raises:
        InputError: none of the three, malformed, or without a tensor the model needs.
    """
    try:
        text = read_text(path)
        if text.startswith("TRT-"):
            table = imported_table(from_tensorrt(text, source=str(path)))
        elif '"CLS"' in text:
            table = imported_table(from_onnxruntime(text, source=str(path)))
        else:
            table = CalibrationTable.from_json(text, source=str(path))
    except CalibrationError as error:
        raise InputError(str(error)) from error
    model = load_model(source.path)
    follows = followed_ranges(model.graph)
    names = every_activation(model)
    needed = {follows.get(name, name) for name in names}
    missing = sorted(needed - table.ranges.keys())
    if missing:
        raise InputError(
            f"{path} has no range for {len(missing)} of the {len(needed)} tensors of "
            f"{source.path.name}, the first {missing[0]!r}; was it made for another model?"
        )
    ranges = {name: table.ranges[name] for name in needed}
    return replace(table, ranges=ranges, model_sha256=source.sha256)
