"""The search on the runtimes that are here: a small network, a few seconds, a true file."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from placed_network import Placed, write_placed

from segdeploy.api.tune import tune
from segdeploy.benchmarks.tune.choices import choices
from segdeploy.benchmarks.tune.device import Device, DeviceMemory
from segdeploy.benchmarks.tune.run import state_beside
from segdeploy.benchmarks.tune.state import Outcome
from segdeploy.deploy.onnx_model.file import load_model, metadata
from segdeploy.deploy.quantize.qdq_placement import QdqPlacement
from segdeploy.deploy.runtimes.executed_nodes import executed_nodes
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.registry import RuntimeName, availability
from segdeploy.deploy.system.errors import InputError
from segdeploy.deploy.targets.profiles import OPENVINO_CPU, ORT_X86, TENSORRT, TargetProfile

TARGETS = [
    pytest.param(
        profile,
        marks=pytest.mark.skipif(not availability(profile.runtime).ready, reason="not installed"),
        id=profile.name,
    )
    for profile in (ORT_X86, OPENVINO_CPU)
]


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Placed:
    return write_placed(tmp_path_factory.mktemp("placed") / "net.onnx")


@pytest.mark.parametrize("profile", TARGETS)
def test_a_search_leaves_a_file_that_says_how_it_departs_and_what_was_learnt(
    profile: TargetProfile, placed: Placed, tmp_path: Path
) -> None:
    found = tune(
        placed.source,
        placed.table,
        target=profile,
        out=tmp_path / "net.onnx",
        time_budget_s=4.0,
        threads=1,
    )
    assert found.trials
    said = metadata(load_model(found.artifact.path)).get("placement", "{}")
    assert QdqPlacement.from_json(said) == found.placement
    if not found.placement:
        untuned = placed.int8(tmp_path / "untuned.onnx", profile=profile)
        assert onnx.load(found.artifact.path).graph == onnx.load(untuned.path).graph
    assert (tmp_path / state_beside(found.artifact.path)).is_file() != found.finished
    memory = DeviceMemory.read(tmp_path / "segdeploy-device.json")
    measured = {t.pattern for t in found.trials if t.outcome is not Outcome.FAILED}
    here = Device.here(profile.runtime, threads=1)
    assert all(memory.prior(here, pattern) is not None for pattern in measured)
    assert "8 random inputs" in found.judged_by


def test_the_folder_of_the_device_file_is_made(placed: Placed, tmp_path: Path) -> None:
    known = tmp_path / "shipped" / "devices.json"
    tune(
        placed.source,
        placed.table,
        target=ORT_X86,
        out=tmp_path / "net.onnx",
        time_budget_s=1.0,
        device_file=known,
        threads=1,
    )
    assert DeviceMemory.read(known).devices


class TestChoices:
    @pytest.mark.parametrize("profile", [ORT_X86, OPENVINO_CPU], ids=lambda profile: profile.name)
    def test_every_choice_can_be_built_and_changes_the_file(
        self, profile: TargetProfile, placed: Placed, tmp_path: Path
    ) -> None:
        found = choices(load_model(placed.source.path), placed.table, profile)
        untuned = placed.int8(tmp_path / "untuned.onnx", profile=profile)
        for number, choice in enumerate(found):
            made = placed.int8(tmp_path / f"{number}.onnx", choice.change, profile)
            assert made.sha256 != untuned.sha256, choice.pattern

    def test_patterns_are_named_for_any_network(self, placed: Placed) -> None:
        found = choices(load_model(placed.source.path), placed.table, OPENVINO_CPU)
        assert {choice.pattern for choice in found} >= {
            "in_float MaxPool",
            "in_float Resize",
            "in_float first layer",
            "in_float last layer",
            "one_scale Concat",
            "rounded before InstanceNormalization",
        }

    def test_what_is_excluded_offers_no_choice(self, placed: Placed) -> None:
        found = choices(load_model(placed.source.path), placed.table, ORT_X86, exclude=["conv4"])
        assert not any("conv4" in choice.change.in_float for choice in found)


@pytest.mark.parametrize("profile", TARGETS)
def test_the_executed_graph_shows_that_a_layer_left_the_integers(
    profile: TargetProfile, placed: Placed, tmp_path: Path
) -> None:
    rule = placed.int8(tmp_path / "a.onnx", profile=profile)
    less = placed.int8(tmp_path / "b.onnx", QdqPlacement(in_float=("conv3",)), profile)
    one = executed_nodes(profile.runtime, rule, execution=Execution(threads=1))
    assert one == executed_nodes(profile.runtime, rule, execution=Execution(threads=1))
    assert one != executed_nodes(profile.runtime, less, execution=Execution(threads=1))


class TestDeviceFile:
    def test_devices_do_not_mix_and_a_network_counts_once(self, tmp_path: Path) -> None:
        from segdeploy.benchmarks.tune.device import Gain

        here = Device.here(RuntimeName.ONNXRUNTIME, threads=2)
        there = Device.here(RuntimeName.ONNXRUNTIME, threads=4)

        def gain(network: str, ratio: float) -> Gain:
            return Gain(pattern="in_float Add", network=network, ratio=ratio)

        memory = DeviceMemory().with_gains(here, [gain("a", 0.5), gain("b", 0.8)])
        memory = memory.with_gains(here, [gain("a", 0.2)]).with_gains(there, [gain("a", 3.0)])
        memory.write(tmp_path / "device.json")
        again = DeviceMemory.read(tmp_path / "device.json")
        assert again == memory
        assert again.prior(here, "in_float Add") == pytest.approx(0.4)  # of 0.2 and 0.8
        assert again.prior(there, "in_float Add") == pytest.approx(3.0)

    @pytest.mark.parametrize("content", ["", "[]", '{"devices": 1}', '{"schema_version": 9}'])
    def test_a_damaged_file_is_refused_with_the_fix(self, content: str, tmp_path: Path) -> None:
        path = tmp_path / "device.json"
        path.write_text(content)
        with pytest.raises(InputError, match="delete it"):
            DeviceMemory.read(path)


def test_a_target_that_cannot_be_timed_here_is_refused(placed: Placed, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be timed here"):
        tune(placed.source, placed.table, target=TENSORRT, out=tmp_path / "x.onnx")


def test_a_damaged_state_is_refused_with_the_fix(placed: Placed, tmp_path: Path) -> None:
    (tmp_path / "x.onnx.tune.json").write_text(json.dumps({"schema_version": 1}))
    with pytest.raises(InputError, match="delete it"):
        tune(placed.source, placed.table, out=tmp_path / "x.onnx", time_budget_s=1.0, threads=1)
