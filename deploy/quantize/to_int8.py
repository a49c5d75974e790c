"""Write an int8 model: QuantizeLinear and DequantizeLinear around every quantized tensor (QDQ).

Weights are stored as int8 with one scale for each output channel, biases as int32 with the product
of input and weight scale. A weight used several times (R2U-Net's recurrent convolutions) is
quantized once and shared. Every ReLU of the source stays in the graph. A convolution whose weight
or bias is computed stays in float, and is named.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path

import onnx

from segdeploy.calibration.qparams import QuantParams, from_range
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.onnx_model.file import (
    contract_in,
    describe,
    load_model,
    metadata,
    require_fp32,
    save_model,
    set_metadata,
)
from segdeploy.deploy.onnx_model.graph import GraphIndex
from segdeploy.deploy.quantize.activations import (
    float_convolutions,
    followed_ranges,
    joined_constants,
    quantized_activations,
    quantized_nodes,
)
from segdeploy.deploy.quantize.pixel_levels import PixelLevels, pixel_levels, takes_pixels
from segdeploy.deploy.quantize.qdq_writer import QdqWriter
from segdeploy.deploy.quantize.shared_scales import Span, share_spans
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.targets.profiles import TargetProfile

log = logging.getLogger(__name__)


def to_int8(
    source: Artifact,
    output: Path,
    *,
    table: CalibrationTable,
    table_sha256: str,
    profile: TargetProfile,
    exclude: Collection[str] = (),
) -> Artifact:
    """Quantize a float32 model for a target.

    Args:
        source: the float32 ONNX file that was calibrated.
        output: where to write.
        table: ranges of its activations.
        table_sha256: digest of the table's file, for the model's metadata.
        profile: what the target wants.
        exclude: names of nodes to keep in float.

    Raises:
        InputError: the source is not float32, or the table belongs to another model or lacks a
            tensor.
        UsageError: ``exclude`` names a node that does not exist.
        OSError: the output cannot be written.
    """
    require_fp32(source, "int8 is made")
    require_table_of(table, source)
    model = load_model(source.path)
    unknown = sorted(set(exclude) - {node.name for node in model.graph.node})
    if unknown:
        known = [node.name for node in model.graph.node]
        named = (get_close_matches(name, known, n=1) for name in unknown)
        near = " ".join(name for found in named for name in found)
        meant = f"; did you mean {near}?" if near else ""
        raise UsageError(f"--exclude names no layer of {source.path}: {', '.join(unknown)}{meant}")
    _require_known(table, model.graph, source.path)
    computed = float_convolutions(model)
    for name in computed:
        log.warning("%s (Conv) stays in float: its weight or bias is computed", name)
    activations = activation_params(model, table, profile, exclude)
    pixels = _pixels(model, profile, exclude)
    kept = _in_float(model, profile, exclude)
    writer = QdqWriter(model.graph, profile, kept, {n: p.shift for n, p in pixels.items()})
    activations |= {name: levels.params for name, levels in pixels.items()}
    writer.quantize_weights(activations)
    writer.quantize_activations(activations)
    writer.finish()
    own = {
        "parent_sha256": source.sha256,
        "precision": Precision.INT8.value,
        "target": profile.name,
        "calibration_sha256": table_sha256,
        "calibration_method": table.method.value,
        "float_layers": ",".join(sorted({*exclude, *computed})),
    }
    set_metadata(model, metadata(model) | own)
    onnx.checker.check_model(model, full_check=True)
    save_model(model, output)
    return describe(output, model=model)


def require_table_of(table: CalibrationTable, source: Artifact) -> None:
    """Refuse a table of another file: its tensors are those of the graph that was calibrated.

    Raises:
        InputError: both digests, and which file to give.
    """
    if table.model_sha256 not in (None, source.sha256):
        raise InputError(
            f"the calibration table was made for another model than {source.path} "
            f"(sha256 {table.model_sha256[:12]}..., found {source.sha256[:12]}...); give the file "
            "that `segdeploy calibrate` read, of a rewritten network the rewritten one, or "
            "calibrate this model"
        )


def _require_known(table: CalibrationTable, graph: onnx.GraphProto, path: Path) -> None:
    """Refuse a table edited by hand: one of this very model holds its tensors and no others."""
    unknown = sorted(table.ranges.keys() - set(GraphIndex(graph).tensors))
    if unknown:
        raise InputError(
            f"the calibration table has a range for {unknown[0]!r:.80}, which is no tensor of "
            f"{path}; calibrate this model"
        )


def _in_float(
    model: onnx.ModelProto, profile: TargetProfile, exclude: Collection[str]
) -> frozenset[str]:
    """Names of the nodes of the profile's operators that stay in float."""
    nodes = quantized_nodes(model, operators=profile.operators, exclude=exclude)
    quantized = {node.name for node in nodes}
    dense = {node.name for node in model.graph.node if node.op_type in profile.operators}
    return frozenset(dense - quantized)


def activation_params(
    model: onnx.ModelProto,
    table: CalibrationTable,
    profile: TargetProfile,
    exclude: Collection[str] = (),
) -> dict[str, QuantParams]:
    """Scale and zero point of every quantized activation, in graph order, and of constants.

    Outputs of DepthToSpace, MaxPool and Resize take their input's. A Concat's inputs and output
    share one as far as the profile allows. A constant that is added or joined has the range of its
    values.

    Raises:
        InputError: the table lacks a tensor.
    """
    graph = model.graph
    follows = followed_ranges(graph)
    names = quantized_activations(model, operators=profile.operators, exclude=exclude)
    constants = joined_constants(model, operators=profile.operators, exclude=exclude)
    index = GraphIndex(graph)
    spans: dict[str, Span] = {}
    for name in names:
        source = follows.get(name, name)
        if source not in table.ranges:
            raise InputError(f"the calibration table has no range for tensor {source!r}")
        spans[source] = Span(low=table.ranges[source].min, high=table.ranges[source].max)
    for name in constants:
        values = index.value(name)
        spans[name] = Span(low=min(0.0, float(values.min())), high=max(0.0, float(values.max())))
    if profile.shared_scale_cost_db is not None:
        edges = [
            (follows.get(name, name), node.output[0])
            for node in graph.node
            if node.op_type == "Concat" and node.output[0] in spans
            for name in node.input
            if follows.get(name, name) in spans
        ]
        spans = share_spans(spans, edges, limit_db=profile.shared_scale_cost_db)
    return {
        name: from_range(
            spans[follows.get(name, name)].low,
            spans[follows.get(name, name)].high,
            dtype=profile.activation_type,
            symmetric=profile.activation_symmetric,
        )
        for name in (*names, *constants)
    }


def _pixels(
    model: onnx.ModelProto, profile: TargetProfile, exclude: Collection[str]
) -> dict[str, PixelLevels]:
    """How the input is quantized without loss, by its name; empty where it cannot be."""
    nodes = quantized_nodes(model, operators=profile.operators, exclude=exclude)
    quantized = {node.name for node in nodes}
    name = takes_pixels(model.graph, quantized)
    if name is None or "preprocess" not in metadata(model):
        return {}
    levels = pixel_levels(contract_in(model, source="the model"), profile)
    return {} if levels is None else {name: levels}
