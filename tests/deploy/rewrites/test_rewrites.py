"""Rewrites: the same function with less work, and hands off whatever they do not understand."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from tiny import TINY, exported

from segdeploy.cli.main import main
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.models import R2UNet, UNetPlusPlus
from segdeploy.deploy.models.networks import Network
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.cost import onnx_cost
from segdeploy.deploy.onnx_model.file import (
    describe,
    load_model,
    metadata,
    save_model,
    set_metadata,
)
from segdeploy.deploy.onnx_model.graph import GraphIndex, rebuilt
from segdeploy.deploy.rewrites.channel_activity import channel_activity
from segdeploy.deploy.rewrites.channel_groups import channel_groups
from segdeploy.deploy.rewrites.dead_channels import CHANNEL_BLOCK, dead_channels
from segdeploy.deploy.rewrites.recurrent_sum import recurrent_sum
from segdeploy.deploy.rewrites.upsample_convolution import parity_weights, upsample_convolution
from segdeploy.deploy.stages.rewrite import RewriteName, rewrite, summary
from segdeploy.deploy.stages.simplify import simplify
from segdeploy.deploy.stages.to_fp16 import to_fp16
from segdeploy.deploy.system.errors import InputError, UsageError

TOLERANCE = 1e-6
Array = NDArray[np.float32]


def simplified(network: Network, folder: Path) -> Artifact:
    """The network as the pipeline hands it to the rewrites."""
    return simplify(exported(network, folder), folder / "net.sim.onnx")


@pytest.fixture(scope="module")
def r2u(tmp_path_factory: pytest.TempPathFactory, _tiny_r2u: R2UNet) -> Artifact:
    return simplified(_tiny_r2u, tmp_path_factory.mktemp("r2u"))


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory, _tiny_unet: UNetPlusPlus) -> Artifact:
    return simplified(_tiny_unet, tmp_path_factory.mktemp("unet"))


@pytest.fixture
def pictures(image_set: Path) -> Array:
    """Generated images as the network gets them, and noise of the same range."""
    images = open_set(image_set, None).inputs(TINY)
    noise = np.random.default_rng(1).uniform(-1, 1, images.shape).astype(np.float32)
    return np.concatenate([images, noise])


def run(model: onnx.ModelProto, images: Array) -> NDArray[np.float64]:
    """The model in float64, where the order of additions does not show."""
    double = copy.deepcopy(model)
    sizes = {name for node in double.graph.node if node.op_type == "Resize" for name in node.input}
    for tensor in double.graph.initializer:
        if tensor.name not in sizes:
            value = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    evaluator = ReferenceEvaluator(double, new_ops=[TorchConv])
    return np.asarray(evaluator.run(None, {double.graph.input[0].name: images.astype(float)})[0])


class TorchConv(OpRun):
    """Convolution of any type; the reference implementation takes minutes."""

    op_domain = ""

    def _run(self, x, w, b=None, **settings):  # type: ignore[no-untyped-def]  # onnx calls it by name
        top, left, bottom, right = settings.get("pads") or (0, 0, 0, 0)
        padded = torch.nn.functional.pad(torch.tensor(x), (left, right, top, bottom))
        bias = None if b is None else torch.tensor(b)
        result = torch.nn.functional.conv2d(
            padded,
            torch.tensor(w),
            bias,
            stride=tuple(settings.get("strides") or (1, 1)),
            dilation=tuple(settings.get("dilations") or (1, 1)),
            groups=settings.get("group") or 1,
        )
        return (result.numpy(),)


TorchConv.__name__ = "Conv"


def assert_equal(before: onnx.ModelProto, after: onnx.ModelProto, images: Array) -> None:
    expected = run(before, images)
    assert expected.std() > 0.05, "an output that hardly varies proves nothing"
    np.testing.assert_allclose(run(after, images), expected, rtol=0, atol=TOLERANCE)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def small_graph(
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[np.generic]],
    *,
    channels: int = 2,
    outputs: int = 2,
) -> onnx.ModelProto:
    """A model from ``x`` (batch, channels, 6, 6) to ``y``."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", outputs, None, None])],
        [
            numpy_helper.from_array(np.asarray(value, np.float32), name)
            for name, value in constants.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def conv(source: str, weight: str, bias: str, result: str, **settings: object) -> onnx.NodeProto:
    settings = {"pads": [1, 1, 1, 1]} | settings
    return helper.make_node("Conv", [source, weight, bias], [result], name=result, **settings)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


class TestRecurrentSum:
    def test_every_later_step_of_every_recurrent_convolution_is_split(
        self, r2u: Artifact, pictures: Array
    ) -> None:
        before = load_model(r2u.path)
        result = recurrent_sum(before)
        assert result.sites == 9 * 2 * 2  # blocks, recurrent convolutions, steps after the first
        assert_equal(before, result.model, pictures)
        # The work is the same, and no weight is stored twice.
        assert onnx_cost(result.model).macs == onnx_cost(before).macs
        assert onnx_cost(result.model).parameters == onnx_cost(before).parameters

    def test_the_source_is_left_alone_and_nothing_to_do_returns_it(
        self, r2u: Artifact, unet: Artifact
    ) -> None:
        before = load_model(r2u.path)
        kept = before.SerializeToString(deterministic=True)
        recurrent_sum(before)
        assert before.SerializeToString(deterministic=True) == kept
        other = load_model(unet.path)
        assert recurrent_sum(other).model is other

    @pytest.mark.parametrize(
        "second", [{"dilations": [1, 1], "pads": [0, 0, 0, 0]}, {"strides": [2, 2]}]
    )
    def test_a_convolution_with_other_settings_is_not_the_same(
        self, second: dict[str, list[int]]
    ) -> None:
        model = small_graph(
            [
                conv("x", "w", "b", "first"),
                helper.make_node("Relu", ["first"], ["h"], name="relu"),
                helper.make_node("Add", ["x", "h"], ["sum"], name="add"),
                conv("sum", "w", "b", "y", **second),
            ],
            {"w": normal(2, 2, 3, 3), "b": normal(2)},
        )
        assert recurrent_sum(model).sites == 0


class TestUpsampleConvolution:
    def test_the_four_upsamplings_of_r2u_net(self, r2u: Artifact, pictures: Array) -> None:
        before = load_model(r2u.path)
        result = upsample_convolution(before)
        assert result.sites == 4
        assert "Resize" not in operators(result.model)
        assert operators(result.model).count("DepthToSpace") == 4
        assert_equal(before, result.model, pictures)
        layers = {layer.name: layer.macs for layer in onnx_cost(before).layers}
        ups = sum(macs for name, macs in layers.items() if name.startswith("Up") and ".up." in name)
        assert onnx_cost(result.model).macs == onnx_cost(before).macs - ups * 20 // 36

    def test_bilinear_upsampling_stays(self, unet: Artifact) -> None:
        before = load_model(unet.path)
        assert "Resize" in operators(before)
        assert upsample_convolution(before).model is before

    @settings(max_examples=40, deadline=None)
    @given(
        channels=st.integers(1, 4),
        results=st.integers(1, 4),
        seed=st.integers(0, 10_000),
        mode=st.sampled_from(
            [
                {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
                {"coordinate_transformation_mode": "half_pixel"},
                {},
            ]
        ),
    )
    def test_equal_for_any_weights(
        self, channels: int, results: int, seed: int, mode: dict[str, str]
    ) -> None:
        model = self.upsampling(
            normal(results, channels, 3, 3, seed=seed), mode=mode, channels=channels
        )
        result = upsample_convolution(model)
        assert result.sites == 1
        images = normal(2, channels, 6, 6, seed=seed + 1)
        np.testing.assert_allclose(
            run(result.model, images), run(model, images), rtol=0, atol=TOLERANCE
        )

    def test_parities_share_the_weights_out(self) -> None:
        weights = normal(2, 3, 3, 3)
        for row in (0, 1):
            for column in (0, 1):
                small = parity_weights(weights, row, column)
                np.testing.assert_allclose(small.sum(axis=(2, 3)), weights.sum(axis=(2, 3)), 1e-5)

    @pytest.mark.parametrize(
        ("mode", "scales", "settings"),
        [
            ({"mode": "linear"}, (1, 1, 2, 2), {}),
            ({"coordinate_transformation_mode": "align_corners"}, (1, 1, 2, 2), {}),
            ({"nearest_mode": "floor"}, (1, 1, 2, 2), {}),
            ({}, (1, 1, 3, 3), {}),
            ({}, (1, 1, 2, 2), {"strides": [2, 2]}),
            ({}, (1, 1, 2, 2), {"pads": [0, 0, 0, 0]}),
            ({}, (1, 1, 2, 2), {"group": 2}),
        ],
    )
    def test_anything_else_stays(
        self, mode: dict[str, str], scales: tuple[int, ...], settings: dict[str, object]
    ) -> None:
        weights = normal(2, 1 if "group" in settings else 2, 3, 3)
        model = self.upsampling(weights, mode=mode, scales=scales, settings=settings, channels=2)
        assert upsample_convolution(model).model is model

    def test_a_map_that_another_node_reads_stays(self) -> None:
        model = self.upsampling(normal(2, 2, 3, 3), channels=2)
        nodes = [*model.graph.node]
        nodes[-1].output[0] = "relu"
        nodes.append(helper.make_node("Add", ["relu", "up"], ["y"], name="sum"))
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        assert upsample_convolution(model).model is model

    @staticmethod
    def upsampling(
        weights: Array,
        *,
        channels: int,
        mode: dict[str, str] | None = None,
        scales: tuple[int, ...] = (1, 1, 2, 2),
        settings: dict[str, object] | None = None,
    ) -> onnx.ModelProto:
        how = {"mode": "nearest"} | (mode or {})
        return small_graph(
            [
                helper.make_node("Resize", ["x", "", "scales"], ["up"], name="up", **how),
                conv("up", "w", "b", "c", **(settings or {})),
                helper.make_node("Relu", ["c"], ["y"], name="relu"),
            ],
            {"scales": np.array(scales), "w": weights, "b": normal(len(weights))},
            channels=channels,
            outputs=len(weights),
        )


def silenced(network: Network, share: float) -> Network:
    """Make the last channels of every hidden convolution negative before its ReLU, always."""
    quiet = copy.deepcopy(network)
    for norm, after in itertools.pairwise(quiet.modules()):
        if isinstance(norm, torch.nn.BatchNorm2d) and isinstance(after, torch.nn.ReLU):
            with torch.no_grad():
                dead = round(norm.num_features * share)
                norm.weight[norm.num_features - dead :] = 0
                norm.bias[norm.num_features - dead :] = -1
    return quiet


class TestDeadChannels:
    def test_r2u_net_loses_every_silent_channel(
        self, tmp_path: Path, tiny_r2u: R2UNet, pictures: Array
    ) -> None:
        source = simplified(silenced(tiny_r2u, 0.5), tmp_path)
        before = recurrent_sum(load_model(source.path)).model
        activity = self.observed(before, pictures, tmp_path)
        result = dead_channels(before, activity, block=1)
        widths = [4, 8, 16, 32, 64]
        recurrent = 2 * (sum(widths) + sum(widths[:-1]))  # two in each of nine blocks
        assert result.sites >= (recurrent + sum(widths[:-1])) // 2  # and one in each upsampling
        assert_equal(before, result.model, pictures)
        assert onnx_cost(result.model).macs < 0.5 * onnx_cost(before).macs

    def test_unet_plus_plus_loses_every_silent_channel(
        self,
        tmp_path: Path,
        tiny_unet: UNetPlusPlus,
        pictures: Array,
    ) -> None:
        source = simplified(silenced(tiny_unet, 0.25), tmp_path)
        before = load_model(source.path)
        groups = channel_groups(before.graph)
        assert len(groups) == operators(before).count("Relu")  # each stands alone
        activity = self.observed(before, pictures, tmp_path)
        result = dead_channels(before, activity, block=1)
        silent = [int((activity[group.activations[0]] <= 0).sum()) for group in groups]
        assert result.sites == sum(silent) >= sum(group.channels for group in groups) // 4
        assert_equal(before, result.model, pictures)

    def test_channels_that_fire_once_stay(self, r2u: Artifact, pictures: Array) -> None:
        model = recurrent_sum(load_model(r2u.path)).model
        busy = {
            name: np.full(group.channels, 1e-30, np.float32)
            for group in channel_groups(model.graph)
            for name in group.activations
        }
        assert dead_channels(model, busy, block=1).model is model

    @settings(max_examples=15, deadline=None)
    @given(seed=st.integers(0, 10_000))
    def test_any_choice_of_silent_channels_gives_the_network_without_them(
        self, r2u: Artifact, seed: int
    ) -> None:
        """Removing channels equals setting the weights that read and make them to zero."""
        generator = np.random.default_rng(seed)
        model = recurrent_sum(load_model(r2u.path)).model
        activity, muted = {}, copy.deepcopy(model)
        constants = {tensor.name: tensor for tensor in muted.graph.initializer}
        index = GraphIndex(model.graph)
        for group in channel_groups(model.graph):
            fires = generator.random(group.channels) < 0.7
            fires[0] = True
            activity |= {name: fires.astype(np.float32) for name in group.activations}
            for tensor in group.tensors:
                node = index.made_by(tensor, "Conv")
                for name in node.input[1:] if node else ():
                    value = numpy_helper.to_array(constants[name]).copy()
                    value[~fires] = 0
                    constants[name].CopyFrom(numpy_helper.from_array(value, name))
        images = generator.normal(0, 1, (2, 3, 32, 32)).astype(np.float32)
        result = dead_channels(model, activity, block=1)
        np.testing.assert_allclose(
            run(result.model, images), run(muted, images), rtol=0, atol=TOLERANCE
        )

    def test_a_group_keeps_whole_blocks(self) -> None:
        model = self.chain(40)
        for silent, removed in ((7, 0), (8, 8), (23, 8), (24, 24), (40, 24)):
            activity = {"h": np.where(np.arange(40) < silent, 0, 1).astype(np.float32)}
            result = dead_channels(model, activity)
            assert result.sites == removed
            width = numpy_helper.to_array(
                next(t for t in result.model.graph.initializer if t.dims[:1] == [40 - removed])
            )
            assert len(width) == 40 - removed
        assert CHANNEL_BLOCK == 16

    def test_shared_weights_are_cut_once(
        self, tmp_path: Path, tiny_r2u: R2UNet, pictures: Array
    ) -> None:
        source = simplified(silenced(tiny_r2u, 0.5), tmp_path)
        model = recurrent_sum(load_model(source.path)).model
        result = dead_channels(model, self.observed(model, pictures, tmp_path), block=1)
        readers: dict[str, int] = {}
        for node in result.model.graph.node:
            if node.op_type == "Conv" and ".RCNN." in node.name:
                readers[node.input[1]] = readers.get(node.input[1], 0) + 1
        # A block's first step reads the whole x, the two others the shorter h: cut once each. Its
        # second convolution reads nothing but shortened tensors: one cut for its three steps.
        assert sorted(readers.values()) == [1] * 9 + [2] * 9 + [3] * 9

    @pytest.mark.parametrize("operator", ["Sigmoid", "Softplus", "Identity"])
    def test_what_it_does_not_know_keeps_its_channels(self, operator: str) -> None:
        """Behind a Sigmoid a silent channel is one half, not nothing."""
        model = self.chain(4)
        model.graph.node.insert(2, helper.make_node(operator, ["h"], ["s"], name="s"))
        model.graph.node[3].input[0] = "s"
        assert channel_groups(model.graph) == ()

    def test_an_activation_that_is_returned_keeps_its_channels(self) -> None:
        model = self.chain(4)
        model.graph.output.append(
            helper.make_tensor_value_info("h", TensorProto.FLOAT, ["batch", 4, 6, 6])
        )
        assert channel_groups(model.graph) == ()

    def test_a_sum_with_a_constant_is_left_alone(self) -> None:
        model = self.chain(4)
        model.graph.initializer.append(numpy_helper.from_array(normal(1, 4, 1, 1), "shift"))
        model.graph.node.insert(1, helper.make_node("Add", ["c", "shift"], ["s"], name="s"))
        model.graph.node[2].input[0] = "s"
        onnx.checker.check_model(model, full_check=True)
        assert channel_groups(model.graph) == ()

    def test_grouped_convolutions_are_left_alone(self) -> None:
        model = self.chain(4, group=2)
        assert channel_groups(model.graph) == ()

    @staticmethod
    def chain(width: int, *, group: int = 1) -> onnx.ModelProto:
        """x -> Conv -> ReLU -> Conv -> y."""
        return small_graph(
            [
                conv("x", "w", "b", "c", group=group),
                helper.make_node("Relu", ["c"], ["h"], name="relu"),
                conv("h", "v", "d", "y"),
            ],
            {
                "w": normal(width, 2 // group, 3, 3),
                "b": normal(width),
                "v": normal(2, width, 3, 3),
                "d": normal(2),
            },
        )

    @staticmethod
    def observed(model: onnx.ModelProto, images: Array, folder: Path) -> dict[str, Array]:
        """Each ReLU's largest value a channel, by returning the maps themselves."""
        names = [node.output[0] for node in model.graph.node if node.op_type == "Relu"]
        wide = copy.deepcopy(model)
        wide.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
        )
        session = onnxruntime.InferenceSession(
            wide.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        values = session.run(names, {session.get_inputs()[0].name: images})
        return {n: v.max(axis=(0, 2, 3)) for n, v in zip(names, values, strict=True)}


class TestChannelActivity:
    def test_it_is_the_maximum_over_images_and_pixels(self, r2u: Artifact, image_set: Path) -> None:
        images = open_set(image_set, None)
        found = channel_activity(r2u.path, images.samples, preprocess=TINY, threads=1)
        model = load_model(r2u.path)
        expected = TestDeadChannels.observed(model, images.inputs(TINY), r2u.path.parent)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)

    def test_no_image_is_refused(self, r2u: Artifact) -> None:
        with pytest.raises(InputError, match="no image"):
            channel_activity(r2u.path, [], preprocess=TINY, threads=1)


class TestRebuilt:
    def test_nodes_and_constants_that_nothing_needs_go(self) -> None:
        model = TestDeadChannels.chain(4)
        extra = helper.make_node("Relu", ["c"], ["unused"], name="unused")
        result = rebuilt(model, [*model.graph.node[:2], extra, model.graph.node[2]])
        assert [node.name for node in result.graph.node] == ["c", "relu", "y"]
        shorter = rebuilt(
            model, [helper.make_node("Conv", ["x", "w"], ["y"], name="y", pads=[1] * 4)]
        )
        assert {t.name for t in shorter.graph.initializer} == {"w"}


class TestRewrite:
    def test_all_of_them_in_one_file_that_says_so(
        self, tmp_path: Path, image_set: Path, pictures: Array
    ) -> None:
        torch.manual_seed(3)
        wide = R2UNet(width=8)  # deep levels of several blocks of channels, so that some can go
        source = simplified(silenced(wide, 0.5), tmp_path)
        activity = channel_activity(
            source.path, open_set(image_set, "train").samples, preprocess=TINY, threads=1
        )
        artifact = rewrite(source, tmp_path / "net.opt.onnx", activity=activity)
        assert artifact.parent == source.sha256
        record = json.loads(metadata(load_model(artifact.path))["rewrites"])
        assert record["sites"]["recurrent-sum"] == 36
        assert record["sites"]["upsample-convolution"] == 4
        assert record["sites"]["dead-channels"] > 0
        assert record["macs_after"] == onnx_cost(artifact.path).macs < record["macs_before"]
        assert record["macs_before"] == onnx_cost(source.path).macs
        assert "36 recurrent-sum" in summary(artifact)
        np.testing.assert_allclose(
            run(load_model(artifact.path), pictures),
            run(load_model(source.path), pictures),
            rtol=0,
            atol=TOLERANCE,
        )
        again = rewrite(source, tmp_path / "again.onnx", activity=activity)
        assert again.sha256 == artifact.sha256

    def test_a_network_without_a_site_is_only_copied(
        self, tmp_path: Path, unet: Artifact, pictures: Array
    ) -> None:
        artifact = rewrite(unet, tmp_path / "net.opt.onnx", activity={})
        assert summary(artifact) == "nothing to rewrite"
        np.testing.assert_array_equal(
            run(load_model(artifact.path), pictures), run(load_model(unet.path), pictures)
        )

    def test_a_file_that_was_never_rewritten_has_nothing_to_say(self, unet: Artifact) -> None:
        assert summary(unet) == "nothing to rewrite"

    def test_dead_channels_need_images(self, tmp_path: Path, r2u: Artifact) -> None:
        with pytest.raises(UsageError, match="calibration images"):
            rewrite(r2u, tmp_path / "out.onnx")
        assert not (tmp_path / "out.onnx").exists()
        artifact = rewrite(r2u, tmp_path / "out.onnx", names=[RewriteName.RECURRENT_SUM])
        assert summary(artifact).startswith("36 recurrent-sum; ")

    def test_the_command(self, tmp_path: Path, r2u: Artifact, image_set: Path) -> None:
        output = tmp_path / "cli.onnx"
        command = ["rewrite", "-m", str(r2u.path), "-o", str(output)]
        assert main([*command, "--calib-data", str(image_set)]) == 0
        assert summary(describe(output)).startswith("36 recurrent-sum, 4 upsample-convolution")
        assert main([*command, "--rewrites", "upsample-convolution", "--overwrite"]) == 0
        assert summary(describe(output)).startswith("4 upsample-convolution; ")

    def test_only_float_graphs(self, tmp_path: Path) -> None:
        model = TestDeadChannels.chain(4)
        for tensor in model.graph.initializer:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
        save_model(model, tmp_path / "half.onnx")
        with pytest.raises(InputError, match="rewritten from fp32"):
            rewrite(describe(tmp_path / "half.onnx"), tmp_path / "out.onnx", activity={})

    def test_the_image_interface_is_for_models_of_any_precision(
        self, tmp_path: Path, unet: Artifact
    ) -> None:
        half = to_fp16(unet, tmp_path / "half.onnx")
        output = tmp_path / "mask.onnx"
        command = ["rewrite", "-m", str(half.path), "-o", str(output)]
        assert main([*command, "--rewrites", "image-interface"]) == 0
        made = describe(output)
        assert [spec.dtype for spec in (*made.inputs, *made.outputs)] == ["uint8", "uint8"]
        assert (made.precision, made.parent) == (half.precision, half.sha256)
        assert summary(made).startswith("1 image-interface")
        assert main([*command, "--overwrite"]) == 3, "the others are for fp32"


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", '{"sites": 1}', '{"sites": {"a": "1"}, "macs_before": 1, "macs_after": 1}'],
)
def test_a_record_that_was_edited_is_named(text: str, unet: Artifact, tmp_path: Path) -> None:
    model = load_model(unet.path)
    set_metadata(model, metadata(model) | {"rewrites": text})
    save_model(model, tmp_path / "net.onnx")
    with pytest.raises(InputError, match=r"net\.onnx: the metadata 'rewrites' is .*again"):
        summary(describe(tmp_path / "net.onnx"))
