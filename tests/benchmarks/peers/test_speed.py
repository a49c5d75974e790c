"""Speed beside its peers: complete rows, paired ratios, reasons, a chart one can read."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import worker_tasks
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from segdeploy.benchmarks.peers import __main__ as peers
from segdeploy.benchmarks.peers import chart as peers_chart
from segdeploy.benchmarks.peers import models as peers_models
from segdeploy.benchmarks.peers import speed as peers_speed
from segdeploy.benchmarks.peers.contenders import BASELINE, Contender, Group, contenders
from segdeploy.benchmarks.peers.models import Made, Model, SpeedSubject, make_models
from segdeploy.benchmarks.peers.quantize import Recipe
from segdeploy.benchmarks.peers.speed import Plan, compare_speed
from segdeploy.benchmarks.peers.speed_rows import (
    Lap,
    comparisons_of,
    fastest,
    paired_ratio,
    rows_of,
)
from segdeploy.benchmarks.peers.timing import Timed, settings_of, time_in_turn
from segdeploy.benchmarks.report.label_places import free_place
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models.checkpoint import load_checkpoint, save_checkpoint
from segdeploy.deploy.models.unet_plus_plus import UNetPlusPlus
from segdeploy.deploy.onnx_model.artifact import Precision, TensorSpec
from segdeploy.deploy.runtimes.base import Executed, Execution, Feeds, Runtime
from segdeploy.deploy.runtimes.registry import RuntimeName, availability, open_runtime
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.system.errors import InputError, RunError

Randomise = Callable[[UNetPlusPlus], UNetPlusPlus]
SECONDS = st.floats(1e-3, 1e3)
PLAN = Plan(batch=2, warmup=1, duration_s=0.0)


def silent(items: Iterable[Any], label: str) -> Iterable[Any]:
    return items


def no_share(label: str) -> nullcontext[Callable[[float], None]]:
    return nullcontext(lambda share: None)


class FakeRuntime:
    """Answers with its own constant at once and notes each call in a shared log."""

    inputs = (TensorSpec(name="image", shape=("batch", 3, 4, 4), dtype="float32"),)
    outputs = (TensorSpec(name="probability", shape=("batch", 1, 4, 4), dtype="float32"),)
    executed = Executed(layers=(), requested=Precision.FP32)

    def __init__(self, name: str, log: list[str], execution: Execution) -> None:
        self.name, self.log, self.execution = name, log, execution

    def infer(self, feeds: Feeds) -> dict[str, NDArray[np.float32]]:
        self.log.append(self.name)
        return {"probability": np.zeros((len(feeds["image"]), 1, 4, 4), np.float32)}

    def infer_many(self, batches: Iterable[Feeds]) -> Iterator[dict[str, NDArray[np.float32]]]:
        return map(self.infer, batches)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *error: object) -> None:
        return None


def lap(*per_image_s: float) -> Lap:
    timed = Timed(figures={"p50_ms": 1e3 * float(np.median(per_image_s))}, per_image_s=per_image_s)
    return Lap(executed=FakeRuntime.executed, timed=timed, probability=None)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, randomise: Randomise) -> Path:
    """A folder with ``tiny.safetensors`` and ``data``: 4 training and 3 test images."""
    root = tmp_path_factory.mktemp("speed")
    network, contract = randomise(UNetPlusPlus(width=4)), Preprocess(size=(32, 32))
    save_checkpoint(network, root / "tiny.safetensors", preprocess=contract)
    generator = np.random.default_rng(5)
    rows = ["image_id,split"]
    for index in range(7):
        mask = np.zeros((40, 40), np.uint8)
        top, left = generator.integers(4, 20, 2)
        mask[top : top + 14, left : left + 14] = 255
        pixels = generator.integers(0, 60, (40, 40, 3)) + mask[..., None] // 2
        for kind, content in (("images", pixels.astype(np.uint8)), ("masks", mask)):
            (root / "data" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(root / "data" / kind / f"{index}.png")
        rows.append(f"{index},{'train' if index < 4 else 'test'}")
    (root / "data" / "splits.csv").write_text("\n".join(rows), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def subject(files: Path) -> SpeedSubject:
    checkpoint = load_checkpoint(files / "tiny.safetensors")
    return SpeedSubject(
        checkpoint=checkpoint,
        model=export(checkpoint, files / "tiny.onnx"),
        calibration=open_set(files / "data", "train"),
        evaluation=open_set(files / "data", "test"),
        threads=1,
    )


@pytest.fixture
def result(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch, no_compiler: str
) -> dict[str, Any]:
    """What one run wrote where NNCF and a C++ compiler are not installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "nncf" else find_spec(name)
    )
    flags = ["--duration", "0", "--warmup", "1", "--batch", "2", "--threads", "1"]
    given_files = ["-c", str(files / "tiny.safetensors"), "--data", str(files / "data")]
    amount = ["--num-samples", "3", "--eval-samples", "2", "-o", str(tmp_path / "out")]
    assert peers.main(["speed", *given_files, *amount, *flags]) == 0
    content = json.loads((tmp_path / "out" / "peers_speed.json").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def test_every_contender_has_a_row_with_every_figure_or_its_reason(
    result: dict[str, Any], tmp_path: Path
) -> None:
    rows = {row["name"]: row for row in result["rows"]}
    everybody = contenders(pruned=True)  # UNet++ with all its heads
    assert list(rows) == [contender.name for contender in everybody]
    assert "segdeploy L3 openvino-cpu, OpenVINO" in rows
    keys = [setting["key"] for setting in result["settings"]]
    assert keys == ["latency", "throughput_1", "throughput_2"]
    openvino = availability(RuntimeName.OPENVINO).ready
    for contender in everybody:
        row = rows[contender.name]
        runs = not contender.compiled and contender.group is not Group.NNCF
        if not runs or (contender.runtime is RuntimeName.OPENVINO and not openvino):
            assert row["skipped"]
            assert row["iou"] is None
            assert set(row["settings"].values()) == {None}
            continue
        assert row["skipped"] is None
        assert row["delta_iou_percentage_points"] == pytest.approx(
            row["iou"] - rows[BASELINE.name]["iou"]
        )
        assert row["precision_executed"].startswith(row["precision_requested"])
        for key in keys:
            assert row["settings"][key]["images_per_s"] > 0
            assert row["settings"][key]["times_baseline"]["rounds"] >= 3
            assert row["settings"][key]["times_nncf"] is None
    assert rows[BASELINE.name]["settings"]["latency"]["times_baseline"]["median"] == 1.0
    assert result["comparisons"] == []
    assert (result["calibration_images"], result["evaluation_images"]) == (3, 2)
    page = (tmp_path / "out" / "peers_speed.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in table}) == 1
    for row in result["rows"]:
        assert any(line.startswith(f"| {row['name']} ") for line in table)
        assert not row["skipped"] or row["skipped"] in page
    assert result["command"] in page
    assert result["environment"]["versions"]["torch"] in page
    check_chart(result, tmp_path)


def check_chart(result: dict[str, Any], folder: Path) -> None:
    """The chart beside the page where matplotlib is installed; the reason where it is not."""
    written = sorted(path.suffix for path in (folder / "out").iterdir())
    if importlib.util.find_spec("matplotlib") is None:
        assert result["chart_missing"] == peers_chart.missing()
        assert written == [".json", ".md"]
        return
    assert written == [".json", ".md", ".png", ".svg"]
    peers_chart.write_chart(result, folder / "again")
    for suffix in (".png", ".svg"):
        first = (folder / "out" / f"peers_speed{suffix}").read_bytes()
        assert (folder / f"again{suffix}").read_bytes() == first


def test_without_matplotlib_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install matplotlib" in str(peers_chart.missing())


def test_the_fastest_is_number_one_and_who_was_not_measured_is_not_drawn() -> None:
    def row(name: str, p50_ms: float | None) -> dict[str, Any]:
        latency = p50_ms and {"p50_ms": p50_ms}
        iou = None if p50_ms is None else 80.0
        return {"name": name, "group": "NNCF", "iou": iou, "settings": {"latency": latency}}

    points = peers_chart.points_of({"rows": [row("a", 9.0), row("b", None), row("c", 2.0)]})
    assert [(point.number, point.name) for point in points] == [(1, "c"), (2, "a")]
    assert points[0].key == "1  c: 2.0 ms, 80.00 %"


@given(
    centres=st.lists(
        st.tuples(st.floats(100, 900), st.floats(100, 400)), min_size=2, max_size=8, unique=True
    )
)
def test_numbers_cover_neither_points_nor_each_other(centres: list[tuple[float, float]]) -> None:
    inside = (0.0, 0.0, 1000.0, 500.0)
    markers = [(x - 12, y - 12, x + 12, y + 12) for x, y in centres]
    taken = list(markers)
    for centre in centres:
        _, box = free_place(centre, (20.0, 16.0), taken, inside, unit=2.0)
        assert inside[0] <= box[0] < box[2] <= inside[2]
        assert inside[1] <= box[1] < box[3] <= inside[3]
        for other in taken:
            apart_x = box[2] <= other[0] or other[2] <= box[0]
            assert apart_x or box[3] <= other[1] or other[3] <= box[1]
        taken.append(box)


@given(
    rounds=st.lists(st.tuples(SECONDS, SECONDS, SECONDS), min_size=1, max_size=20),
    factor=st.floats(0.1, 10),
)
def test_a_slow_moment_of_the_machine_changes_no_ratio(
    rounds: list[tuple[float, float, float]], factor: float
) -> None:
    ours = [own for own, _, _ in rounds]
    theirs = [factor * own for own in ours]
    slowed = [slow for _, _, slow in rounds]
    ratio = paired_ratio(
        [x * slow for x, slow in zip(theirs, slowed, strict=True)],
        [x * slow for x, slow in zip(ours, slowed, strict=True)],
    )
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((factor,) * 3)
    mixed = paired_ratio([other for _, other, _ in rounds], ours)
    assert mixed.low <= mixed.median * (1 + 1e-12)
    assert mixed.median <= mixed.high * (1 + 1e-12)
    assert mixed.rounds == len(rounds)


@pytest.mark.parametrize(("reference", "candidate"), [([], []), ([1.0], [1.0, 2.0])])
def test_rounds_that_do_not_pair_are_refused(
    reference: list[float], candidate: list[float]
) -> None:
    with pytest.raises(RunError, match="rounds"):
        paired_ratio(reference, candidate)


def test_everybody_takes_turns() -> None:
    log: list[str] = []
    setting = settings_of(threads=1, batch=8)[0]
    runtimes = [FakeRuntime(name, log, setting.execution) for name in ("a", "b")]
    found = time_in_turn(
        runtimes,
        setting,
        np.zeros((1, 3, 4, 4), np.float32),
        warmup=0,
        duration_s=0.0,
        progress=lambda share: None,
    )
    assert log == ["a", "b"] * 10
    assert [len(timed.per_image_s) for timed in found] == [10, 10]
    assert [timed.figures["p50_ms"] for timed in found] == [
        1e3 * float(np.median(timed.per_image_s)) for timed in found
    ]


def test_throughput_counts_images_not_calls() -> None:
    setting = settings_of(threads=2, batch=8)[-1]
    assert (setting.execution.batch, setting.execution.streams) == (8, 2)
    (timed,) = time_in_turn(
        [FakeRuntime("a", [], setting.execution)],
        setting,
        np.zeros((3, 3, 4, 4), np.float32),
        warmup=0,
        duration_s=0.0,
        progress=lambda share: None,
    )
    stamps = timed.figures["completions_s"]
    assert list(timed.per_image_s) == [slice_[-1] / (8 * len(slice_)) for slice_ in stamps]


def test_equal_batches_are_one_setting() -> None:
    keys = [setting.key for setting in settings_of(threads=2, batch=1)]
    assert keys == ["latency", "throughput_1"]


def test_ours_is_compared_with_the_faster_preset_in_the_same_precision() -> None:
    by_name = {contender.name: contender for contender in contenders()}
    field = {
        BASELINE.name: lap(8.0, 8.0),
        "NNCF performance, OpenVINO": lap(3.0, 5.0),
        "NNCF mixed, OpenVINO": lap(2.0, 4.0),
        "segdeploy openvino-cpu, OpenVINO": lap(1.0, 2.0),
        "segdeploy openvino-cpu, OpenVINO + bf16": lap(0.5, 0.5),
    }
    assert set(field) <= set(by_name)
    assert fastest(by_name.values(), field, Group.NNCF) == "NNCF mixed, OpenVINO"
    (found,) = comparisons_of(contenders(), {"latency": field})
    assert found == {
        "setting": "latency",
        "ours": "segdeploy openvino-cpu, OpenVINO",
        "peer": "NNCF mixed, OpenVINO",
        "median": 2.0,
        "low": 2.0,
        "high": 2.0,
        "rounds": 2,
    }
    del field["segdeploy openvino-cpu, OpenVINO"]
    assert comparisons_of(contenders(), {"latency": field}) == []


def test_no_compile_leaves_out_what_compiles(
    subject: SpeedSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = replace(BASELINE, name="compiled", compiled=True)
    monkeypatch.setattr(peers_speed, "contenders", lambda **unused: (BASELINE, compiled))
    monkeypatch.setattr(peers_speed, "make_models", lambda *unused, **options: {})
    plan = replace(PLAN, with_compiled=False)
    found = compare_speed(subject, plan, bar=silent, share_bar=no_share)
    assert [row["skipped"] for row in found["rows"]] == [None, peers_speed.NO_COMPILE]
    assert not any(map(PLAN.left_out, contenders()))


def test_rows_need_the_baseline() -> None:
    truths, names = np.zeros((2, 4, 4), bool), ["a", "b"]
    with pytest.raises(RunError, match="PyTorch eager fp32"):
        rows_of(contenders(), {"latency": {}}, {}, truths, names)


@pytest.mark.parametrize("group", [Group.NNCF, Group.OURS])
def test_a_failed_peer_is_a_reason_and_our_failure_an_error(
    subject: SpeedSubject, monkeypatch: pytest.MonkeyPatch, group: Group
) -> None:
    broken = replace(BASELINE, name="broken", group=group)
    monkeypatch.setattr(peers_speed, "contenders", lambda **unused: (BASELINE, broken))
    monkeypatch.setattr(peers_speed, "make_models", lambda *unused, **options: {})
    opened = Contender.open

    def fail(self: Contender, *arguments: Any) -> Runtime:
        if self is broken:
            raise InputError("no luck")
        return opened(self, *arguments)

    monkeypatch.setattr(Contender, "open", fail)
    if group is Group.OURS:
        with pytest.raises(InputError, match="no luck"):
            compare_speed(subject, PLAN, bar=silent, share_bar=no_share)
        return
    found = compare_speed(subject, PLAN, bar=silent, share_bar=no_share)
    assert [row["skipped"] for row in found["rows"]] == [None, "no luck"]
    assert found["rows"][1]["settings"] == dict.fromkeys(
        ("latency", "throughput_1", "throughput_2")
    )


def test_a_tool_that_breaks_is_a_reason(
    subject: SpeedSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks = partial(worker_tasks.instead, partial(worker_tasks.leave, "no luck"))
    monkeypatch.setattr(peers_models, "write", breaks)
    made = make_models(subject, tmp_path)
    assert made[Model.ORT_STATIC].skipped == "failed: no luck in a process of its own"
    assert made[Model.FLOAT].artifact == subject.model
    for model in (Model.OURS_ORT, Model.OURS_OPENVINO):
        ours = made[model].artifact
        assert ours is not None
        assert ours.precision is Precision.INT8


def test_a_model_is_there_or_a_reason() -> None:
    with pytest.raises(RunError):
        Made()


@pytest.mark.parametrize("recipe", [Recipe.NNCF_PERFORMANCE])
def test_nncf_writes_what_openvino_runs_in_int8(
    subject: SpeedSubject, tmp_path: Path, recipe: Recipe
) -> None:
    made = peers_models._theirs(recipe, subject.job(subject.model), tmp_path)
    if importlib.util.find_spec("nncf") is None or not availability(RuntimeName.OPENVINO).ready:
        assert "not installed" in str(made.skipped)
        return
    assert made.artifact is not None
    with open_runtime(
        RuntimeName.OPENVINO, made.artifact, execution=Execution(threads=1)
    ) as runtime:
        assert runtime.executed.words.startswith("int8")


def test_channels_last_leaves_the_checkpoint_alone(subject: SpeedSubject) -> None:
    weights = [weight.stride() for weight in subject.checkpoint.network.parameters()]
    contender = replace(BASELINE, channels_last=True)
    images = subject.evaluation.inputs(subject.preprocess)[:1]
    with (
        contender.open(subject, {}, Execution(threads=1)) as fast,
        BASELINE.open(subject, {}, Execution(threads=1)) as plain,
    ):
        name = plain.outputs[0].name
        np.testing.assert_allclose(
            fast.infer({"image": images})[name], plain.infer({"image": images})[name], atol=1e-5
        )
    assert [weight.stride() for weight in subject.checkpoint.network.parameters()] == weights
