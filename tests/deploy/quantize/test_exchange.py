"""Tables to and from ONNX Runtime and TensorRT, for real graphs; calibration in shards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

from segdeploy.calibration.table import CalibrationTable
from segdeploy.cli.main import main
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.models.checkpoint import load_checkpoint
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import load_model
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.exchange import ExchangeFormat, export_table, import_table
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.system.errors import InputError


@pytest.fixture
def source(tiny_unet_checkpoint: Path, tmp_path: Path) -> Artifact:
    return export(load_checkpoint(tiny_unet_checkpoint), tmp_path / "net.fp32.onnx")


@pytest.fixture
def table(source: Artifact, tiny_unet_checkpoint: Path, image_set: Path) -> CalibrationTable:
    preprocess = load_checkpoint(tiny_unet_checkpoint).preprocess
    return calibrate(source, open_set(image_set, "train"), preprocess=preprocess)


@pytest.mark.parametrize("form", list(ExchangeFormat))
def test_what_is_written_reads_back(
    form: ExchangeFormat, source: Artifact, table: CalibrationTable, tmp_path: Path
) -> None:
    written = export_table(table, source, tmp_path / "net.calib.json", form)
    assert written.name == f"net.calib{form.suffix}"
    read = import_table(written, source)
    assert read.model_sha256 == source.sha256
    for name, found in read.ranges.items():
        ours = table.ranges[name]
        if form is ExchangeFormat.ONNXRUNTIME:
            assert (found.min, found.max) == (np.float32(ours.min), np.float32(ours.max))
        else:  # one symmetric scale: the smaller end is not kept
            assert found.max == pytest.approx(max(-ours.min, ours.max), rel=1e-6)
            assert found.min == -found.max


def test_our_own_table_can_be_imported_for_export(
    source: Artifact, table: CalibrationTable, tmp_path: Path
) -> None:
    table.write(tmp_path / "ours.json")
    read = import_table(tmp_path / "ours.json", source)
    assert all(read.ranges[name] == table.ranges[name] for name in read.ranges)


def test_onnxruntime_quantizes_from_our_cache_without_any_data(
    source: Artifact, table: CalibrationTable, tmp_path: Path
) -> None:
    cache = export_table(table, source, tmp_path / "c.json", ExchangeFormat.ONNXRUNTIME)
    quantize_static(
        str(source.path),
        str(tmp_path / "theirs.onnx"),
        None,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibration_cache_path=str(cache),
    )
    graph = load_model(tmp_path / "theirs.onnx").graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    scales = {
        node.input[0]: float(constants[node.input[1]])
        for node in graph.node
        if node.op_type == "QuantizeLinear"
    }
    relus = [name for name in table.ranges if name in scales and table.ranges[name].min == 0]
    assert len(relus) >= 10
    for name in relus:
        assert scales[name] == pytest.approx(table.ranges[name].max / 255, rel=1e-5)


def test_a_cache_of_another_model_names_what_is_missing(source: Artifact, tmp_path: Path) -> None:
    cache = tmp_path / "other.cache"
    cache.write_text("TRT-8601-EntropyCalibration2\nsomething: 3f800000\n")
    with pytest.raises(InputError, match=r"no range for .* was it made for another model"):
        import_table(cache, source)


def test_the_command_line_exports_and_imports(
    source: Artifact, image_set: Path, tmp_path: Path
) -> None:
    ours, model = tmp_path / "net.calib.json", str(source.path)
    arguments = ["calibrate", "-m", model, "--calib-data", str(image_set), "-o", str(ours)]
    assert main([*arguments, "--export", "onnxruntime", "tensorrt"]) == 0
    for suffix in (".onnxruntime.json", ".tensorrt.cache"):
        cache = ours.with_name("net.calib" + suffix)
        again = tmp_path / f"again{suffix}.json"
        assert main(["calibrate", "-m", model, "--import", str(cache), "-o", str(again)]) == 0
        int8 = ["quantize", "-m", model, "--calibration", str(again), "--target", "tensorrt"]
        assert main([*int8, "-o", str(tmp_path / f"net{suffix}.onnx")]) == 0


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_of_a_torchrun_write_the_same_bytes_as_one(
    source: Artifact, table: CalibrationTable, image_set: Path, tmp_path: Path, processes: int
) -> None:
    output = tmp_path / "sharded.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--master-port", str(29500 + os.getpid() % 1000 + processes), "-m", "segdeploy"]
    command += ["calibrate", "-m", str(source.path), "--calib-data", str(image_set)]
    subprocess.run([*command, "-o", str(output)], check=True, capture_output=True, timeout=300)
    table.write(tmp_path / "alone.json")
    assert output.read_bytes() == (tmp_path / "alone.json").read_bytes()
    assert not list(tmp_path.glob("*.partial*"))
