"""The zoo: cells that are kept, sums that follow from them, networks that are made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segdeploy.benchmarks.peers.__main__ import main
from segdeploy.benchmarks.peers.contenders import Group, quantized_contenders
from segdeploy.benchmarks.peers.zoo import weights as zoo_weights
from segdeploy.benchmarks.peers.zoo.cells import (
    Accuracy,
    Cell,
    Timing,
    read_cell,
    read_timing,
    save,
)
from segdeploy.benchmarks.peers.zoo.networks import ZOO
from segdeploy.benchmarks.peers.zoo.page import Result, notes_of, rows_of, summary_of
from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.runtimes.registry import RuntimeName
from segdeploy.deploy.system.errors import InputError

GOOD = Accuracy(
    iou=88.0, delta=-0.1, ci95=(-0.2, 0.0), sqnr_db=30.0, int8_mac_share=1.0, executed="int8"
)


def cell(contender: str, group: Group, accuracy: Accuracy | None = GOOD) -> Cell:
    return Cell(
        network="nnunet",
        contender=contender,
        group=group.value,
        runtime=RuntimeName.OPENVINO.value,
        source_sha256="a" * 64,
        seconds=1.0,
        peak_bytes=10,
        accuracy=accuracy,
        skipped=None if accuracy else "failed: no kernel",
    )


def timing(**seconds: float) -> Timing:
    blocks = {name: ((value, value), (2 * value, 2 * value)) for name, value in seconds.items()}
    return Timing(network="nnunet", latency_s=blocks, throughput_s=blocks, batch=8, threads=2)


def test_a_cell_is_read_as_it_was_written_and_only_for_its_model(tmp_path: Path) -> None:
    path, found = tmp_path / "c" / "x.json", cell("ours", Group.OURS)
    save(found, path)
    assert read_cell(path) == read_cell(path, source_sha256="a" * 64) == found
    assert read_cell(path, source_sha256="b" * 64) is None
    assert read_cell(tmp_path / "none.json") is None
    times = timing(ours=0.01)
    save(times, path)
    assert read_timing(path) == times
    path.write_text("{}")
    with pytest.raises(InputError, match="delete it"):
        read_cell(path)
    with pytest.raises(ValueError, match="not both"):
        replace(found, skipped="too")


def test_the_summary_compares_with_the_fastest_preset_and_names_losses() -> None:
    lossy = replace(GOOD, delta=-0.4, sqnr_db=20.0)
    slow = replace(GOOD, delta=0.1, sqnr_db=10.0)
    result = Result(
        network="nnunet",
        cells=(
            cell("ours", Group.OURS, lossy),
            cell("slow", Group.NNCF, slow),
            cell("fast", Group.NNCF),
            cell("NNCF accuracy control", Group.NNCF),
            cell("broken", Group.NNCF, None),
        ),
        timing=timing(**{"ours": 0.009, "slow": 0.02, "fast": 0.01, "NNCF accuracy control": 1e-3}),
    )
    text = "\n".join(summary_of([result]))
    assert "nnunet 0.900 [0.900, 0.900]" in text
    assert "above 1.00 on 0 of 1, at most 0.90 on 1" in text
    assert "behind NNCF by more than 0.05 points: nnunet (-0.300)" in text
    assert "SQNR higher than NNCF's on 0 of 1" in text
    assert "loses more than 0.2 points: nnunet on openvino (-0.400)" in text
    assert "quantize_static, ONNX Runtime: not measured" in text
    page = rows_of([result, Result(network="fpn", skipped="no smp")])
    assert "broken (skipped)" in page
    assert "FPN, ResNet-18 (skipped)" in page
    assert any("no kernel" in note for note in notes_of([result]))


def test_every_trained_network_of_this_project_gives_logits_of_one_channel() -> None:
    assert len(ZOO) >= 14
    for entry in ZOO.values():
        if entry.make is not None and entry.package is None:
            with torch.inference_mode():
                assert entry.make().eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 32, 32)
        if entry.bundled is not None:
            nothing = open_set(bundled.sample(), "train").take(1, seed=0)
            found = zoo_weights.weights_of(
                entry, cache=Path(), data=Path(), images=nothing, threads=1
            )
            assert found.exists()


def test_the_key_of_a_training_tells_recipe_architecture_and_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = open_set(bundled.sample(), "train")
    entry = ZOO["nnunet"]

    def place() -> Path:
        return zoo_weights.folder_of(entry, Path("c"), images)

    first = place()
    others = [zoo_weights.folder_of(ZOO["fpn"], Path("c"), images)]
    others.append(zoo_weights.folder_of(entry, Path("c"), images.take(3, seed=0)))
    monkeypatch.setattr(zoo_weights, "RECIPE", ("--epochs", "1"))
    others.append(place())
    assert first not in others
    assert len(set(others)) == len(others)


def test_a_missing_package_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = replace(ZOO["nnunet"], package="no_such_package")
    images = open_set(bundled.sample(), "train").take(1, seed=0)
    with pytest.raises(InputError, match="no_such_package is not installed"):
        zoo_weights.weights_of(entry, cache=tmp_path, data=tmp_path, images=images, threads=1)


def test_contenders_are_files_on_a_runtime_each_with_a_name_of_its_own() -> None:
    found = quantized_contenders()
    assert all(c.model is not None and c.runtime is not None for c in found)
    assert len({c.name for c in found}) == len(found)
    assert {c.group for c in found} >= {Group.OURS, Group.ONNXRUNTIME, Group.OPENVINO, Group.NNCF}


def test_a_wrong_name_and_an_empty_folder_are_the_users_mistakes(tmp_path: Path) -> None:
    assert main(["zoo", "--only", "nonet", "-o", str(tmp_path)]) == 2
    assert main(["zoo", "--summary", "-o", str(tmp_path)]) == 2
