"""The package for TensorRT: what is made, what is refused, command lines that fit the models."""

from __future__ import annotations

import json
import runpy
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY

from segdeploy.calibration.exchange import from_tensorrt
from segdeploy.calibration.table import CalibrationTable
from segdeploy.cli.main import main
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.onnx_model.file import describe, load_model
from segdeploy.deploy.packaging.base import PackagedModel, Request
from segdeploy.deploy.packaging.package import package
from segdeploy.deploy.packaging.tensorrt.target import TENSORRT
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.targets.profiles import PROFILES
from segdeploy.deploy.targets.tensorrt_rules import check_qdq, rejected


@pytest.fixture(scope="module")
def source(
    tmp_path_factory: pytest.TempPathFactory, small_onnx: Callable[..., Path]
) -> PackagedModel:
    return PackagedModel.open(small_onnx(tmp_path_factory.mktemp("source") / "net.onnx"))


@pytest.fixture(scope="module")
def table(
    source: PackagedModel,
    tmp_path_factory: pytest.TempPathFactory,
    make_image_set: Callable[[Path, list[str]], Path],
) -> CalibrationTable:
    images = open_set(make_image_set(tmp_path_factory.mktemp("images"), ["train"] * 2), "train")
    return calibrate(source.artifact, images, preprocess=TINY, threads=1)


@pytest.fixture
def request_(source: PackagedModel, table: CalibrationTable) -> Request:
    return Request(sources=(source,), table=table, table_sha256="0" * 64)


def int8(
    source: PackagedModel, table: CalibrationTable, folder: Path, target: str
) -> PackagedModel:
    made = to_int8(
        source.artifact,
        folder / f"net.int8.{target}.onnx",
        table=table,
        table_sha256="0" * 64,
        profile=PROFILES[target],
    )
    return PackagedModel.open(made.path)


def test_one_float_model_and_its_table_give_every_model_and_the_cache(
    request_: Request, tmp_path: Path
) -> None:
    folder = package(request_, target=TENSORRT, output=tmp_path / "out").folder
    found = {path.name: describe(path) for path in folder.glob("*.onnx")}
    assert {name: artifact.precision for name, artifact in found.items()} == {
        "net.onnx": Precision.FP32,
        "net.fp16.onnx": Precision.FP16,
        "net.int8.tensorrt.onnx": Precision.INT8,
    }
    assert rejected(check_qdq(load_model(folder / "net.int8.tensorrt.onnx"))) == ()
    ranges = from_tensorrt((folder / "calibration.tensorrt.cache").read_text(), source="cache")
    table = request_.table
    assert table is not None
    for name, expected in table.ranges.items():
        assert ranges[name].max == pytest.approx(max(-expected.min, expected.max), rel=1e-6)


def test_what_is_given_is_kept_byte_for_byte(
    source: PackagedModel, table: CalibrationTable, tmp_path: Path
) -> None:
    given = int8(source, table, tmp_path, "tensorrt")
    written = package(Request(sources=(given,)), target=TENSORRT, output=tmp_path / "out")
    name = given.artifact.path.name
    assert (written.folder / name).read_bytes() == given.artifact.path.read_bytes()
    assert [f.path for f in written.files] == ["build.sh", "compare.sh", name]


def test_excluded_layers_stay_in_float(request_: Request, tmp_path: Path) -> None:
    named = replace(request_, exclude=("high",))
    folder = package(named, target=TENSORRT, output=tmp_path / "out").folder
    model = load_model(folder / "net.int8.tensorrt.onnx")
    (layer,) = [node for node in model.graph.node if node.name == "high"]
    assert list(layer.input)[1:] == ["high.weight", "high.bias"]
    assert check_qdq(model) == ()


def test_build_lines_give_smallest_usual_and_largest_shape(
    request_: Request, tmp_path: Path
) -> None:
    sized = replace(request_, batches=(2, 4, 16))
    folder = package(sized, target=TENSORRT, output=tmp_path / "out").folder
    lines = (folder / "build.sh").read_text().splitlines()[2:]
    assert len(lines) == 3
    for line in lines:
        assert "--minShapes=image:2x3x32x32 --optShapes=image:4x3x32x32" in line
        assert "--maxShapes=image:16x3x32x32" in line
        assert "--stronglyTyped" in line
    implicit = (folder / "build_with_cache.sh").read_text()
    assert "--calib=calibration.tensorrt.cache" in implicit
    assert "--stronglyTyped" not in implicit
    for script in ("build.sh", "build_with_cache.sh", "compare.sh"):
        subprocess.run(["sh", "-n", script], cwd=folder, check=True)


def test_a_fixed_batch_needs_no_shapes(tmp_path: Path, small_onnx: Callable[..., Path]) -> None:
    fixed = PackagedModel.open(small_onnx(tmp_path / "net.onnx", batch=4))
    folder = package(Request(sources=(fixed,)), target=TENSORRT, output=tmp_path / "out").folder
    assert "Shapes" not in (folder / "build.sh").read_text()
    assert "--input-shapes image:[4,3,32,32]" in (folder / "compare.sh").read_text()


def test_noise_lies_in_the_range_of_the_contract(
    tmp_path: Path, small_onnx: Callable[..., Path]
) -> None:
    contract = Preprocess(size=(32, 32), mean=(0.5, 0.4, 0.2), std=(0.5, 0.2, 0.4))
    model = PackagedModel.open(small_onnx(tmp_path / "net.onnx", contract))
    folder = package(Request(sources=(model,)), target=TENSORRT, output=tmp_path / "out").folder
    assert "--val-range image:[-2,3]" in (folder / "compare.sh").read_text()


def test_real_images_reach_polygraphy_prepared_and_in_batches(
    request_: Request, image_set: Path, tmp_path: Path
) -> None:
    images = open_set(image_set, "test")
    asked = replace(request_, evaluation=images, batches=(1, 2, 4))
    folder = package(asked, target=TENSORRT, output=tmp_path / "out").folder
    assert "--data-loader-script data_loader.py" in (folder / "compare.sh").read_text()
    batches = list(runpy.run_path(str(folder / "data_loader.py"))["load_data"]())
    assert [list(batch) for batch in batches] == [["image"]] * 2
    found = np.concatenate([batch["image"] for batch in batches])
    np.testing.assert_array_equal(found, images.inputs(TINY))


class TestRefusals:
    def test_int8_for_another_target(
        self, source: PackagedModel, table: CalibrationTable, tmp_path: Path
    ) -> None:
        other = int8(source, table, tmp_path, "ort-x86")
        with pytest.raises(InputError, match=r"is int8 for ort-x86; this package takes .*tensorrt"):
            package(Request(sources=(other,)), target=TENSORRT, output=tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_graph_that_breaks_a_rule(
        self, source: PackagedModel, table: CalibrationTable, tmp_path: Path
    ) -> None:
        good = int8(source, table, tmp_path, "tensorrt")
        model = load_model(good.artifact.path)
        for tensor in model.graph.initializer:
            if tensor.name == "image/zero_point":
                tensor.raw_data = b"\x03"
        good.artifact.path.write_bytes(model.SerializeToString())
        request = Request(sources=(PackagedModel.open(good.artifact.path),))
        with pytest.raises(
            InputError, match=r"TensorRT rejects net.int8.tensorrt.onnx: image/Q: ze"
        ):
            package(request, target=TENSORRT, output=tmp_path / "out")

    def test_a_table_of_another_model_or_of_none(
        self, request_: Request, source: PackagedModel, table: CalibrationTable, tmp_path: Path
    ) -> None:
        foreign = replace(request_, table=replace(table, model_sha256="f" * 64))
        with pytest.raises(
            InputError,
            match=r"made for another model.*give the file that `segdeploy calibrate` read",
        ):
            package(foreign, target=TENSORRT, output=tmp_path / "out")
        alone = Request(sources=(int8(source, table, tmp_path, "tensorrt"),), table=table)
        with pytest.raises(UsageError, match="--calibration belongs to an fp32 model"):
            package(alone, target=TENSORRT, output=tmp_path / "out")

    def test_layers_named_for_a_finished_int8_model(
        self, source: PackagedModel, tmp_path: Path
    ) -> None:
        with pytest.raises(UsageError, match="--exclude is for an int8 model made here"):
            package(
                Request(sources=(source,), exclude=("head",)),
                target=TENSORRT,
                output=tmp_path / "out",
            )

    @pytest.mark.parametrize(
        ("file", "find", "put"),
        [
            ("build.sh", "x32x32", "x64x32"),
            ("build.sh", "--onnx=net", "--onnx=nut"),
            ("build.sh", "Shapes=image:", "Shapes=input:"),
            ("calibration.tensorrt.cache", "\nhigh", "\nhigher"),
        ],
    )
    def test_a_file_that_says_something_else(
        self, request_: Request, tmp_path: Path, file: str, find: str, put: str
    ) -> None:
        folder = package(request_, target=TENSORRT, output=tmp_path / "out").folder
        text = (folder / file).read_text()
        assert find in text
        (folder / file).write_text(text.replace(find, put))
        with pytest.raises(InputError, match=file):
            TENSORRT.verify(folder)


def test_check_names_node_rule_and_fix_for_any_file(
    source: PackagedModel,
    table: CalibrationTable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = int8(source, table, tmp_path, "tensorrt").artifact.path
    bad = int8(source, table, tmp_path, "ort-x86").artifact.path
    command = ["package", "--target", "tensorrt", "--check", "--format", "json", "-m"]
    assert main([*command, str(good)]) == 0
    accepted = json.loads(capsys.readouterr().out)
    assert accepted["accepted"] is True
    assert [row["refused"] for row in accepted["findings"]] == [False]
    assert main([*command, str(good), str(bad)]) == 1
    found = capsys.readouterr()
    rows = json.loads(found.out)["findings"]
    assert {row["file"] for row in rows if row["refused"]} == {str(bad)}
    assert all(row["node"] and row["rule"] and row["fix"] for row in rows)
    assert "Fix: " in found.err
    assert main(["package", "--target", "vacc", "--check", "-m", str(good)]) == 2
