"""The zoo: cells that are kept, sums that follow from them, networks that are made."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from segdeploy.benchmarks.peers import models
from segdeploy.benchmarks.peers.__main__ import main
from segdeploy.benchmarks.peers.contenders import Contender, Group, quantized_contenders
from segdeploy.benchmarks.peers.models import Job, Made, Model
from segdeploy.benchmarks.peers.quantize import SETTINGS, Cost, Recipe, Request
from segdeploy.benchmarks.peers.zoo import keys, measure
from segdeploy.benchmarks.peers.zoo import weights as zoo_weights
from segdeploy.benchmarks.peers.zoo.cells import Accuracy, Cell, Timing, read_record, save
from segdeploy.benchmarks.peers.zoo.measure import (
    Plan,
    cell_key,
    measure_network,
    slug,
    stored_cells,
    stored_timing,
    timing_key,
)
from segdeploy.benchmarks.peers.zoo.networks import ZOO, Entry
from segdeploy.benchmarks.peers.zoo.page import Result, notes_of, rows_of, summary_of
from segdeploy.benchmarks.peers.zoo.zoo import validation_of
from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_set import SegmentationSet, open_set
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models.checkpoint import save_checkpoint
from segdeploy.deploy.models.unet_plus_plus import UNetPlusPlus
from segdeploy.deploy.onnx_model.file import describe
from segdeploy.deploy.runtimes.executed import file_layers
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.system.errors import InputError, RunError

GOOD = Accuracy(
    iou=88.0, delta=-0.1, ci95=(-0.2, 0.0), sqnr_db=30.0, int8_mac_share=1.0, executed="int8"
)
FILE = "a" * 64


def cell(
    contender: str,
    group: Group,
    accuracy: Accuracy | None = GOOD,
    *,
    model: Model = Model.OURS_OPENVINO,
    network: str = "nnunet",
) -> Cell:
    return Cell(
        network=network,
        contender=contender,
        model=model.value,
        group=group.value,
        runtime=RuntimeName.OPENVINO.value,
        decided_by={"source": "b"},
        model_sha256=FILE if accuracy else None,
        seconds=1.0,
        peak_bytes=10,
        accuracy=accuracy,
        skipped=None if accuracy else "failed: no kernel",
    )


def nncf(name: str, accuracy: Accuracy | None = GOOD) -> Cell:
    return cell(name, Group.NNCF, accuracy, model=Model.NNCF_MIXED)


def timing(*, factors: tuple[float, ...] = (1.0, 2.0), **seconds: float) -> Timing:
    blocks = {
        name: tuple((value * each,) * 2 for each in factors) for name, value in seconds.items()
    }
    return Timing(
        network="nnunet",
        decided_by={"source": "b", "rounds": "2"},
        models=dict.fromkeys(seconds, FILE),
        latency_s=blocks,
        throughput_s=blocks,
        batch=8,
        threads=2,
    )


def test_records_are_read_as_they_were_written_and_ones_without_a_key_are_not(
    tmp_path: Path,
) -> None:
    path, found = tmp_path / "c" / "x.json", cell("ours", Group.OURS)
    save(found, path)
    assert read_record(path, Cell) == found
    assert read_record(tmp_path / "none.json", Cell) is None
    times = timing(ours=0.01)
    save(times, path)
    assert read_record(path, Timing) == times
    path.write_text('{"network": "nnunet", "source_sha256": "a"}')
    assert read_record(path, Cell) is None
    path.write_text("{}")
    with pytest.raises(InputError, match="delete it"):
        read_record(path, Cell)
    with pytest.raises(ValueError, match="not both"):
        replace(found, skipped="too")


def test_the_summary_compares_with_the_fastest_preset_and_names_losses() -> None:
    lossy = replace(GOOD, delta=-0.4, sqnr_db=20.0)
    slow = replace(GOOD, delta=0.1, sqnr_db=10.0)
    result = Result(
        network="nnunet",
        cells=(
            cell("ours", Group.OURS, lossy),
            cell("tuned", Group.OURS, model=Model.TUNED_OPENVINO),
            nncf("slow", slow),
            nncf("fast"),
            cell("control", Group.NNCF, model=Model.NNCF_ACCURACY),
            nncf("broken", None),
        ),
        timing=timing(ours=0.011, tuned=0.009, slow=0.02, fast=0.01, control=1e-3),
    )
    text = "\n".join(summary_of([result]))
    assert "ours over NNCF's best preset, OpenVINO: <= 1.00 met on 0, not met on 1, not" in text
    assert "nnunet 1.100 [1.100, 1.100] not met" in text
    assert "ours tuned over NNCF's best preset, OpenVINO: <= 1.00 met on 1, not met on 0" in text
    assert "nnunet 0.900 [0.900, 0.900] met" in text
    assert "IoU of ours behind NNCF's best preset by more than 0.05 points, of 1: nnunet" in text
    assert "IoU of ours tuned behind NNCF's best preset by more than 0.05 points, of 1: no" in text
    assert "SQNR of ours higher than NNCF's on 0 of 1" in text
    assert "loses more than 0.2 points: nnunet with ours (-0.400)" in text
    assert text.count("quantize_static, ONNX Runtime: not measured") == 2
    page = rows_of([result, Result(network="fpn", skipped="no smp")])
    assert "broken (skipped)" in page
    assert "FPN, ResNet-18 (skipped)" in page
    assert any("no kernel" in note for note in notes_of([result]))
    untuned = "\n".join(summary_of([replace(result, cells=(result.cells[0], *result.cells[2:]))]))
    assert "Accuracy of ours tuned over NNCF's best preset, OpenVINO: not measured" in untuned


@pytest.mark.parametrize(
    ("factors", "verdict"),
    [((0.95, 0.95, 0.96), "met"), ((0.98, 0.98, 0.981), "not met"), ((0.9, 1.0, 0.96), "not prov")],
)
def test_the_interval_decides_what_is_proven_of_the_whole_unet_plus_plus(
    factors: tuple[float, ...], verdict: str
) -> None:
    ours = timing(factors=factors, ours=0.01)
    peer = timing(factors=(1.0, 1.0, 1.0), fast=0.01)
    times = replace(ours, latency_s=ours.latency_s | peer.latency_s)
    cells = (cell("ours", Group.OURS), nncf("fast"))
    lines = summary_of([Result(network="unet_plus_plus", cells=cells, timing=times)])
    whole = "Time of ours over NNCF's best preset, OpenVINO, on the whole bundled UNet++: <= 0.97 "
    assert any(line.startswith(whole + verdict) for line in lines)
    elsewhere = summary_of([Result(network="nnunet", cells=cells, timing=times)])
    assert f"{whole}not measured." in elsewhere


@pytest.fixture(scope="module")
def images() -> SegmentationSet:
    return open_set(bundled.sample(), "train")


def some(images: SegmentationSet, *places: int) -> SegmentationSet:
    return replace(images, samples=tuple(images.samples[place] for place in places))


@pytest.fixture
def plan(images: SegmentationSet, tmp_path: Path) -> Plan:
    return Plan(
        calibration=some(images, 0),
        evaluation=some(images, 1, 3),
        threads=1,
        rounds=2,
        batch=2,
        output=tmp_path,
    )


def contender(model: Model) -> Contender:
    return next(c for c in quantized_contenders(tuned=True) if c.model is model)


def test_a_cell_is_keyed_by_all_that_decides_it(
    monkeypatch: pytest.MonkeyPatch, images: SegmentationSet, plan: Plan
) -> None:
    tuned = contender(Model.TUNED_OPENVINO)
    first = cell_key(tuned, FILE, plan)
    others = [
        cell_key(tuned, "c" * 64, plan),
        cell_key(contender(Model.OURS_OPENVINO), FILE, plan),
        cell_key(tuned, FILE, replace(plan, calibration=some(images, 2))),
        cell_key(tuned, FILE, replace(plan, evaluation=some(images, 2))),
        cell_key(tuned, FILE, replace(plan, threads=2)),
        cell_key(tuned, FILE, replace(plan, tune_s=5.0)),
    ]
    monkeypatch.setattr(keys, "__version__", "9")
    others.append(cell_key(tuned, FILE, plan))
    monkeypatch.undo()
    version = keys._version
    for package in keys.VERSIONED:
        monkeypatch.setattr(
            keys, "_version", lambda p, new=package: "9" if p == new else version(p)
        )
        others.append(cell_key(tuned, FILE, plan))
    assert first not in others
    assert all(a != b for a, b in combinations(others, 2))


def test_a_cell_is_not_keyed_by_what_decides_others_or_only_times(
    monkeypatch: pytest.MonkeyPatch, images: SegmentationSet, plan: Plan
) -> None:
    static, control = contender(Model.ORT_STATIC), contender(Model.NNCF_ACCURACY)
    searched = replace(plan, tune_s=5.0, rounds=9, batch=9, output=Path("x"))
    validated = replace(plan, validation=some(images, 2))
    for each in (static, contender(Model.OURS_ORT), control):
        assert cell_key(each, FILE, plan) == cell_key(each, FILE, searched)
    assert cell_key(static, FILE, plan) == cell_key(static, FILE, validated)
    assert cell_key(control, FILE, plan) != cell_key(control, FILE, validated)
    before = cell_key(static, FILE, plan), cell_key(control, FILE, plan)
    monkeypatch.setitem(SETTINGS, Recipe.ORT_STATIC, "another way")
    assert cell_key(static, FILE, plan) != before[0]
    assert cell_key(control, FILE, plan) == before[1]


def test_the_evaluation_is_keyed_by_its_masks_too(tmp_path: Path) -> None:
    shutil.copytree(bundled.sample(), tmp_path / "data")
    found = open_set(tmp_path / "data", "test")
    before = keys.judged_sha256(found), found.sha256()
    found.samples[0].mask_path.write_bytes(found.samples[1].mask_path.read_bytes())
    assert keys.judged_sha256(found) != before[0]
    assert found.sha256() == before[1]


def test_times_are_keyed_by_rounds_batch_threads_and_the_files_of_the_contenders(
    plan: Plan,
) -> None:
    cells = [cell("ours", Group.OURS), nncf("fast")]
    first = timing_key(cells, plan)
    assert first == timing_key([*cells, nncf("broken", None)], plan)
    for other in (replace(plan, rounds=3), replace(plan, batch=3), replace(plan, threads=2)):
        assert timing_key(cells, other) != first
    assert timing_key(cells[:1], plan) != first
    assert timing_key([cells[0], nncf("renamed")], plan) != first
    assert timing_key([cells[0], replace(cells[1], model_sha256="c" * 64)], plan) != first


def test_a_stored_sum_leaves_out_what_another_setting_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, ours = contender(Model.FLOAT), contender(Model.OURS_OPENVINO)
    shared = {"threads": "2"}
    base = replace(cell(first.name, Group.ONNXRUNTIME, model=Model.FLOAT), decided_by=shared)
    mine = replace(cell(ours.name, Group.OURS), decided_by={**shared, f"of {ours.name}": "x"})
    for each in (base, mine):
        save(each, tmp_path / f"{slug(each.contender)}.json")
    times = replace(timing(**{base.contender: 0.01, mine.contender: 0.01}), decided_by=shared)
    save(times, tmp_path / "timing.json")
    assert stored_cells(tmp_path) == [base, mine]
    assert stored_timing(tmp_path, [base, mine]) == times
    assert stored_timing(tmp_path, [base, replace(mine, model_sha256="c" * 64)]) is None
    stale = replace(mine, decided_by={"threads": "1"})
    assert stored_timing(tmp_path, [base, stale]) is None
    save(stale, tmp_path / f"{slug(mine.contender)}.json")
    assert stored_cells(tmp_path) == [base]
    assert mine.contender in caplog.text


def test_what_is_there_is_measured_again_only_where_what_decided_it_changed(
    randomise: Callable[[UNetPlusPlus], UNetPlusPlus],
    monkeypatch: pytest.MonkeyPatch,
    plan: Plan,
) -> None:
    paths = [plan.output / f"{index}.safetensors" for index in range(2)]
    network = randomise(UNetPlusPlus(width=4))
    for path in paths:
        save_checkpoint(network, path, preprocess=Preprocess(size=(32, 32)))
        network = randomise(network)
    runs = [contender(Model.FLOAT), contender(Model.ORT_STATIC)]
    monkeypatch.setattr(measure, "quantized_contenders", lambda tuned: runs)
    done: list[str] = []
    whole = measure._cell

    def noted(entry: Entry, each: Contender, *others: Any) -> Cell:
        done.append(each.name)
        return whole(entry, each, *others)

    monkeypatch.setattr(measure, "_cell", noted)

    def copied(model: Model, job: Job, folder: Path) -> Made:
        made = shutil.copy(job.model.path, folder / f"{model.value}.onnx")
        return Made(artifact=describe(made), cost=Cost(seconds=1.0, peak_bytes=1))

    monkeypatch.setattr(measure, "make", copied)

    def measured(weights: Path, how: Plan) -> list[str]:
        done.clear()
        measure_network(ZOO["unet_plus_plus"], weights, how, bar=lambda items, label: items)
        return list(done)

    untimed = replace(plan, rounds=0)
    names = [each.name for each in runs]
    assert measured(paths[0], untimed) == names
    assert measured(paths[0], untimed) == []
    (plan.output / "unet_plus_plus" / "onnxruntime-static.onnx").write_bytes(b"half of one")
    assert measured(paths[0], untimed) == names[1:]  # the file that its figures are of is gone
    assert measured(paths[0], replace(untimed, threads=2)) == names

    def refused(*_: object) -> None:
        raise RunError("it is exported again")

    monkeypatch.setattr(measure, "export", refused)
    with pytest.raises(RunError, match="exported again"):
        measured(paths[1], untimed)
    (plan.output / "unet_plus_plus" / "float.sim.onnx").write_bytes(b"half of one")
    with pytest.raises(RunError, match="exported again"):
        measured(paths[0], untimed)


def test_accuracy_control_validates_on_the_val_split_where_there_is_one(tmp_path: Path) -> None:
    shutil.copytree(bundled.sample(), tmp_path / "data")
    splits = tmp_path / "data" / "splits.csv"
    rows = [line for line in splits.read_text().splitlines() if not line.endswith(",val")]
    splits.write_text("\n".join(rows) + "\n")
    assert validation_of(tmp_path / "data") is None
    last = rows[-1].split(",")[0]
    splits.write_text("\n".join([*rows[:-1], f"{last},val"]) + "\n")
    found = validation_of(tmp_path / "data")
    assert found is not None
    assert [sample.name for sample in found] == [last]


def test_accuracy_control_is_given_the_validation_images_or_those_that_calibrate(
    small_onnx: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    images: SegmentationSet,
    tmp_path: Path,
) -> None:
    asked: list[Request] = []

    def refused(_: object, request: Request) -> None:
        asked.append(request)
        raise RunError("not now")

    monkeypatch.setattr(models, "call_alone", refused)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    contract = Preprocess(size=(32, 32))
    job = Job(
        model=describe(small_onnx(tmp_path / "small.onnx", contract)),
        preprocess=contract,
        calibration=some(images, 0),
        threads=1,
    )
    for each in (job, replace(job, validation=some(images, 1))):
        assert models.make(Model.NNCF_ACCURACY, each, tmp_path).skipped == "failed: not now"
    assert [request.validation for request in asked] == [some(images, 0), some(images, 1)]
    assert {request.images for request in asked} == {(images.samples[0].image_path,)}


def test_a_file_of_openvinos_own_tells_the_layers_of_its_source(
    small_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    openvino = pytest.importorskip("openvino")
    source = describe(small_onnx(tmp_path / "small.onnx", Preprocess(size=(32, 32))))
    own = replace(source, path=tmp_path / "small.xml")
    openvino.save_model(openvino.Core().read_model(source.path), own.path, False)
    with open_runtime(RuntimeName.OPENVINO, own, execution=Execution(threads=1)) as runtime:
        assert runtime.executed.macs == 0
        found = measure.executed_of_source(runtime, source)
    assert [layer.macs for layer in found.layers] == [x.macs for x in file_layers(source.path)]
    assert {layer.precision for layer in found.layers} == {"fp32"}
    assert found.int8_mac_share == 0.0


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
