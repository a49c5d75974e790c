"""Calibration beside its peers: complete rows, derived figures, reasons where there are none."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import worker_tasks
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from segdeploy.benchmarks.peers import __main__ as peers
from segdeploy.benchmarks.peers import attempt as peers_attempt
from segdeploy.benchmarks.peers.attempt import Attempt, Measurement, attempt, unavailable
from segdeploy.benchmarks.peers.calibration import repeated
from segdeploy.benchmarks.peers.ranges import activation_ranges, compare_widths
from segdeploy.benchmarks.peers.tools import STANDARD, Job, Tool, candidates_searched, load
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.file import set_metadata
from segdeploy.deploy.system.errors import InputError, RunError
from segdeploy.deploy.system.memory import peak_bytes

SIZE = 32
CONTRACT = Preprocess(size=(SIZE, SIZE))
QUANTIZED = {"image", "first", "pooled", "second", "resized", "joined"}
FIGURES = ("seconds", "whole_seconds", "process_seconds", "peak_bytes", "imports_bytes")


def tiny_model(path: Path, **metadata: str) -> Path:
    """Two levels of a U-Net by hand: every operator the int8 writer knows."""
    generator = np.random.default_rng(3)

    def conv(name: str, source: str, shape: tuple[int, ...]) -> onnx.NodeProto:
        weight = generator.normal(0, 0.4, shape).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"{name}.weight"))
        weights.append(numpy_helper.from_array(np.zeros(shape[0], np.float32), f"{name}.bias"))
        pads = [shape[2] // 2] * 4
        inputs = [source, f"{name}.weight", f"{name}.bias"]
        return helper.make_node("Conv", inputs, [f"{name}.out"], name=name, pads=pads)

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [output], name=output, **attributes)

    weights = [numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")]
    nodes = [
        conv("conv1", "image", (4, 3, 3, 3)),
        node("Relu", ["conv1.out"], "first"),
        node("MaxPool", ["first"], "pooled", kernel_shape=[2, 2], strides=[2, 2]),
        conv("conv2", "pooled", (4, 4, 3, 3)),
        node("Relu", ["conv2.out"], "second"),
        node("Resize", ["second", "", "scales"], "resized", mode="nearest"),
        node("Concat", ["first", "resized"], "joined", axis=1),
        conv("conv3", "joined", (1, 8, 1, 1)),
        node("Sigmoid", ["conv3.out"], "probability"),
    ]
    specs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, SIZE, SIZE])
        for name, channels in (("image", 3), ("probability", 1))
    ]
    graph = helper.make_graph(nodes, "tiny", specs[:1], specs[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    set_metadata(model, metadata)
    onnx.save(model, path)
    return path


def image_folder(root: Path) -> Path:
    """Six training and three test images of bright squares on noise."""
    generator = np.random.default_rng(5)
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    splits = [(f"img{index}", "train" if index < 6 else "test") for index in range(9)]
    for name, _ in splits:
        mask = np.zeros((SIZE, SIZE), np.uint8)
        top, left = generator.integers(2, 16, 2)
        mask[top : top + 12, left : left + 12] = 255
        noise = generator.integers(0, 60, (SIZE, SIZE, 3))
        pixels = (noise + mask[..., None] // 2).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{name}.png")
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    with (root / "splits.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("image_id", "split"), *splits])
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("peers")
    tiny_model(root / "tiny.onnx", preprocess=CONTRACT.to_json(), precision="fp32")
    image_folder(root / "data")
    return root


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, Any]:
    """What one run wrote where NNCF is not installed."""
    output, find_spec = folder / "out", importlib.util.find_spec
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "nncf" else find_spec(name)
        )
        assert run(folder, "--num-samples", "4", "--threads", "1", "-o", str(output)) == 0
    content = json.loads((output / "peers_calibration.json").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def run(folder: Path, *arguments: str) -> int:
    model, data = str(folder / "tiny.onnx"), str(folder / "data")
    return peers.main(["calibration", "-m", model, "--data", data, *arguments])


def job(folder: Path, out: Path) -> Job:
    return Job(
        model=folder / "tiny.onnx",
        input_name="image",
        samples=open_set(folder / "data", "train").samples,
        preprocess=CONTRACT,
        threads=1,
        folder=out,
    )


def test_every_tool_has_its_row_and_every_figure(result: dict[str, Any]) -> None:
    rows = result["rows"]
    assert [row["tool"] for row in rows] == [tool.value for tool in STANDARD]
    for row in rows[:3]:
        assert row["skipped"] is None
        assert all(row[key] > 0 for key in FIGURES)
        assert row["seconds"] <= row["process_seconds"]
        assert row["imports_bytes"] <= row["peak_bytes"]
        assert row["delta_iou_percentage_points"] == row["iou"] - result["float_iou"]
    assert result["calibration_images"] == 4
    assert result["evaluation_images"] == 3


def test_what_is_not_installed_is_a_row_with_its_reason(result: dict[str, Any]) -> None:
    row = result["rows"][-1]
    assert row["tool"] == "nncf"
    assert "segdeploy[peers]" in row["skipped"]
    assert all(row[key] is None for key in (*FIGURES, "iou", "ranges", "widths", "candidates"))


def test_ours_searches_where_others_do_not(result: dict[str, Any]) -> None:
    candidates = {row["tool"]: row["candidates"] for row in result["rows"]}
    assert candidates["segdeploy-entropy"] == 2048 - 128 + 1
    assert candidates["onnxruntime-entropy"] == 1
    assert candidates["onnxruntime-minmax"] == 0


def test_ranges_are_compared_by_name(result: dict[str, Any]) -> None:
    ours, _, minmax, _ = result["rows"]
    shared = set(ours["ranges"]) & set(minmax["ranges"])
    assert {"image", "first", "second", "joined"} <= shared == set(ours["ranges"])
    assert minmax["widths"]["tensors"] == len(shared)
    assert minmax["widths"]["least"] >= 1 - 1e-6  # no search leaves what was seen
    assert set(ours["widths"].values()) == {len(shared), 1.0}


def test_the_page_shows_every_row_the_machine_and_the_command(
    result: dict[str, Any], folder: Path
) -> None:
    page = (folder / "out" / "peers_calibration.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(table) == 2 + 1 + len(result["rows"])
    assert len({line.count("|") for line in table}) == 1
    for row in result["rows"]:
        assert any(line.startswith(f"| {row['name']} ") for line in table)
    assert result["environment"]["versions"]["onnxruntime"] in page
    assert f"{result['rows'][-1]['name']} was skipped: nncf is not installed" in page
    assert result["command"] in page


def test_growth_repeats_images_and_reports_the_ratio(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--threads", "1", "-o", str(tmp_path), "--format", "json")
    assert run(folder, "--growth", "2", "14", *flags) == 0
    shown = json.loads(capsys.readouterr().out)
    few, many = shown["rows"]
    assert (few["images"], many["images"]) == (2, 14)
    assert shown["peak_ratio"] == many["peak_bytes"] / few["peak_bytes"]
    stored = (tmp_path / "peers_calibration_growth.json").read_text(encoding="utf-8")
    assert json.loads(stored) == shown
    assert f"{shown['peak_ratio']:.3f}" in (tmp_path / "peers_calibration_growth.md").read_text()


def test_repeated_images_keep_their_files_and_differ_in_name(folder: Path) -> None:
    images = open_set(folder / "data", "train")
    more = repeated(images, 14)
    assert more.samples[:6] == images.samples
    assert len({sample.name for sample in more}) == len(more) == 14
    assert [s.image_path for s in more][6:12] == [s.image_path for s in images]


@given(bins=st.integers(64, 200), quantized=st.integers(1, 32))
def test_candidates_are_those_onnxruntime_computes(bins: int, quantized: int) -> None:
    from onnxruntime.quantization import calibrate

    collector = calibrate.HistogramCollector(
        method="entropy",
        symmetric=False,
        num_bins=bins,
        num_quantized_bins=2 * quantized,
        percentile=99.9,
        scenario="same",
    )
    values = np.random.default_rng(0).normal(size=500).astype(np.float32)
    collector.collect({"tensor": [values]})
    computed: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "smooth_distribution", lambda p: computed.append(p))
        collector.get_entropy_threshold(collector.histogram_dict["tensor"], 2 * quantized)
    assert candidates_searched(collector) == len(computed) / 2  # it smooths both distributions


def test_a_grown_histogram_has_more_candidates() -> None:
    grown = {"a": (np.zeros(128),), "b": (np.zeros(140),)}
    collector = SimpleNamespace(num_quantized_bins=128, histogram_dict=grown)
    assert candidates_searched(collector) == 7


@given(
    ranges=st.dictionaries(
        st.sampled_from("abcdef"), st.tuples(st.floats(-9, -1), st.floats(1, 9)), min_size=1
    ),
    factor=st.floats(0.25, 4),
)
def test_widths_scale_and_unknown_tensors_do_not_count(
    ranges: dict[str, tuple[float, float]], factor: float
) -> None:
    scaled = {name: (low * factor, high * factor) for name, (low, high) in ranges.items()}
    found = compare_widths(scaled | {"theirs": (0.0, 99.0)}, ranges | {"flat": (0.0, 0.0)})
    assert found is not None
    assert found.tensors == len(ranges)
    assert (found.least, found.median, found.most) == pytest.approx((factor,) * 3)
    assert compare_widths({"theirs": (0.0, 1.0)}, ranges) is None


def test_activation_ranges_are_what_the_integers_stand_for() -> None:
    values = {
        "s": np.float32(0.5),
        "u8": np.uint8(10),
        "s8": np.int8(0),
        "many": np.ones(2, np.float32),
        "w": np.ones((2, 2), np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", inputs, [f"q{index}"])
        for index, inputs in enumerate(
            (["a", "s", "u8"], ["b", "s", "s8"], ["c", "s"], ["d", "many"])
        )
    ]
    nodes.append(helper.make_node("QuantizeLinear", ["w", "s", "s8"], ["qw"]))
    constants = [numpy_helper.from_array(np.asarray(v), name) for name, v in values.items()]
    graph = helper.make_graph(nodes, "quantized", [], [], constants)
    assert activation_ranges(graph) == {
        "a": (-5.0, 122.5),
        "b": (-64.0, 63.5),
        "c": (0.0, 127.5),
    }


def test_nncf_is_measured_where_it_is_installed(folder: Path, tmp_path: Path) -> None:
    tried = attempt(Tool.NNCF, job(folder, tmp_path))
    if importlib.util.find_spec("nncf") is None:
        assert tried.skipped == unavailable(Tool.NNCF)
        return
    assert tried.measurement is not None
    assert tried.measurement.seconds < tried.measurement.whole_seconds
    assert set(tried.measurement.ranges) <= QUANTIZED
    assert (tmp_path / "int8.onnx").is_file()


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        (partial(worker_tasks.leave, "first\nno luck"), "no luck"),
        (partial(worker_tasks.leave, 7), "ended with exit 7"),
        (worker_tasks.kill, "ended by SIGKILL"),
    ],
)
def test_a_failed_peer_is_a_reason_and_our_failure_an_error(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    does: Callable[[], None],
    reason: str,
) -> None:
    monkeypatch.setattr(peers_attempt, "measure", partial(worker_tasks.instead, does))
    reason += " in a process of its own"
    assert attempt(Tool.ORT_MINMAX, job(folder, tmp_path)).skipped == f"failed: {reason}"
    with pytest.raises(RunError, match=reason):
        attempt(Tool.OURS, job(folder, tmp_path))


def test_an_unreadable_image_is_named(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    asked = job(folder, tmp_path)
    sample = replace(asked.samples[0], image_path=broken)
    with pytest.raises(InputError, match=r"broken\.png"):
        attempt(Tool.OURS, replace(asked, samples=(sample,)))


def test_an_attempt_is_a_measurement_or_a_reason() -> None:
    with pytest.raises(RunError):
        Attempt()


@pytest.mark.parametrize(
    "wrong", [{"seconds": 3.0}, {"seconds": 0.0}, {"imports_bytes": 9}, {"ranges": {}}]
)
def test_figures_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    right: dict[str, Any] = {
        "seconds": 1.0,
        "whole_seconds": 2.0,
        "peak_bytes": 8,
        "imports_bytes": 4,
        "candidates": 1,
        "ranges": {"a": (0.0, 1.0)},
    }
    assert Measurement(**right).seconds == 1.0
    with pytest.raises(RunError):
        Measurement(**right | wrong)


def test_a_tool_brings_only_itself() -> None:
    assert callable(load(Tool.OURS))
    script = (
        "import sys; import segdeploy.benchmarks.peers.attempt; "
        "from segdeploy.benchmarks.peers.tools import Tool, load;"
        "[load(tool) for tool in (Tool.OURS, Tool.ORT_ENTROPY, Tool.ORT_MINMAX)];"
        "sys.exit(', '.join({'torch', 'nncf', 'openvino'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (1, "\n")


def test_peak_memory_is_that_of_the_process_alone() -> None:
    held = bytearray(b"1") * 300_000_000
    assert peak_bytes() >= len(held)
    script = "from segdeploy.deploy.system.memory import peak_bytes; print(peak_bytes())"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert 10_000_000 < int(found.stdout) < len(held)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--num-samples", "4", "--threads", "100000"], 2, "processors"),
        (["--num-samples", "7"], 3, "choose 1 to 6"),
        (["-o", "FILE"], 2, "is a file"),
    ],
)
def test_mistakes_end_in_one_message(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    file = str(folder / "tiny.onnx")
    assert run(folder, *[file if word == "FILE" else word for word in arguments]) == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, "no preprocessing contract"),
        ({"preprocess": CONTRACT.to_json(), "precision": "int8"}, "is int8"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    metadata: dict[str, str],
    words: str,
) -> None:
    model = tiny_model(tmp_path / "other.onnx", **metadata)
    data = str(folder / "data")
    flags = ["--num-samples", "4", "-o", str(tmp_path / "out")]
    assert peers.main(["calibration", "-m", str(model), "--data", data, *flags]) == 3
    assert words in capsys.readouterr().err
