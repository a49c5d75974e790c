"""The rules of QDQ graphs that TensorRT rejects: each broken once, and none by what we write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import contract_of, describe, load_model
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.targets.profiles import PROFILES
from segdeploy.deploy.targets.tensorrt_rules import WHY, Finding, Rule, check_qdq, rejected


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, small_onnx: Callable[..., Path]) -> Artifact:
    return describe(small_onnx(tmp_path_factory.mktemp("source") / "net.onnx"))


@pytest.fixture(scope="module")
def table(
    source: Artifact,
    tmp_path_factory: pytest.TempPathFactory,
    make_image_set: Callable[[Path, list[str]], Path],
) -> CalibrationTable:
    images = open_set(make_image_set(tmp_path_factory.mktemp("images"), ["train"] * 2), "train")
    return calibrate(source, images, preprocess=contract_of(source), threads=1)


@pytest.fixture
def model(source: Artifact, table: CalibrationTable, tmp_path: Path) -> onnx.ModelProto:
    """What ``quantize --target tensorrt`` writes."""
    return quantized(source, table, tmp_path, "tensorrt")


def quantized(
    source: Artifact, table: CalibrationTable, folder: Path, target: str, *exclude: str
) -> onnx.ModelProto:
    made = to_int8(
        source,
        folder / f"{target}.onnx",
        table=table,
        table_sha256="0" * 64,
        profile=PROFILES[target],
        exclude=exclude,
    )
    return load_model(made.path)


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (found,) = [node for node in model.graph.node if node.name == name]
    return found


def store(model: onnx.ModelProto, name: str, value: object, kind: type) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, kind), name))
    return name


def rules(findings: tuple[Finding, ...]) -> set[Rule]:
    return {finding.rule for finding in findings}


class TestLaws:
    def test_nothing_we_write_for_tensorrt_is_rejected(self, model: onnx.ModelProto) -> None:
        assert rejected(check_qdq(model)) == ()
        assert rules(check_qdq(model)) == {Rule.CHANNELS}  # three colours into the first layer

    def test_nor_is_it_with_layers_in_float(
        self, source: Artifact, table: CalibrationTable, tmp_path: Path
    ) -> None:
        for exclude in (("high",), ("head",), ("merge", "low")):
            made = quantized(source, table, tmp_path, "tensorrt", *exclude)
            assert rejected(check_qdq(made)) == ()
        assert check_qdq(quantized(source, table, tmp_path, "tensorrt", "high")) == ()

    def test_a_float_model_has_nothing_to_break(self, source: Artifact) -> None:
        assert check_qdq(load_model(source.path)) == ()

    def test_every_other_target_of_ours_is_rejected_somewhere(
        self, source: Artifact, table: CalibrationTable, tmp_path: Path
    ) -> None:
        for target in sorted(set(PROFILES) - {"tensorrt"}):
            broken = rejected(check_qdq(quantized(source, table, tmp_path, target)))
            assert Rule.BIAS in rules(broken), target

    def test_every_rule_says_why_and_how_to_mend_it(self) -> None:
        assert set(WHY) == set(Rule)
        for rule in Rule:
            finding = Finding(rule=rule, node="layer", found="what is there")
            assert finding.fix
            assert str(finding).startswith(f"layer: {rule.value}: what is there; ")
            assert finding.rule.rejects == (rule is not Rule.CHANNELS)


def unsigned(model: onnx.ModelProto) -> str:
    node = node_of(model, "image/Q")
    node.input[2] = store(model, "u8", 0, np.uint8)
    node_of(model, "image/DQ").input[2] = "u8"
    return "image/Q"


def unsigned_by_default(model: onnx.ModelProto) -> str:
    for name in ("image/Q", "image/DQ"):
        del node_of(model, name).input[2]
    return "image/Q"


def offset(model: onnx.ModelProto) -> str:
    node_of(model, "image/Q").input[2] = store(model, "three", 3, np.int8)
    return "image/Q"


def asymmetric_weight(model: onnx.ModelProto) -> str:
    node = node_of(model, "low/weight/DQ")
    node.input.append(store(model, "offsets", [1] * 8, np.int8))
    return "low/weight/DQ"


def channel_scales(model: onnx.ModelProto) -> str:
    for name in ("image/Q", "image/DQ"):
        node_of(model, name).input[1] = "three_scales"
    store(model, "three_scales", [0.1, 0.2, 0.3], np.float32)
    return "image/Q"


def wrong_axis(model: onnx.ModelProto) -> str:
    node = node_of(model, "low/weight/DQ")
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", 1))
    node.input[1] = store(model, "four", [0.1] * 4, np.float32)
    return "low"


def zero_scale(model: onnx.ModelProto) -> str:
    node_of(model, "image/Q").input[1] = store(model, "zero", 0.0, np.float32)
    return "image/Q"


def computed_scale(model: onnx.ModelProto) -> str:
    model.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, []))
    node_of(model, "image/Q").input[1] = "scale"
    return "image/Q"


def no_dequantize(model: onnx.ModelProto) -> str:
    nodes = [node for node in model.graph.node if node.name != "image/DQ"]
    for node in nodes:
        node.input[:] = ["image/q" if name == "image/dq" else name for name in node.input]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return "image/Q"


def no_quantize(model: onnx.ModelProto) -> str:
    node_of(model, "pool/DQ").input[0] = "high/Relu"
    return "pool/DQ"


def int32_bias(model: onnx.ModelProto) -> str:
    store(model, "integers", [1] * 8, np.int32)
    store(model, "step", [0.1] * 8, np.float32)
    bias = helper.make_node(
        "DequantizeLinear", ["integers", "step"], ["float_bias"], name="bias/DQ", axis=0
    )
    model.graph.node.insert(0, bias)
    node_of(model, "low").input[2] = "float_bias"
    return "low"


def float_input(model: onnx.ModelProto) -> str:
    node_of(model, "low").input[0] = "pool"
    return "low"


def integer_operator(model: onnx.ModelProto) -> str:
    node_of(model, "low").op_type = "ConvInteger"
    return "low"


@pytest.mark.parametrize(
    ("breaks", "rule"),
    [
        (unsigned, Rule.TYPE),
        (unsigned_by_default, Rule.TYPE),
        (offset, Rule.ZERO_POINT),
        (asymmetric_weight, Rule.ZERO_POINT),
        (channel_scales, Rule.ACTIVATION_AXIS),
        (wrong_axis, Rule.WEIGHT_AXIS),
        (zero_scale, Rule.SCALE),
        (computed_scale, Rule.SCALE),
        (no_dequantize, Rule.LONELY_QUANTIZE),
        (no_quantize, Rule.LONELY_DEQUANTIZE),
        (int32_bias, Rule.BIAS),
        (float_input, Rule.WEIGHT_ONLY),
        (integer_operator, Rule.OPERATOR),
    ],
)
def test_a_broken_rule_is_named_with_its_node(
    model: onnx.ModelProto, breaks: Callable[[onnx.ModelProto], str], rule: Rule
) -> None:
    node = breaks(model)
    found = [(finding.node, finding.rule) for finding in rejected(check_qdq(model))]
    assert (node, rule) in found
