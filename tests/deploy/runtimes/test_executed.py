"""How a runtime is asked to run, and how what it ran is told."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.runtimes.executed import Executed, Kernel, Layer, executed_of
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.ort_kernels import kernels_of
from segdeploy.deploy.system.errors import UsageError


class TestExecution:
    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            ({"threads": 0}, "threads is 0; expected 1 or more"),
            ({"threads": 2, "batch": 0}, "batch is 0"),
            ({"threads": 2, "streams": -1}, "streams is -1"),
            ({"threads": 2, "streams": 3}, "3 streams cannot share 2 threads"),
            ({"threads": 2, "precision": Precision.INT8}, "fp32 or bf16, not int8"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, asked: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            Execution(**asked)


def ran(requested: Precision, *precisions: str, operator: str = "Conv") -> Executed:
    layers = [Layer(name=p, operator=operator, precision=p, macs=1) for p in precisions]
    return Executed(layers=tuple(layers), requested=requested)


def kernel(name: str, precision: str) -> Kernel:
    return Kernel(names=(name,), operator="Conv", precision=precision)


class TestExecuted:
    def test_a_model_without_layers_is_what_was_asked_for(self) -> None:
        assert ran(Precision.FP16).words == "fp16"
        assert ran(Precision.FP32).int8_mac_share is None

    @pytest.mark.parametrize(
        ("executed", "words"),
        [
            (ran(Precision.FP16, "fp32", "fp32"), "fp32 (weights stored in fp16)"),
            (ran(Precision.FP16, "fp16"), "fp16"),
            (ran(Precision.INT8, "int8"), "int8"),
            (ran(Precision.INT8, "fp32"), "fp32"),
            (ran(Precision.INT8, "int8", "int8", "fp32"), "int8 (2 of 3 convolutions)"),
            (ran(Precision.INT8, "int8", "fp32", "int8", operator="Gemm"), "int8 (2 of 3 layers)"),
            (
                ran(Precision.INT8, "bf16", "int8", "int8"),
                "int8 (2 of 3 convolutions, others bf16)",
            ),
            (ran(Precision.INT8, "unknown", "unknown"), "unknown"),
        ],
    )
    def test_the_words_say_what_ran(self, executed: Executed, words: str) -> None:
        assert executed.words == words

    def test_only_an_int8_file_has_layers_that_should_not_be_float(self) -> None:
        assert ran(Precision.INT8, "fp32", "int8", "unknown").float_layers == ("fp32", "unknown")
        assert ran(Precision.FP32, "fp32").float_layers == ()

    def test_a_kernel_belongs_to_the_layer_it_names(self) -> None:
        layers = ran(Precision.INT8, "a", "b", "c").layers
        kernels = [kernel("c", "int8"), kernel("a", "fp32"), kernel("b", "bf16")]
        found = executed_of(layers, kernels, requested=Precision.INT8).layers
        assert [layer.precision for layer in found] == ["fp32", "bf16", "int8"]

    def test_lost_names_leave_the_precision_open_unless_all_share_one(self) -> None:
        layers = ran(Precision.INT8, "a", "b", "c").layers
        kernels = [kernel("x", "int8"), kernel("b", "bf16"), kernel("y", "fp32")]
        found = executed_of(layers, kernels, requested=Precision.INT8).layers
        assert [layer.precision for layer in found] == ["unknown", "bf16", "unknown"]
        same = [*kernels[:2], kernel("y", "int8")]
        found = executed_of(layers, same, requested=Precision.INT8).layers
        assert [layer.precision for layer in found] == ["int8", "bf16", "int8"]
        found = executed_of(layers, kernels[:2], requested=Precision.INT8).layers
        assert [layer.precision for layer in found] == ["unknown", "bf16", "unknown"]

    def test_a_file_whose_shapes_cannot_be_inferred_is_told_by_its_kernels(self) -> None:
        executed = executed_of((), [kernel("a", "int8")], requested=Precision.INT8)
        assert (executed.words, executed.int8_mac_share) == ("int8", None)
        assert [layer.name for layer in executed.layers] == ["a"]

    def test_names_that_onnx_runtime_decorates_are_read(self) -> None:
        nodes = [
            helper.make_node("QLinearConv", [f"i{i}" for i in range(9)], ["a"], name="c1_token_7"),
            helper.make_node("FusedConv", ["a", "w"], ["b"], name="fused c10"),
            helper.make_node("Conv", ["b", "h"], ["c"], name="c1@2/Relu_nchwc"),
            helper.make_node("Relu", ["c"], ["d"], name="c1/Relu"),
            helper.make_node("QLinearMatMul", [f"j{i}" for i in range(8)], ["e"], name="other"),
        ]
        weights = [
            helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0]),
            helper.make_tensor("h", TensorProto.FLOAT16, [1], [1.0]),
        ]
        graph = onnx.GraphProto(node=nodes, initializer=weights)
        found = [
            (k.names, k.operator, k.precision) for k in kernels_of(graph, ["c1", "c10", "c1@2"])
        ]
        assert found == [
            (("c1",), "Conv", "int8"),
            (("c10",), "Conv", "fp32"),
            (("c1@2",), "Conv", "fp16"),
            (("other",), "MatMul", "int8"),
        ]
