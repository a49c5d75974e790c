"""What is quantized, how ranges are found, and where Q and DQ stand in the int8 model."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tiny import TINY, exported, quantized, write_discs
from torch.utils.flop_counter import FlopCounterMode

from segdeploy.benchmarks.literature.torch_cost import torch_cost
from segdeploy.benchmarks.parity.evidence import stage_check
from segdeploy.calibration.estimate import Method
from segdeploy.calibration.qparams import QuantType, dequantize
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.data.image_set import Sample, SegmentationSet, open_set
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models import R2UNet, UNetPlusPlus
from segdeploy.deploy.models.checkpoint import load_checkpoint
from segdeploy.deploy.models.networks import Network
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.onnx_model.cost import onnx_cost
from segdeploy.deploy.onnx_model.file import describe, load_model, metadata, save_model
from segdeploy.deploy.quantize.activations import (
    followed_ranges,
    plan_observation,
    quantized_activations,
    unfused_outputs,
)
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.to_int8 import activation_params, to_int8
from segdeploy.deploy.runtimes.base import Execution, infer_each
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.stages.simplify import simplify
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.targets.kernels import Kernels
from segdeploy.deploy.targets.profiles import (
    OPENVINO_CPU,
    ORT_X86,
    PROFILES,
    TargetProfile,
    made_for,
    native_profile,
    profile_named,
)
from segdeploy.deploy.targets.saturation import weights_of_8_bits

NETWORKS = ("unet", "r2u")
Values = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A network from the float file to the int8 file."""

    exported: Artifact
    source: Artifact
    images: SegmentationSet
    table: CalibrationTable
    int8: Artifact


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images of bright discs on noise; six to calibrate on."""
    splits = ["train"] * 6 + ["test"] * 2
    return write_discs(tmp_path_factory.mktemp("images"), splits, seed=11, area=(20, 80))


@pytest.fixture(scope="module")
def chains(
    tmp_path_factory: pytest.TempPathFactory,
    image_folder: Path,
    _tiny_unet: UNetPlusPlus,
    _tiny_r2u: R2UNet,
) -> dict[str, Chain]:
    images = open_set(image_folder, "train")

    def chain(name: str, network: Network, head: int | None) -> Chain:
        folder = tmp_path_factory.mktemp(name)
        fp32 = exported(network, folder, head=head)
        source = simplify(fp32, folder / "net.sim.onnx") if head is None else fp32
        table = calibrate(source, images, preprocess=TINY, threads=1)
        int8 = quantized(source, folder / "net.int8.onnx", table)
        return Chain(exported=fp32, source=source, images=images, table=table, int8=int8)

    return {"unet": chain("unet", _tiny_unet, 2), "r2u": chain("r2u", _tiny_r2u, None)}


class Graph:
    """A QDQ graph with its constants and producers at hand."""

    def __init__(self, artifact: Artifact) -> None:
        self.nodes = list(load_model(artifact.path).graph.node)
        self.constants = {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in load_model(artifact.path).graph.initializer
        }
        self.producer = {name: node for node in self.nodes for name in node.output}

    def of(self, operator: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if node.op_type == operator]

    def dequantizer(self, name: str) -> onnx.NodeProto:
        node: onnx.NodeProto = self.producer[name]
        assert node.op_type == "DequantizeLinear", f"{name} is not dequantized"
        return node

    def scale(self, name: str) -> Values:
        """Scale of a dequantized tensor."""
        return self.constants[self.dequantizer(name).input[1]]

    def zero_point(self, name: str) -> Values:
        return self.constants[self.dequantizer(name).input[2]]

    def integers(self, name: str) -> Values:
        return self.constants[self.dequantizer(name).input[0]]


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


@pytest.mark.parametrize(("name", "head"), [("unet", 2), ("r2u", None)])
def test_every_layer_costs_what_it_costs_in_pytorch(
    chains: dict[str, Chain], name: str, head: int | None
) -> None:
    """Float as exported, simplified and int8; BatchNorm is folded, so convolutions are compared.

    Each use of a shared int8 convolution has a bias of its own, in the scale of its own input.
    """
    chain = chains[name]
    checkpoint = load_checkpoint(chain.exported.path.with_name("net.safetensors"), head=head)
    network = checkpoint.probability()
    layers = [x for x in torch_cost(network, (1, 3, 32, 32)).layers if x.op == "Conv"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    for artifact in (chain.exported, chain.source, chain.int8):
        cost = onnx_cost(artifact.path)
        own_bias = artifact is chain.int8
        assert sorted(
            (x.name.partition("@")[0], x.macs, x.parameters, x.output_shape) for x in cost.layers
        ) == sorted(
            (
                x.name.removeprefix("network."),
                x.macs,
                x.parameters or (x.output_shape[1] if own_bias else 0),
                x.output_shape,
            )
            for x in layers
        )
        assert cost.flops == counter.get_total_flops()
        assert cost.not_counted == ()


@pytest.mark.parametrize("name", NETWORKS)
class TestPlacement:
    def test_every_input_of_every_convolution_is_dequantized(
        self, chains: dict[str, Chain], name: str
    ) -> None:
        graph = Graph(chains[name].int8)
        assert graph.of("Conv")
        for node in graph.of("Conv"):
            assert [graph.dequantizer(tensor).name for tensor in node.input[1:]] == [
                f"{node.name}/weight/DQ",
                f"{node.name}/bias/DQ",
            ]
            assert graph.producer[graph.dequantizer(node.input[0]).input[0]].op_type == (
                "QuantizeLinear"
            )

    def test_the_source_is_still_there_node_by_node(
        self, chains: dict[str, Chain], name: str
    ) -> None:
        kept = [n for n in Graph(chains[name].int8).nodes if not n.op_type.endswith("Linear")]
        shift = kept.pop(0)  # half a level, so that pixels fall on integers
        assert (shift.name, shift.op_type, shift.input[0]) == ("image/Shift", "Add", "image")
        source = Graph(chains[name].source).nodes
        assert [(n.name, n.op_type) for n in kept] == [(n.name, n.op_type) for n in source]
        assert [list(n.output) for n in kept] == [list(n.output) for n in source]
        assert [attributes(n) for n in kept] == [attributes(n) for n in source]
        assert sum(node.op_type == "Relu" for node in kept) > 10

    def test_activations_are_u8_and_quantized_once(
        self, chains: dict[str, Chain], name: str
    ) -> None:
        graph = Graph(chains[name].int8)
        pairs = graph.of("QuantizeLinear")
        sources = [node.input[0] for node in pairs]
        assert len(set(sources)) == len(sources) == len({node.name for node in pairs})
        for node in pairs:
            scale, zero = (graph.constants[tensor] for tensor in node.input[1:])
            assert (str(scale.dtype), scale.shape) == ("float32", ())
            assert (str(zero.dtype), zero.shape) == ("uint8", ())
            back = [n for n in graph.of("DequantizeLinear") if n.input[0] == node.output[0]]
            assert [list(n.input[1:]) for n in back] == [list(node.input[1:])]

    def test_weights_are_s8_with_one_scale_for_each_output_channel(
        self, chains: dict[str, Chain], name: str
    ) -> None:
        graph, source = Graph(chains[name].int8), Graph(chains[name].source)
        for node, original in zip(graph.of("Conv"), source.of("Conv"), strict=True):
            weight = source.constants[original.input[1]]
            integers, scale = graph.integers(node.input[1]), graph.scale(node.input[1])
            assert attributes(graph.dequantizer(node.input[1])) == {"axis": 0}
            assert (str(integers.dtype), integers.shape) == ("int8", weight.shape)
            assert (str(scale.dtype), scale.shape) == ("float32", weight.shape[:1])
            assert np.abs(integers.astype(int)).max() == 127
            wide = scale.astype(np.float64).reshape(-1, 1, 1, 1)
            error = (integers * wide - weight) / wide
            assert (np.abs(error) <= 1 + 1e-5).all()
            assert (np.abs(error.sum(axis=(2, 3))) <= 1 + 1e-3).all(), "of a kernel they cancel"

    def test_biases_are_int32_on_the_product_of_scales(
        self, chains: dict[str, Chain], name: str
    ) -> None:
        graph, source = Graph(chains[name].int8), Graph(chains[name].source)
        for node, original in zip(graph.of("Conv"), source.of("Conv"), strict=True):
            data, weight, bias = node.input
            product = np.float32(graph.scale(data)) * graph.scale(weight).astype(np.float32)
            np.testing.assert_array_equal(graph.scale(bias), product)
            integers = graph.integers(bias)
            assert integers.dtype == np.int32
            wanted = source.constants[original.input[2]].astype(np.float64)
            if data == "image/dq":  # takes off what was added before rounding
                wide = graph.scale(weight).astype(np.float64).reshape(-1, 1, 1, 1)
                sums = (graph.integers(weight) * wide).sum(axis=(1, 2, 3))
                wanted = wanted - graph.constants["image/shift"] * sums
            error = np.abs(integers * product.astype(np.float64) - wanted)
            assert (error <= product * 0.501).all()

    def test_maxpool_and_resize_keep_the_scale_of_their_input(
        self, chains: dict[str, Chain], name: str
    ) -> None:
        graph = Graph(chains[name].int8)
        selecting = [*graph.of("MaxPool"), *graph.of("Resize")]
        assert len(selecting) >= 5
        for node in selecting:
            made = f"{node.output[0]}/dq"
            for figure in (graph.scale, graph.zero_point):
                np.testing.assert_array_equal(figure(node.input[0]), figure(made))

    def test_zero_and_the_range_of_the_table_are_representable(
        self, chains: dict[str, Chain], name: str
    ) -> None:
        chain = chains[name]
        alone = dataclasses.replace(ORT_X86, shared_scale_cost_db=None)
        params = activation_params(load_model(chain.source.path), chain.table, alone)
        for tensor, found in params.items():
            lowest, highest = dequantize(np.array([0, 255], np.uint8), found)
            assert lowest <= 0 <= highest
            if tensor in chain.table.ranges:
                step = float(found.scale)
                assert lowest <= chain.table.ranges[tensor].min + step
                assert highest >= chain.table.ranges[tensor].max - step

    def test_without_sharing_a_tensor_has_the_range_of_the_table(
        self, chains: dict[str, Chain], name: str
    ) -> None:
        chain = chains[name]
        alone = dataclasses.replace(ORT_X86, shared_scale_cost_db=None)
        params = activation_params(load_model(chain.source.path), chain.table, alone)
        for tensor in params.keys() & chain.table.ranges.keys():
            lowest, highest = dequantize(np.array([0, 255], np.uint8), params[tensor])
            step = float(params[tensor].scale)
            assert lowest == pytest.approx(min(chain.table.ranges[tensor].min, 0), abs=step)
            assert highest == pytest.approx(max(chain.table.ranges[tensor].max, 0), abs=step)

    def test_a_concat_shares_one_scale_with_the_inputs_it_may(
        self, chains: dict[str, Chain], name: str
    ) -> None:
        chain = chains[name]
        graph = load_model(chain.source.path).graph
        always = dataclasses.replace(ORT_X86, shared_scale_cost_db=1e9)
        never = dataclasses.replace(ORT_X86, shared_scale_cost_db=None)
        shared = activation_params(load_model(chain.source.path), chain.table, always)
        alone = activation_params(load_model(chain.source.path), chain.table, never)
        joined = 0
        for node in graph.node:
            if node.op_type == "Concat":
                for tensor in node.input:
                    same_sign = (alone[tensor].zero_point > 0) == (
                        alone[node.output[0]].zero_point > 0
                    )
                    if same_sign:
                        assert shared[tensor] == shared[node.output[0]]
                        joined += alone[tensor] != alone[node.output[0]]
        assert joined > 0

    def test_sharing_never_moves_the_zero_point_behind_a_relu(
        self, chains: dict[str, Chain], name: str
    ) -> None:
        chain = chains[name]
        graph = load_model(chain.source.path).graph
        always = dataclasses.replace(ORT_X86, shared_scale_cost_db=1e9)
        params = activation_params(load_model(chain.source.path), chain.table, always)
        for node in graph.node:
            if node.op_type == "Relu" and node.output[0] in params:
                assert params[node.output[0]].zero_point == 0

    def test_the_function_stays_close_to_float(
        self, chains: dict[str, Chain], image_folder: Path, name: str
    ) -> None:
        images = open_set(image_folder, None).inputs(TINY)
        outputs = []
        for artifact in (chains[name].source, chains[name].int8):
            with open_runtime(
                RuntimeName.ONNXRUNTIME, artifact, execution=Execution(threads=1)
            ) as runtime:
                outputs.append(infer_each(runtime, images))
        check = stage_check(*outputs)
        assert check.sqnr_db is not None
        assert check.sqnr_db > 15, "random narrow networks amplify noise; trained ones lose less"
        assert check.disagreement_percent < 10
        float_class, int8_class = (output >= 0.5 for output in outputs)
        iou = (float_class & int8_class).sum() / (float_class | int8_class).sum()
        assert 0.1 < float_class.mean() < 0.9
        assert iou > 0.8

    def test_integer_kernels_compute_what_the_graph_says(
        self, chains: dict[str, Chain], image_folder: Path, name: str
    ) -> None:
        images = open_set(image_folder, None).inputs(TINY)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        literal = onnxruntime.InferenceSession(
            chains[name].int8.path, options, providers=["CPUExecutionProvider"]
        )
        (expected,) = literal.run(None, {"image": images})
        with open_runtime(
            RuntimeName.ONNXRUNTIME, chains[name].int8, execution=Execution(threads=1)
        ) as runtime:
            assert runtime.executed.words.startswith("int8")
            found = infer_each(runtime, images)
        with open_runtime(
            RuntimeName.ONNXRUNTIME, chains[name].source, execution=Execution(threads=1)
        ) as runtime:
            quantization = stage_check(infer_each(runtime, images), found).sqnr_db
        kernels = stage_check(expected, found).sqnr_db
        assert quantization is not None
        # No finite ratio: not one value differs. The runtime may add little to what rounding costs.
        assert kernels is None or kernels > quantization + 6

    def test_metadata_names_parent_target_and_calibration(
        self, chains: dict[str, Chain], name: str
    ) -> None:
        chain = chains[name]
        own = {
            "parent_sha256": chain.source.sha256,
            "precision": "int8",
            "target": "ort-x86",
            "calibration_sha256": "ab" * 32,
            "calibration_method": "entropy",
            "float_layers": "",
        }
        inherited = metadata(load_model(chain.source.path))
        assert metadata(load_model(chain.int8.path)) == inherited | own
        assert chain.int8.precision is Precision.INT8
        assert (chain.int8.parent, chain.int8.target) == (chain.source.sha256, "ort-x86")
        assert describe(chain.source.path) == chain.source, "the source must stay as it was"

    def test_two_runs_give_the_same_bytes(
        self, chains: dict[str, Chain], tmp_path: Path, name: str
    ) -> None:
        chain = chains[name]
        again = quantized(chain.source, tmp_path / "again.onnx", chain.table)
        assert again.path.read_bytes() == chain.int8.path.read_bytes()


class TestSharing:
    def test_recurrent_weights_are_stored_once_from_export_to_int8(
        self, chains: dict[str, Chain]
    ) -> None:
        chain = chains["r2u"]
        for artifact in (chain.exported, chain.source):
            uses = Counter(node.input[1] for node in Graph(artifact).of("Conv"))
            assert sorted(Counter(uses.values()).items()) == [(1, 14), (3, 18)]
        graph = Graph(chain.int8)
        stored = Counter(graph.dequantizer(n.input[1]).input[0] for n in graph.of("Conv"))
        assert sorted(Counter(stored.values()).items()) == [(1, 14), (3, 18)]
        four_d = [name for name, value in graph.constants.items() if value.ndim == 4]
        assert sorted(four_d) == sorted(stored)

    def test_the_int8_file_is_a_quarter_plus_what_the_graph_itself_takes(
        self, chains: dict[str, Chain]
    ) -> None:
        chain = chains["r2u"]
        weights = sum(v.size for v in Graph(chain.source).constants.values() if v.ndim == 4)
        size = chain.int8.path.stat().st_size
        per_node = (size - weights) / len(Graph(chain.int8).nodes)
        assert weights < size < chain.source.path.stat().st_size
        assert per_node < 400, "bytes for each node: a copied weight would show here"

    def test_no_float_weight_is_left_over(self, chains: dict[str, Chain]) -> None:
        for chain in chains.values():
            graph = Graph(chain.int8)
            used = {name for node in graph.nodes for name in node.input}
            assert set(graph.constants) <= used
            assert not [
                name
                for name, value in graph.constants.items()
                if value.dtype == np.float32 and value.ndim == 4
            ]


class TestExclude:
    def test_an_excluded_layer_stays_in_float(
        self, chains: dict[str, Chain], tmp_path: Path
    ) -> None:
        chain = chains["unet"]
        kept = ("conv0_0.conv.0", "final2")
        made = quantized(chain.source, tmp_path / "net.onnx", chain.table, exclude=kept)
        graph, source = Graph(made), Graph(chain.source)
        assert metadata(load_model(made.path))["float_layers"] == "conv0_0.conv.0,final2"
        for node, original in zip(graph.of("Conv"), source.of("Conv"), strict=True):
            if node.name in kept:
                assert node.input[1] == original.input[1]
                np.testing.assert_array_equal(
                    graph.constants[node.input[1]], source.constants[original.input[1]]
                )
            else:
                assert graph.integers(node.input[1]).dtype == np.int8
        first = next(node for node in graph.of("Conv") if node.name == "conv0_0.conv.0")
        assert first.input[0] == "image", "nobody else wants the image in int8"

    @pytest.mark.parametrize("kept", ["conv1_0.conv.0", "conv0_1.conv.3"])
    def test_onnx_runtime_runs_an_excluded_layer_in_float(
        self, chains: dict[str, Chain], tmp_path: Path, kept: str
    ) -> None:
        """By itself it would quantize a float convolution between two quantized ones."""
        chain = chains["unet"]
        made = quantized(chain.source, tmp_path / "net.onnx", chain.table, exclude=[kept])
        with open_runtime(RuntimeName.ONNXRUNTIME, made, execution=Execution(threads=1)) as runtime:
            assert kept in runtime.executed.float_layers
        graph, source = Graph(made), Graph(chain.source)
        (node,) = [n for n in graph.of("Conv") if n.name == kept]
        (original,) = [n for n in source.of("Conv") if n.name == kept]
        stored = graph.dequantizer(node.input[2])
        bias = graph.constants[stored.input[0]] * graph.constants[stored.input[1]].astype(float)
        np.testing.assert_allclose(bias, source.constants[original.input[2]], rtol=2e-7, atol=1e-9)

    def test_one_use_of_a_shared_weight_can_stay_in_float(
        self, chains: dict[str, Chain], tmp_path: Path
    ) -> None:
        chain = chains["r2u"]
        kept = "RRCNN1.RCNN.0.conv.0@2"
        graph = Graph(quantized(chain.source, tmp_path / "n.onnx", chain.table, exclude=[kept]))
        uses = {n.name: n.input[1] for n in graph.of("Conv") if n.name.startswith(kept[:-2])}
        assert uses.pop(kept) == "RRCNN1.RCNN.0.conv.0.weight"
        assert {graph.dequantizer(name).input[0] for name in uses.values()} == {
            "RRCNN1.RCNN.0.conv.0.weight/q"
        }

    def test_excluding_every_layer_gives_the_float_function_bit_for_bit(
        self, chains: dict[str, Chain], tmp_path: Path
    ) -> None:
        chain = chains["unet"]
        everything = [node.name for node in Graph(chain.source).nodes]
        made = quantized(chain.source, tmp_path / "n.onnx", chain.table, exclude=everything)
        images = chain.images.inputs(TINY)
        outputs = []
        for artifact in (chain.source, made):
            with open_runtime(
                RuntimeName.ONNXRUNTIME, artifact, execution=Execution(threads=1)
            ) as runtime:
                outputs.append(infer_each(runtime, images))
        np.testing.assert_array_equal(outputs[0], outputs[1])

    def test_unknown_layers_are_all_listed(self, chains: dict[str, Chain], tmp_path: Path) -> None:
        chain = chains["unet"]
        with pytest.raises(UsageError, match=r"--exclude names no layer of .*: conv9, head\b"):
            quantized(
                chain.source, tmp_path / "n.onnx", chain.table, exclude=["head", "final2", "conv9"]
            )
        with pytest.raises(UsageError, match=r": finall2; did you mean final2\?$"):
            quantized(chain.source, tmp_path / "n.onnx", chain.table, exclude=["finall2"])
        assert list(tmp_path.iterdir()) == []


class TestTable:
    def test_a_table_of_another_model_is_refused(
        self, chains: dict[str, Chain], tmp_path: Path
    ) -> None:
        table = chains["r2u"].table
        with pytest.raises(InputError, match=r"made for another model.*calibrate this model"):
            quantized(chains["unet"].source, tmp_path / "n.onnx", table)

    def test_a_table_that_names_no_model_is_taken_when_its_tensors_fit(
        self, chains: dict[str, Chain], tmp_path: Path
    ) -> None:
        unsigned = dataclasses.replace(chains["unet"].table, model_sha256=None)
        made = quantized(chains["unet"].source, tmp_path / "n.onnx", unsigned)
        assert made.sha256 == chains["unet"].int8.sha256
        with pytest.raises(InputError, match=r"which is no tensor of .*net\.sim\.onnx"):
            quantized(chains["r2u"].source, tmp_path / "n.onnx", unsigned)

    def test_a_missing_tensor_is_named(self, chains: dict[str, Chain], tmp_path: Path) -> None:
        chain = chains["unet"]
        missing = "conv1_0.conv.3/Relu"
        ranges = {name: r for name, r in chain.table.ranges.items() if name != missing}
        with pytest.raises(InputError, match=f"no range for tensor '{missing}'"):
            quantized(
                chain.source, tmp_path / "n.onnx", dataclasses.replace(chain.table, ranges=ranges)
            )

    def test_only_fp32_is_quantized(self, chains: dict[str, Chain], tmp_path: Path) -> None:
        chain = chains["unet"]
        with pytest.raises(InputError, match="is int8; int8 is made from fp32"):
            quantized(chain.int8, tmp_path / "n.onnx", chain.table)


def graph_with(nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
    """Nodes over the input x; w is a weight."""
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    return helper.make_graph(
        nodes,
        "handmade",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 4, 4])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [weight],
    )


def model_of(graph: onnx.GraphProto) -> onnx.ModelProto:
    """A graph in the opset of our exports."""
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def node(operator: str, inputs: str, output: str) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), [output], name=f"{operator}:{output}")


class TestActivations:
    handmade = graph_with(
        [
            node("Conv", "x w", "c1"),
            node("Relu", "c1", "r1"),
            node("MaxPool", "r1", "p"),
            node("Resize", "p", "u"),
            node("Concat", "r1 u", "cat1"),
            node("Concat", "cat1 x", "cat2"),
            node("MaxPool", "cat2", "pooled"),
            node("Conv", "pooled w", "c2"),
            node("Sigmoid", "c2", "y"),
        ]
    )

    def test_inputs_of_quantized_operators_get_a_scale_in_graph_order(self) -> None:
        found = quantized_activations(model_of(self.handmade), kernels=ORT_X86.kernels)
        assert found == ("x", "r1", "p", "u", "cat1", "cat2", "pooled")
        alone = Kernels(integers=frozenset({"Conv"}), fused=frozenset())
        assert quantized_activations(model_of(self.handmade), kernels=alone) == ("x", "pooled")

    def test_an_excluded_node_wants_nothing(self) -> None:
        kept = quantized_activations(
            model_of(self.handmade), kernels=ORT_X86.kernels, exclude=["Resize:u", "Conv:c2"]
        )
        assert kept == ("x", "r1", "u", "cat1", "cat2")

    def test_selecting_operators_follow_to_the_start_of_their_chain(self) -> None:
        assert followed_ranges(self.handmade) == {"p": "r1", "u": "r1", "pooled": "cat2"}

    def test_only_what_nothing_else_tells_is_observed(self) -> None:
        plan = plan_observation(model_of(self.handmade))
        assert plan.observed == ("x", "r1", "c2")  # c2 are the logits
        assert plan.summed == {"cat1": ("r1", "r1"), "cat2": ("r1", "r1", "x")}
        assert plan.follows == {"p": "r1", "u": "r1", "pooled": "cat2"}

    @pytest.mark.parametrize("name", NETWORKS)
    def test_the_table_holds_a_range_for_every_quantized_tensor(
        self, chains: dict[str, Chain], name: str
    ) -> None:
        model = load_model(chains[name].source.path)
        graph = model.graph
        wanted = quantized_activations(model, kernels=ORT_X86.kernels)
        follows = followed_ranges(graph)
        needed = {follows.get(tensor, tensor) for tensor in wanted}
        assert needed | set(unfused_outputs(graph)) == set(chains[name].table.ranges)


class TestCalibrate:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_observed_ends_are_those_of_the_values(
        self, chains: dict[str, Chain], name: str
    ) -> None:
        chain = chains[name]
        values = all_values(chain.source, chain.images)
        for tensor, found in chain.table.ranges.items():
            low, high = float(values[tensor].min()), float(values[tensor].max())
            if tensor.startswith("Concat"):  # of upsampled tensors, whose source reaches further
                assert found.observed_min - 1e-5 <= low <= high <= found.observed_max + 1e-5
            else:
                assert found.observed_min == pytest.approx(low, abs=1e-5)
                assert found.observed_max == pytest.approx(high, abs=1e-5)
            assert found.observed_min <= found.min <= found.max <= found.observed_max
        for tensor, source in followed_ranges(load_model(chain.source.path).graph).items():
            found = chain.table.ranges[source]
            assert found.observed_min - 1e-5 <= float(values[tensor].min())
            assert float(values[tensor].max()) <= found.observed_max + 1e-5

    def test_the_table_says_what_it_was_made_of(self, chains: dict[str, Chain]) -> None:
        chain = chains["unet"]
        assert chain.table.num_samples == len(chain.images) == 6
        assert chain.table.data_sha256 == chain.images.sha256()
        assert chain.table.model_sha256 == chain.source.sha256
        assert chain.table.method is Method.ENTROPY
        assert any(found.candidates > 100 for found in chain.table.ranges.values())

    def test_neither_order_nor_threads_change_the_table(self, chains: dict[str, Chain]) -> None:
        chain = chains["unet"]
        backwards = dataclasses.replace(chain.images, samples=chain.images.samples[::-1])
        found = calibrate(chain.source, backwards, preprocess=TINY, threads=2)
        assert found.to_json() == chain.table.to_json()

    def test_minmax_takes_what_was_observed(self, chains: dict[str, Chain]) -> None:
        chain = chains["unet"]
        table = calibrate(
            chain.source, chain.images, preprocess=TINY, method=Method.MINMAX, threads=1
        )
        assert table.method is Method.MINMAX
        for name, found in table.ranges.items():
            assert (found.min, found.max) == (found.observed_min, found.observed_max)
            assert found.observed_max == chain.table.ranges[name].observed_max

    @pytest.mark.parametrize("counted", [1, 4])
    def test_an_interrupted_calibration_goes_on_and_gives_the_same_bytes(
        self,
        chains: dict[str, Chain],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        counted: int,
    ) -> None:
        monkeypatch.setattr("segdeploy.deploy.quantize.calibrate.SAVE_EVERY_S", -1.0)
        chain, state = chains["unet"], tmp_path / "state.npz"

        def interrupted(samples: Iterable[Sample]) -> Iterator[Sample]:
            for number, sample in enumerate(samples):
                if number == counted:
                    raise KeyboardInterrupt
                yield sample

        with pytest.raises(KeyboardInterrupt):
            calibrate(
                chain.source,
                chain.images,
                preprocess=TINY,
                state=state,
                threads=1,
                progress=interrupted,
            )
        assert state.is_file()
        left: list[str] = []

        def noted(samples: Iterable[Sample]) -> Iterator[Sample]:
            for sample in samples:
                left.append(sample.name)
                yield sample

        table = calibrate(
            chain.source, chain.images, preprocess=TINY, state=state, threads=1, progress=noted
        )
        assert left == [sample.name for sample in chain.images][counted:]
        assert table.to_json() == chain.table.to_json()
        assert state.is_file(), "whoever keeps the table removes the state, and not before"

    def test_a_state_that_holds_everything_needs_no_image(
        self, chains: dict[str, Chain], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("segdeploy.deploy.quantize.calibrate.SAVE_EVERY_S", -1.0)
        monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
        chain, state = chains["unet"], tmp_path / "state.npz"

        def run() -> str:
            return calibrate(
                chain.source, chain.images, preprocess=TINY, state=state, threads=1
            ).to_json()

        first = run()
        assert state.is_file()
        monkeypatch.setattr("segdeploy.deploy.quantize.calibrate._observing_session", None)
        assert run() == first

    def test_a_state_of_another_model_or_image_set_is_refused(
        self, chains: dict[str, Chain], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("segdeploy.deploy.quantize.calibrate.SAVE_EVERY_S", -1.0)
        chain, state = chains["unet"], tmp_path / "state.npz"
        with monkeypatch.context() as kept:
            kept.setattr(Path, "unlink", lambda *_, **__: None)
            calibrate(chain.source, chain.images, preprocess=TINY, state=state, threads=1)
        fewer = chain.images.take(3, seed=0)
        for source, images in ((chains["r2u"].source, chain.images), (chain.source, fewer)):
            with pytest.raises(InputError, match="remove it to start over"):
                calibrate(source, images, preprocess=TINY, state=state, threads=1)

    def test_a_damaged_state_is_refused_by_name(
        self, chains: dict[str, Chain], tmp_path: Path
    ) -> None:
        chain, state = chains["unet"], tmp_path / "state.npz"
        state.write_bytes(b"PK\x03\x04 cut short")
        with pytest.raises(InputError, match=r"state\.npz is not a calibration state"):
            calibrate(chain.source, chain.images, preprocess=TINY, state=state, threads=1)

    @pytest.mark.parametrize("operator", ["Sqrt", "Reciprocal"])
    def test_nan_and_inf_name_tensor_and_image(self, tmp_path: Path, operator: str) -> None:
        # White becomes 1, black 0: the reciprocal of 0 is Inf; white 1 - 2 below is negative.
        offset = 2.0 if operator == "Sqrt" else 0.0
        source = failing_model(tmp_path / "net.onnx", operator, offset=offset)
        images = plain_images(tmp_path, {"a": 40, "b": 255 if operator == "Sqrt" else 0, "c": 60})
        scale = (0.0, 3.0) if operator == "Sqrt" else (0.0, 1.0)
        contract = Preprocess(size=(16, 16), mean=(scale[0],) * 3, std=(1 / scale[1],) * 3)
        with pytest.raises(InputError, match=r"tensor 'risky' of image 'b'"):
            calibrate(source, images, preprocess=contract, threads=1)

    def test_an_unreadable_image_is_named(self, chains: dict[str, Chain], tmp_path: Path) -> None:
        images = plain_images(tmp_path, {"a": 40, "b": 50})
        (tmp_path / "images" / "b.png").write_bytes(b"not an image")
        with pytest.raises(InputError, match=r"b\.png cannot be read"):
            calibrate(chains["unet"].source, images, preprocess=TINY, threads=1)

    def test_only_fp32_is_calibrated(self, chains: dict[str, Chain]) -> None:
        chain = chains["unet"]
        with pytest.raises(InputError, match="is int8; ranges are observed from fp32"):
            calibrate(chain.int8, chain.images, preprocess=TINY)


def all_values(source: Artifact, images: SegmentationSet) -> Mapping[str, NDArray[np.float32]]:
    """Every tensor of the graph over all images at once, by a session of its own."""
    model = load_model(source.path)
    outputs = {value.name for value in model.graph.output}
    names = [name for n in model.graph.node for name in n.output]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in names
        if name not in outputs
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feed = images.inputs(TINY)
    found = dict(zip(names, session.run(names, {"image": feed}), strict=True))
    return {**found, "image": feed}


def failing_model(path: Path, operator: str, *, offset: float) -> Artifact:
    """conv(operator(offset - x)) for an offset, conv(operator(x)) without."""
    shift = numpy_helper.from_array(np.array(offset, np.float32), "offset")
    weight = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), "w")
    first = ["offset", "image"] if offset else ["image", "offset"]
    graph = helper.make_graph(
        [
            helper.make_node("Sub", first, ["shifted"], name="sub"),
            helper.make_node(operator, ["shifted"], ["risky"], name="risky"),
            helper.make_node("Conv", ["risky", "w"], ["y"], name="conv"),
        ],
        "failing",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1, 16, 16])],
        [shift, weight],
    )
    opset = [helper.make_opsetid("", 18)]
    save_model(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return describe(path)


def plain_images(root: Path, greys: Mapping[str, int]) -> SegmentationSet:
    """One image of a single grey for each name."""
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for name, grey in greys.items():
        pixels = np.full((16, 16), grey, np.uint8)
        Image.fromarray(pixels).convert("RGB").save(root / "images" / f"{name}.png")
        Image.fromarray(pixels).save(root / "masks" / f"{name}.png")
    return open_set(root, None)


class TestProfiles:
    def test_every_profile_is_found_by_its_name(self) -> None:
        for name, profile in PROFILES.items():
            assert profile_named(name) is profile
            assert profile.name == name
        assert profile_named("openvino-cpu") is OPENVINO_CPU

    def test_an_unknown_target_lists_the_known_ones(self) -> None:
        with pytest.raises(UsageError, match=r"'gpu' is unknown; choose from .*ort-x86"):
            profile_named("gpu")

    @pytest.mark.parametrize("target", ["ort-arm", "tensorrt"])
    def test_symmetric_targets_have_s8_and_zero_points_of_zero_everywhere(
        self, chains: dict[str, Chain], tmp_path: Path, target: str
    ) -> None:
        chain = chains["r2u"]
        made = to_int8(
            chain.source,
            tmp_path / "s8.onnx",
            table=chain.table,
            table_sha256=sha256_of(chain.source.path),
            profile=profile_named(target),
        )
        model = load_model(made.path)
        constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        points = [constants[n] for n in constants if n.endswith("/zero_point")]
        assert points
        assert all(point.dtype == np.int8 and point == 0 for point in points)
        biases = [n.input[2] for n in model.graph.node if n.op_type == "Conv"]
        in_float = [bias in constants and constants[bias].dtype == np.float32 for bias in biases]
        assert all(in_float) if target == "tensorrt" else not any(in_float)

    @pytest.mark.parametrize(
        ("machine", "isa", "ort", "openvino"),
        [
            ("x86_64", ["avx2", "avx512_vnni"], "ort-x86", "openvino-cpu"),
            ("x86_64", ["avx2"], "ort-x86-no-vnni", "openvino-cpu-no-vnni"),
            ("AMD64", [], "ort-x86", "openvino-cpu"),
            ("aarch64", ["asimddp"], "ort-arm", "openvino-cpu"),
        ],
    )
    def test_the_native_profile_follows_the_processor(
        self, machine: str, isa: list[str], ort: str, openvino: str
    ) -> None:
        for runtime, expected in ((RuntimeName.ONNXRUNTIME, ort), (RuntimeName.OPENVINO, openvino)):
            assert native_profile(runtime, machine=machine, isa=isa).name == expected

    def test_every_profile_that_can_saturate_names_the_one_that_cannot(self) -> None:
        for profile in PROFILES.values():
            saturates = profile.activation_type is QuantType.U8 and not profile.reduce_range
            assert saturates is (profile.without_vnni is not None)
            if profile.without_vnni is not None:
                narrow = profile_named(profile.without_vnni)
                assert narrow.reduce_range
                assert narrow.runtime is profile.runtime
                assert profile.without_vnni in str(made_for(profile.name))

    def test_7_bit_weights_are_what_the_narrow_profiles_write(
        self, chains: dict[str, Chain], tmp_path: Path
    ) -> None:
        chain = chains["unet"]
        for name in ("openvino-cpu", "openvino-cpu-no-vnni"):
            path = tmp_path / f"{name}.onnx"
            quantized(chain.source, path, chain.table, profile=profile_named(name))
            assert weights_of_8_bits(path) is (name == "openvino-cpu")

    @pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
    def test_a_profile_decides_the_arithmetic(
        self, chains: dict[str, Chain], tmp_path: Path, profile: TargetProfile
    ) -> None:
        chain = chains["unet"]
        made = quantized(chain.source, tmp_path / "n.onnx", chain.table, profile=profile)
        graph = Graph(made)
        assert made.target == profile.name
        points = [graph.constants[node.input[2]] for node in graph.of("QuantizeLinear")]
        assert {point.dtype for point in points} == {profile.activation_type.numpy}
        assert not profile.activation_symmetric or set(map(int, points)) == {0}
        largest = {int(np.abs(graph.integers(n.input[1])).max()) for n in graph.of("Conv")}
        assert largest == {64 if profile.reduce_range else 127}
        biases = [node.input[2] for node in graph.of("Conv")]
        if profile.quantize_bias:
            assert {graph.integers(name).dtype for name in biases} == {np.dtype(np.int32)}
        else:
            assert {graph.constants[name].dtype for name in biases} == {np.dtype(np.float32)}
        images = chain.images.inputs(TINY)
        outputs = []
        for artifact in (chain.source, made):
            with open_runtime(
                RuntimeName.ONNXRUNTIME, artifact, execution=Execution(threads=1)
            ) as runtime:
                outputs.append(infer_each(runtime, images))
        assert stage_check(*outputs).disagreement_percent < 10

    def test_sharing_scales_widens_ranges_and_only_as_far_as_the_profile_allows(
        self, chains: dict[str, Chain]
    ) -> None:
        chain = chains["unet"]
        model = load_model(chain.source.path)
        limit = ORT_X86.shared_scale_cost_db
        assert limit is not None
        alone, shared = (
            activation_params(model, chain.table, profile)
            for profile in (dataclasses.replace(ORT_X86, shared_scale_cost_db=None), ORT_X86)
        )
        assert alone.keys() == shared.keys()
        ratios = [float(shared[name].scale / alone[name].scale) for name in alone]
        assert all(1 - 1e-6 <= ratio <= 10 ** (limit / 20) * (1 + 1e-6) for ratio in ratios)
        assert len({float(p.scale) for p in shared.values()}) < len(
            {float(p.scale) for p in alone.values()}
        )
