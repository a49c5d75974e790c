"""Reports of a network that does not exist, every figure invented: for tests of the pages.

Each is the content of a ``report.json``, which tests change and break at will; ``report_of`` makes
the record of one that is whole.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from segdeploy.benchmarks.report.records import Report
from segdeploy.benchmarks.speed.records import BenchmarkRow
from segdeploy.calibration.json_record import record_of

INT8_FILE = "sample_net.int8.ort-x86.onnx"


def report_of(content: dict[str, Any]) -> Report:
    return record_of(content, Report, whole="the report")


def timed(name: str, batch: int, p50_ms: float | None, **changes: Any) -> BenchmarkRow:
    return record_of(speed_row(name, batch, p50_ms, **changes), BenchmarkRow, whole="the row")


def scores(iou: float, *, auc: float | None = 97.5) -> dict[str, Any]:
    return {
        "iou": iou,
        "miou": iou + 5,
        "dice": iou + 8,
        "precision": 91.25,
        "sensitivity": 92.5,
        "specificity": 93.75,
        "accuracy": 95.125,
        "auc": auc,
    }


def parity_row(name: str, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "file": None,
        "target": None,
        "runtime": "onnxruntime",
        "precision_requested": "fp32",
        "precision_executed": "fp32",
        "scores": None,
        "delta_iou_percentage_points": None,
        "ci95_percentage_points": None,
        "disagreement_percent": None,
        "passed": None,
        "skipped": None,
        "worst_images": [],
        "iou_per_image_percent": None,
    }
    assert set(changes) <= set(row)
    return row | changes


def compared_row(
    name: str, delta: float, low: float, high: float, **changes: Any
) -> dict[str, Any]:
    judged: dict[str, Any] = {
        "scores": scores(80 + delta, auc=None),
        "delta_iou_percentage_points": delta,
        "ci95_percentage_points": [low, high],
        "disagreement_percent": 0.0625,
        "passed": True,
        "worst_images": [
            {"name": f"fake_{n}", "reference_iou": 70.0 + n, "candidate_iou": 69.5 + n}
            for n in range(2)
        ],
        "iou_per_image_percent": [79.0, 81.0],
    }
    return parity_row(name, **judged | changes)


def speed_row(name: str, batch: int, p50_ms: float | None, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "file": None,
        "target": None,
        "runtime": "onnxruntime",
        "precision_requested": "fp32",
        "precision_executed": "fp32",
        "int8_mac_share": 0.0,
        "float_layers": [],
        "hint": "latency",
        "batch": batch,
        "threads": 2,
        "streams": 1,
        "file_bytes": 36_000_000,
        "p50_ms": p50_ms,
        "p90_ms": p50_ms and p50_ms * 1.125,
        "p99_ms": p50_ms and p50_ms * 1.25,
        "images_per_s": p50_ms and batch * 1000 / p50_ms,
        "speedup": p50_ms and 64 * batch / p50_ms,
        "noise_percent": 1.5,
        "load_s": 0.25,
        "first_inference_s": 0.0625,
        "peak_bytes": 123_456_789,
        "imports_bytes": 65_432_100,
        "latencies_s": [p50_ms / 1000] if p50_ms else None,
        "completions_s": None,
        "skipped": None,
        "failed": False,
    }
    assert set(changes) <= set(row)
    return row | changes


def stage(name: str, file: str | None, digit: str, **changes: Any) -> dict[str, Any]:
    artifact = {"file": file, "precision": "fp32", "bytes": 36_000_000, "opset": 18}
    return {
        "name": name,
        "status": "done",
        "seconds": 1.25,
        "note": None,
        "artifact": artifact | {"sha256": digit * 64} if file else None,
        "check": {"max_abs_difference": 2.5e-6, "sqnr_db": 111.5, "disagreement_percent": 0.0},
    } | changes


def sample_report() -> dict[str, Any]:
    """A report of a network that does not exist; every figure is invented."""
    int8 = {"file": INT8_FILE, "target": "ort-x86", "precision_requested": "int8"}
    int8["precision_executed"] = "int8"
    fp16 = {"file": "sample_net.fp16.onnx", "precision_requested": "fp16"}
    fp16["precision_executed"] = "fp32 (weights stored in fp16)"
    openvino = {"target": "openvino-cpu", "runtime": "openvino", "precision_requested": "int8"}
    no_openvino = {
        "precision_executed": None,
        "skipped": "openvino is not installed: <pip install>",
    }
    eager = {"runtime": "pytorch", "file_bytes": None}
    partly = int8 | {"int8_mac_share": 0.98765, "float_layers": [f"layer<{n}>" for n in range(9)]}
    return {
        "schema_version": 1,
        "tool": {"name": "segdeploy", "version": "0.0.0"},
        "created_utc": "2026-01-01T00:00:00Z",
        "command": "segdeploy run --arch unet_plus_plus -c 'made up.pth' --seed 0",
        "model": {
            "name": "sample_net",
            "arch": "unet_plus_plus",
            "family": "UNET-ZOO",
            "checkpoint": "made up.pth",
            "checkpoint_sha256": "0" * 64,
            "parameters": 9_000_001,
            "head": 4,
            "recurrence": None,
            "preprocess": {"size": [96, 96], "channel_order": "BGR", "antialias": False},
        },
        "data": {
            "calibration": {"root": "fake", "split": "train", "images": 50, "sha256": "1" * 64},
            "evaluation": {"root": "fake", "split": "test", "images": 64, "sha256": "2" * 64},
        },
        "definitions": {
            "iou": "intersection over union of the foreground per image, mean over images",
            "miou": "mean over both classes of the IoU from one confusion matrix",
        },
        "stages": [
            stage("export", "sample_net.fp32.onnx", "3"),
            stage("simplify", "sample_net.sim.onnx", "4", status="reused", seconds=None),
            stage("int8", INT8_FILE, "5", note="43 tensors quantized"),
            stage("package", None, "6", status="skipped", note="no target <asked>", check=None),
        ],
        "calibration": {
            "method": "entropy",
            "num_bins": 2048,
            "tensors": 43,
            "fallbacks": 2,
            "images": 50,
            "seconds": 3.125,
        },
        "parity": {
            "reference": "PyTorch fp32",
            "max_drop_percentage_points": 0.1,
            "images": 64,
            "rows": [
                parity_row("PyTorch fp32", runtime="pytorch", scores=scores(80.0)),
                compared_row("fp32 on ONNX Runtime", 0.0, 0.0, 0.0, file="sample_net.fp32.onnx"),
                compared_row("fp16 on ONNX Runtime", 0.004, -0.002, 0.011, **fp16),
                compared_row("int8 ort-x86 on ONNX Runtime", -0.031, -0.085, 0.022, **int8),
                parity_row("int8 openvino-cpu on OpenVINO", **openvino, **no_openvino),
            ],
        },
        "cost": {
            "input_shape": [1, 3, 96, 96],
            "macs": 4_000_000_000,
            "flops": 8_000_000_000,
            "parameters": 9_000_001,
            "elementwise": {"Relu": 123_456, "Sigmoid": 9216},
            "not_counted": ["Resize"],
            "published_gflops": 10.897,
            "published_gflops_reproduced": 10.897,
            "layers": [
                {"name": "/conv0_0/conv", "op": "Conv", "macs": 3_000_000_000, "parameters": 864},
                {"name": "/final", "op": "Conv", "macs": 1_000_000_000, "parameters": 33},
            ],
        },
        "benchmark": {
            "duration_s": 3.0,
            "warmup": 10,
            "rows": [
                speed_row("PyTorch fp32", 1, 64.0, **eager),
                speed_row("fp16 on ONNX Runtime", 1, 40.0, **fp16, file_bytes=18_000_000),
                speed_row("int8 ort-x86 on ONNX Runtime", 1, 16.0, **partly, file_bytes=9_000_000),
                speed_row("PyTorch fp32", 8, 512.0, **eager),
                speed_row("int8 ort-x86 on ONNX Runtime", 8, 100.0, **partly, file_bytes=9_000_000),
                speed_row("int8 openvino-cpu on OpenVINO", 1, None, **openvino, **no_openvino),
            ],
        },
        "environment": {
            "os": "FakeOS 1",
            "python": "3.99.0",
            "cpu": "Invented CPU @ 1 GHz",
            "cores": 2,
            "memory_bytes": 8 * 2**30,
            "isa": ["avx2"],
            "versions": {"torch": "9.9.9", "openvino": None},
        },
        "recommendation": {
            "file": INT8_FILE,
            "runtime": "onnxruntime",
            "reason": "fastest that keeps the budget",
        },
        "passed": True,
    }


def bare_report() -> dict[str, Any]:
    """The least a run can say: nothing but the model was looked at."""
    report = sample_report()
    for section in ("calibration", "parity", "cost", "benchmark", "recommendation", "passed"):
        report[section] = None
    report["data"] = {"calibration": None, "evaluation": None}
    for key in ("family", "checkpoint", "checkpoint_sha256", "head"):
        report["model"][key] = None
    for key in ("cpu", "cores", "memory_bytes"):
        report["environment"][key] = None
    return report | {"stages": []}


def failed_report() -> dict[str, Any]:
    report = sample_report()
    report["parity"]["rows"][3] |= {
        "delta_iou_percentage_points": -1.25,
        "ci95_percentage_points": [-1.5, -1.0],
        "passed": False,
    }
    return report | {"passed": False, "recommendation": None}


def full_report() -> dict[str, Any]:
    """A report with every section a run writes: layers, times of layers, and pictures."""
    report = sample_report()
    report["debug"] = {
        "file": INT8_FILE,
        "reference": "sample_net.opt.onnx",
        "target": "ort-x86",
        "images": 8,
        "layers": [layer_error(f"/conv{n}/conv", n, 30.0 + 10 * n) for n in range(3)],
        "exclude": ["/conv0/conv"],
        "first_departure": None,
    }
    report["debug"]["layers"][2] |= {"sqnr_alone_db": None, "sqnr_accumulated_db": None}
    report["layer_times"] = [
        layer_time_row("int8 ort-x86 on ONNX Runtime", INT8_FILE, 400.0),
        layer_time_row("int8 openvino-cpu on OpenVINO", INT8_FILE, None),
    ]
    report["worst_images"] = [pictured("fake_0"), pictured("fake_1")]
    for row in report["benchmark"]["rows"]:
        if row["latencies_s"]:
            row["latencies_s"] = [row["p50_ms"] / 1000 * (1 + n / 50) for n in range(-5, 20)]
    return report


def layer_error(name: str, position: int, sqnr_db: float) -> dict[str, Any]:
    counts = [1000 // (n + 1) for n in range(16)]
    tensor = {"tensor": "image", "sqnr_db": 41.0, "sqnr_reachable_db": 44.0}
    ends = {"observed_min": 0.0, "observed_max": 8.0, "range_min": 0.0, "range_max": 5.5}
    return {
        "name": name,
        "position": position,
        "macs": 1_000_000 * (position + 1),
        "sqnr_alone_db": sqnr_db,
        "disagreement_alone_percent": 0.03125,
        "sqnr_accumulated_db": sqnr_db - 5,
        "sqnr_input_db": 41.0,
        "sqnr_weight_db": 43.0,
        "sqnr_weight_reachable_db": 43.5,
        "sqnr_bias_db": None,
        "sqnr_weight_per_channel_db": 43.0,
        "sqnr_weight_per_tensor_db": 37.0,
        "weight_range_spread": 7.5,
        "input": "image",
        "input_from": ["image"],
        **ends,
        "clipped_percent": 0.0125,
        "zero_percent": 40.0,
        "histogram": {"edges": [n / 2 for n in range(17)], "counts": counts},
        "roundings": [tensor | ends | {"clipped_percent": 0.0125}],
        "cause": "input",
        "fault": None,
    }


def layer_time_row(name: str, file: str, us: float | None) -> dict[str, Any]:
    layers = [
        {"name": "/conv0_0/conv", "macs": 3_000_000_000, "times_us": us and [us, us + 8, us + 2]},
        {"name": "/only/rewritten", "macs": 5_000_000, "times_us": None},
    ]
    others = [{"op": "MaxPool", "times_us": [10.0, 12.0, 11.0]}]
    return {
        "name": name,
        "file": file,
        "runtime": "onnxruntime",
        "batch": 1,
        "threads": 2,
        "calls": us and 3,
        "layers": us and layers,
        "others": us and others,
        "skipped": None if us else "no profiler <here>",
    }


def pictured(name: str) -> dict[str, Any]:
    """A picture is 8 pixels wide and 6 high."""
    keys = ("input", "truth", "reference", "candidate", "disagreement")
    pictures = {f"{key}_png_base64": png(shade) for shade, key in enumerate(keys)}
    return {"name": name, "candidate": "int8 ort-x86 on ONNX Runtime"} | pictures


def png(shade: int) -> str:
    file = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), 40 * shade, np.uint8)).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
