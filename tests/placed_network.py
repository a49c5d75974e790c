"""A small network in which Q and DQ can stand in several places: pooling, upsampling, a Concat."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from segdeploy.calibration.exchange import imported_range
from segdeploy.calibration.table import CalibrationTable, imported_table
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import describe, save_model, set_metadata
from segdeploy.deploy.quantize.qdq_placement import QdqPlacement
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.targets.profiles import ORT_X86, TargetProfile

SIDE = 16
RANGES = {"image": (-1, 1), "skip": (0, 1), "pooled": (0, 1), "deep": (0, 9), "up": (0, 9)}
RANGES |= {"joined": (0, 9), "normed": (-2, 2), "last": (0, 4), "c3": (-5, 5)}


@dataclass(frozen=True, kw_only=True)
class Placed:
    """The float file and its ranges."""

    source: Artifact
    table: CalibrationTable

    def int8(
        self,
        output: Path,
        placement: QdqPlacement | None = None,
        profile: TargetProfile = ORT_X86,
    ) -> Artifact:
        """Quantized, with a placement."""
        return to_int8(
            self.source,
            output,
            table=self.table,
            table_sha256="ab" * 32,
            profile=profile,
            placement=placement or QdqPlacement(),
        )


def write_placed(path: Path) -> Placed:
    """Conv, pool, Conv, nearest Resize, Concat with the skip, Conv, normalisation, Conv."""
    generator = np.random.default_rng(0)

    def weights(name: str, out: int, inside: int) -> list[TensorProto]:
        values = generator.normal(size=(out, inside, 3, 3)).astype(np.float32) * 0.2
        bias = generator.normal(size=out).astype(np.float32) * 0.1
        return [
            numpy_helper.from_array(values, f"{name}.w"),
            numpy_helper.from_array(bias, f"{name}.b"),
        ]

    def conv(name: str, source: str, result: str) -> object:
        return helper.make_node(
            "Conv", [source, f"{name}.w", f"{name}.b"], [result], name=name, pads=[1, 1, 1, 1]
        )

    def node(operator: str, sources: list[str], result: str, **said: object) -> object:
        return helper.make_node(operator, sources, [result], name=result.upper(), **said)

    one = np.ones(8, np.float32)
    constants = [
        *weights("conv1", 8, 3),
        *weights("conv2", 8, 8),
        *weights("conv3", 8, 16),
        *weights("conv4", 1, 8),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "twice"),
        numpy_helper.from_array(one, "gain"),
        numpy_helper.from_array(0 * one, "offset"),
    ]
    nodes = [
        conv("conv1", "image", "c1"),
        node("Relu", ["c1"], "skip"),
        node("MaxPool", ["skip"], "pooled", kernel_shape=[2, 2], strides=[2, 2]),
        conv("conv2", "pooled", "c2"),
        node("Relu", ["c2"], "deep"),
        node("Resize", ["deep", "", "twice"], "up", mode="nearest"),
        node("Concat", ["skip", "up"], "joined", axis=1),
        conv("conv3", "joined", "c3"),
        node("InstanceNormalization", ["c3", "gain", "offset"], "normed"),
        node("Relu", ["normed"], "last"),
        conv("conv4", "last", "logits"),
    ]
    graph = helper.make_graph(
        nodes,
        "placed",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 1, SIDE, SIDE])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    contract = Preprocess(size=(SIDE, SIDE))
    set_metadata(model, {"preprocess": contract.to_json(), "precision": "fp32"})
    save_model(model, path)
    ranges = {n: imported_range(float(a), float(b), "a test") for n, (a, b) in RANGES.items()}
    return Placed(source=describe(path), table=imported_table(ranges))
