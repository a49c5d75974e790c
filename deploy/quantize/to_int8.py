"""Write an int8 model: QuantizeLinear and DequantizeLinear around every quantized tensor (QDQ).

Weights are stored as int8 with one scale for each output channel, biases as int32 with the product
of input and weight scale. A weight used several times (R2U-Net's recurrent convolutions) is
quantized once and shared. Every ReLU of the source stays in the graph. A convolution whose weight
or bias is computed stays in float, and is named.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

import onnx

from segdeploy.calibration.qparams import QuantParams, QuantType, from_range
from segdeploy.calibration.table import CalibrationTable
from segdeploy.calibration.weights import largest_weight
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
from segdeploy.deploy.onnx_model.graph import GraphIndex, attributes
from segdeploy.deploy.quantize.activations import (
    computed_layers,
    followed_ranges,
    joined_constants,
    quantized_activations,
    quantized_nodes,
)
from segdeploy.deploy.quantize.learnt_parameters import METADATA_KEY, LearntParameters
from segdeploy.deploy.quantize.operators import Carries, activation_inputs, carries, counts_padding
from segdeploy.deploy.quantize.pixel_levels import PixelLevels, pixel_levels, takes_pixels
from segdeploy.deploy.quantize.qdq_placement import QdqPlacement
from segdeploy.deploy.quantize.qdq_writer import QdqWriter
from segdeploy.deploy.quantize.shared_scales import Edge, Span, share_spans
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.targets.kernels import Kernels
from segdeploy.deploy.targets.profiles import TargetProfile

log = logging.getLogger(__name__)

AS_THE_RULE_SAYS = QdqPlacement()

EQUALISED_OF = "equalised_of"
"""Under which a file whose channels were scaled names the one it computes the same as."""


def to_int8(
    source: Artifact,
    output: Path,
    *,
    table: CalibrationTable,
    table_sha256: str,
    profile: TargetProfile,
    exclude: Collection[str] = (),
    placement: QdqPlacement = AS_THE_RULE_SAYS,
    learnt: LearntParameters | None = None,
) -> Artifact:
    """Quantize a float32 model for a target.

    Args:
        source: the float32 ONNX file that was calibrated.
        output: where to write.
        table: ranges of its activations.
        table_sha256: digest of the table's file, for the model's metadata.
        profile: what the target wants.
        exclude: names of nodes to keep in float.
        placement: what departs from where the target's rule puts Q and DQ.
        learnt: weights and biases in place of those that rounding the source's gives.

    Raises:
        InputError: the source is not float32, the table belongs to another model or lacks a
            tensor, or the placement or what was learnt is of another model.
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
    computed = computed_layers(model)
    for node in computed:
        log.warning(
            "%s (%s) stays in float: its weight or bias is computed", node.name, node.op_type
        )
    placement.require_known(model.graph)
    exclude = {*exclude, *placement.in_float}
    activations = activation_params(model, table, profile, exclude, placement)
    pixels = _pixels(model, profile, exclude)
    nodes = quantized_nodes(model, kernels=profile.kernels, exclude=exclude)
    on_integers = {node.name for node in nodes}
    activations |= {name: levels.params for name, levels in pixels.items()}
    activations, second = read_centred(model.graph, nodes, activations, profile.kernels)
    passed = passed_integers(model.graph, nodes, activations, profile.kernels, placement)
    shifts = {name: levels.shift for name, levels in pixels.items()}
    learnt = learnt or LearntParameters()
    learnt.require_fits(model.graph, largest=largest_weight(reduce_range=profile.reduce_range))
    writer = QdqWriter(model.graph, profile, on_integers, shifts, second, learnt)
    writer.quantize_weights(activations)
    writer.quantize_activations({n: p for n, p in activations.items() if n not in passed})
    writer.finish()
    own = {
        "parent_sha256": metadata(model).get(EQUALISED_OF, source.sha256),
        "precision": Precision.INT8.value,
        "target": profile.name,
        "calibration_sha256": table_sha256,
        "calibration_method": table.method.value,
        "float_layers": ",".join(sorted({*exclude, *(node.name for node in computed)})),
    }
    if placement:
        own["placement"] = placement.to_json()
    if learnt.provenance:
        own[METADATA_KEY] = learnt.provenance
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


def activation_params(
    model: onnx.ModelProto,
    table: CalibrationTable,
    profile: TargetProfile,
    exclude: Collection[str] = (),
    placement: QdqPlacement = AS_THE_RULE_SAYS,
) -> dict[str, QuantParams]:
    """Scale and zero point of every quantized activation, in graph order, and of constants.

    What carries its input's values takes its input's. A Concat's inputs and output
    share one as far as the profile allows, or the placement asks for. A constant that is added or
    joined has the range of its values.

    Raises:
        InputError: the table lacks a tensor.
    """
    graph = model.graph
    follows = followed_ranges(graph)
    names = quantized_activations(model, kernels=profile.kernels, exclude=exclude)
    constants = joined_constants(model, kernels=profile.kernels, exclude=exclude)
    index = GraphIndex(graph)
    rounded = {*names, *placement.rounded}
    names = tuple(name for name in index.tensors if name in rounded)
    spans: dict[str, Span] = {}
    for name in names:
        source = follows.get(name, name)
        if source not in table.ranges:
            raise InputError(
                f"the calibration table has no range for tensor {source!r:.80}; it is incomplete, "
                "or of a version that quantized fewer operators: calibrate this model again"
            )
        spans[source] = Span(low=table.ranges[source].min, high=table.ranges[source].max)
    for name in constants:
        values = index.value(name)
        spans[name] = Span(low=min(0.0, float(values.min())), high=max(0.0, float(values.max())))
    adopted: dict[str, str] = {}
    if profile.kernels.passed:
        adopted = _only_joined(graph, spans, follows, apart=placement.own_scales)

    def edges(nodes: Iterable[onnx.NodeProto]) -> list[Edge]:
        return [
            (follows.get(name, name), node.output[0])
            for node in nodes
            if node.output[0] in spans
            for name in activation_inputs(node)
            if follows.get(name, name) in spans and follows.get(name, name) not in adopted
        ]

    asked = edges(node for node in graph.node if node.name in placement.one_scale)
    usual = edges(
        node
        for node in graph.node
        if node.op_type == "Concat" and node.name not in placement.own_scales
    )
    limit_db = profile.shared_scale_cost_db
    if asked or limit_db is not None:
        cheap = usual if limit_db is not None else ()
        spans = share_spans(spans, cheap, limit_db=limit_db or 0.0, asked=asked)
    for name, joined in adopted.items():
        spans[name] = spans[joined]
    return {
        name: from_range(
            spans[follows.get(name, name)].low,
            spans[follows.get(name, name)].high,
            dtype=profile.activation_type,
            symmetric=profile.activation_symmetric,
        )
        for name in (*names, *constants)
    }


def _only_joined(
    graph: onnx.GraphProto,
    spans: Mapping[str, Span],
    follows: Mapping[str, str],
    *,
    apart: Collection[str],
) -> dict[str, str]:
    """Tensors that only a Concat with negative values reads: its output, which comes before them.

    They are rounded once, to the output's steps, where a scale of their own would cost a conversion
    and a second rounding. What the Concats ``apart`` read keeps its own, and so does what another
    Concat joined: OpenVINO 2026.4 compiles no DepthToSpace of one whose parts have other steps.
    """
    index, found = GraphIndex(graph), dict[str, str]()
    for node in reversed(graph.node):
        (output,) = node.output[:1] or [""]
        if node.op_type != "Concat" or node.name in apart:
            continue
        if output not in spans or spans[output].low >= 0:
            continue
        for name in node.input:
            each, root = name, follows.get(name, name)
            while each != root and index.only_reader(each) is not None:
                each = index.producer[each].input[0]
            if each != root or root not in spans or index.only_reader(root) is None:
                continue
            if index.made_by(root, "Concat") is None:
                found[root] = output
    return found


def read_centred(
    graph: onnx.GraphProto,
    nodes: Collection[onnx.NodeProto],
    activations: Mapping[str, QuantParams],
    kernels: Kernels,
) -> tuple[dict[str, QuantParams], dict[str, str]]:
    """Let nodes whose kernel wants zero point 0 read their input as s8, in place.

    Args:
        graph: a float graph; where others read the tensor, too, such a node reads a second name.
        nodes: that run on integers.
        activations: parameters by tensor.
        kernels: of the target.

    Returns:
        The parameters, with those changed and added; and for each second name its tensor.
    """
    index, found, second = GraphIndex(graph), dict(activations), dict[str, str]()

    def centres(node: onnx.NodeProto) -> bool:
        averages = node.op_type == "AveragePool"
        wants = node.op_type in kernels.no_zero_point
        return wants and (not averages or counts_padding(node, index))

    on_integers = {node.name for node in nodes}
    for node in graph.node:
        if not centres(node) or not (node.name in on_integers or counts_padding(node, index)):
            continue
        pad = None if node.input[0] in activations else index.made_by(node.input[0], "Pad")
        reader = node if pad is None else pad
        tensor = reader.input[0]
        params = activations.get(tensor)
        if params is None or params.zero_point == 0:
            continue
        low, high = (
            float(params.scale) * (end - int(params.zero_point))
            for end in (params.quant_min, params.quant_max)
        )
        centred = from_range(low, high, dtype=QuantType.S8, symmetric=True)
        if all(map(centres, index.readers[tensor])):
            found[tensor] = centred
        else:
            reader.input[0] = f"{tensor}/centred"
            found[reader.input[0]], second[reader.input[0]] = centred, tensor
    return found, second


def passed_integers(
    graph: onnx.GraphProto,
    nodes: Collection[onnx.NodeProto],
    activations: Mapping[str, QuantParams],
    kernels: Kernels,
    placement: QdqPlacement = AS_THE_RULE_SAYS,
) -> frozenset[str]:
    """Tensors that hold integers of the right scale without a pair of their own.

    A second pair behind what only moves integers is a conversion of its own to some runtimes,
    unless the zero point is 0: then it costs nothing, and stays.
    """
    usual, possible = set[str](), set[str]()
    index = GraphIndex(graph)
    for node in nodes:
        linear = attributes(node).get("mode") == "linear"
        joins = node.op_type == "Concat"
        if linear or not (joins or carries(node, index) is not Carries.NOTHING):
            continue
        names = activation_inputs(node)
        before = [activations[name] for name in names if name in activations]
        if len(before) < len(names) or any(each != before[0] for each in before):
            continue
        outputs = {name for name in node.output if activations.get(name) == before[0]}
        possible |= outputs
        free = node.op_type not in kernels.folded and before[0].zero_point == 0
        if node.op_type in kernels.passed and not free:
            usual |= outputs
    return frozenset(usual - {*placement.paired} | possible & {*placement.unpaired})


def _pixels(
    model: onnx.ModelProto, profile: TargetProfile, exclude: Collection[str]
) -> dict[str, PixelLevels]:
    """How the input is quantized without loss, by its name; empty where it cannot be."""
    nodes = quantized_nodes(model, kernels=profile.kernels, exclude=exclude)
    quantized = {node.name for node in nodes}
    name = takes_pixels(model.graph, quantized)
    if name is None or "preprocess" not in metadata(model):
        return {}
    levels = pixel_levels(contract_in(model, source="the model"), profile)
    return {} if levels is None else {name: levels}
