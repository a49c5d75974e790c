"""A placement departs from the rule where it says so, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper
from placed_network import Placed, write_placed

from segdeploy.calibration.exchange import imported_range
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import load_model, metadata
from segdeploy.deploy.quantize.qdq_placement import QdqPlacement
from segdeploy.deploy.system.errors import InputError
from segdeploy.deploy.targets.profiles import OPENVINO_CPU

SEVEN = imported_range(0.0, 7.0, "a test")


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Placed:
    return write_placed(tmp_path_factory.mktemp("placed") / "net.onnx")


def pairs(artifact: Artifact) -> set[str]:
    """Activations with a Q-DQ pair."""
    nodes = load_model(artifact.path).graph.node
    return {n.name.removesuffix("/Q") for n in nodes if n.op_type == "QuantizeLinear"}


def scale(artifact: Artifact, tensor: str) -> float:
    constants = {t.name: t for t in load_model(artifact.path).graph.initializer}
    return float(numpy_helper.to_array(constants[f"{tensor}/scale"]))


def float_convolutions(model: onnx.ModelProto) -> set[str]:
    convolutions = (node for node in model.graph.node if node.op_type == "Conv")
    return {node.name for node in convolutions if not node.input[1].endswith("/dq")}


class TestTheDefault:
    def test_it_gives_the_bytes_of_no_placement_and_leaves_no_word_of_it(
        self, placed: Placed, tmp_path: Path
    ) -> None:
        rule = placed.int8(tmp_path / "rule.onnx", profile=OPENVINO_CPU)
        assert "placement" not in metadata(load_model(rule.path))
        empty = placed.int8(tmp_path / "empty.onnx", QdqPlacement(in_float=()), OPENVINO_CPU)
        assert empty.sha256 == rule.sha256

    def test_what_departs_stands_in_the_file_and_reads_back(
        self, placed: Placed, tmp_path: Path
    ) -> None:
        placement = QdqPlacement(in_float=("UP",), one_scale=("JOINED",))
        found = metadata(load_model(placed.int8(tmp_path / "x.onnx", placement).path))["placement"]
        assert QdqPlacement.from_json(found) == placement


class TestEachDeparture:
    def test_a_resize_in_float_has_its_pair_behind_it_alone(
        self, placed: Placed, tmp_path: Path
    ) -> None:
        rule = placed.int8(tmp_path / "rule.onnx", profile=OPENVINO_CPU)
        found = placed.int8(tmp_path / "x.onnx", QdqPlacement(in_float=("UP",)), OPENVINO_CPU)
        assert {"deep", "up"} <= pairs(rule)
        assert pairs(rule) - pairs(found) == {"deep"}

    def test_a_convolution_in_float_is_in_the_list_of_float_layers(
        self, placed: Placed, tmp_path: Path
    ) -> None:
        model = load_model(placed.int8(tmp_path / "x.onnx", QdqPlacement(in_float=("conv4",))).path)
        assert float_convolutions(model) == {"conv4"}
        assert metadata(model)["float_layers"] == "conv4"

    def test_scales_are_shared_whatever_it_costs_where_it_is_asked_for(
        self, placed: Placed, tmp_path: Path
    ) -> None:
        rule = placed.int8(tmp_path / "rule.onnx")
        asked = placed.int8(tmp_path / "x.onnx", QdqPlacement(one_scale=("JOINED",)))
        assert scale(rule, "skip") == pytest.approx(1 / 255)
        assert scale(asked, "skip") == scale(asked, "up") == pytest.approx(9 / 255)

    def test_scales_stay_apart_where_it_is_asked_for(self, placed: Placed, tmp_path: Path) -> None:
        ranges = dict(placed.table.ranges) | {"deep": SEVEN}
        close = replace(placed, table=replace(placed.table, ranges=ranges))
        rule = close.int8(tmp_path / "rule.onnx")
        apart = close.int8(tmp_path / "x.onnx", QdqPlacement(own_scales=("JOINED",)))
        assert scale(rule, "up") == scale(rule, "joined") == pytest.approx(9 / 255)
        assert scale(apart, "up") == pytest.approx(7 / 255)

    def test_a_pair_comes_and_goes_behind_what_moves_integers(
        self, placed: Placed, tmp_path: Path
    ) -> None:
        rule = placed.int8(tmp_path / "rule.onnx", profile=OPENVINO_CPU)
        more = placed.int8(tmp_path / "x.onnx", QdqPlacement(unpaired=("up",)), OPENVINO_CPU)
        assert pairs(rule) - pairs(more) == {"up"}
        ort = placed.int8(tmp_path / "ort.onnx")
        fewer = placed.int8(tmp_path / "y.onnx", QdqPlacement(unpaired=("pooled",)))
        assert pairs(ort) - pairs(fewer) == {"pooled"}

    def test_a_tensor_is_rounded_that_nothing_reads_on_integers(
        self, placed: Placed, tmp_path: Path
    ) -> None:
        rule = placed.int8(tmp_path / "rule.onnx", profile=OPENVINO_CPU)
        found = placed.int8(tmp_path / "x.onnx", QdqPlacement(rounded=("c3",)), OPENVINO_CPU)
        assert pairs(found) - pairs(rule) == {"c3"}


class TestMistakes:
    @pytest.mark.parametrize("field", ["in_float", "own_scales", "rounded", "unpaired"])
    def test_names_of_another_model_are_refused(
        self, field: str, placed: Placed, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match=f"{field} names 'elsewhere'"):
            placed.int8(tmp_path / "x.onnx", QdqPlacement(**{field: ("elsewhere",)}))

    def test_a_contradiction_is_refused(self) -> None:
        with pytest.raises(ValueError, match="own_scales and in one_scale"):
            QdqPlacement(own_scales=("a",)) | QdqPlacement(one_scale=("a",))

    @pytest.mark.parametrize("text", ["[]", '{"x": []}', '{"paired": "a"}', '{"paired": [1]}'])
    def test_text_that_is_no_placement_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="placement"):
            QdqPlacement.from_json(text)
