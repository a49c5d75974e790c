"""Ranges to and from the calibration files of ONNX Runtime and TensorRT."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.estimate import CalibrationRange, Method
from segdeploy.calibration.json_text import parse_json_of
from segdeploy.calibration.qparams import SMALLEST_SCALE, QuantType, from_range

ORT_METHODS = ("MinMax", "Entropy", "Percentile", "Distribution")
"""Names of ``onnxruntime.quantization.CalibrationMethod``."""

_TRT_HEADER = re.compile(r"TRT-\d+-(EntropyCalibration2?|MinMaxCalibration|LegacyCalibration)")
_TRT_LINE = re.compile(r"(?P<name>.+): (?P<scale>[0-9a-fA-F]{8})")
_TRT_LIMIT = 127


def to_onnxruntime(
    ranges: Mapping[str, CalibrationRange], *, calibrate_method: str = "MinMax"
) -> str:
    """The JSON that ``quantize_static(calibration_cache_path=...)`` of ONNX Runtime 1.31 reads.

    Ends are rounded to float32, the type it demands.

    Args:
        ranges: tensor name to range.
        calibrate_method: one of ``ORT_METHODS``. ONNX Runtime refuses a cache whose method
            differs from the one passed to ``quantize_static``; MinMax is the default there, and
            with every method it uses the two ends as they stand.

    Raises:
        CalibrationError: an unknown method.
    """
    if calibrate_method not in ORT_METHODS:
        expected = ", ".join(ORT_METHODS)
        raise CalibrationError(f"calibrate_method is {calibrate_method!r}; expected {expected}")
    data = {
        name: {
            "CLS": "TensorData",
            "lowest": _ort_number(found.min),
            "highest": _ort_number(found.max),
        }
        for name, found in ranges.items()
    }
    cache = {
        "CLS": "TensorsData",
        "calibration_method": {
            "CLS": "CalibrationMethod",
            "value": f"CalibrationMethod.{calibrate_method}",
        },
        "data": data,
        "smooth_quant": False,
    }
    return json.dumps(cache, sort_keys=True, indent=1, allow_nan=False) + "\n"


def from_onnxruntime(text: str, *, source: str) -> dict[str, CalibrationRange]:
    """Read ONNX Runtime's calibration cache; ranges are widened to include zero.

    Raises:
        CalibrationError: naming source and line (not JSON) or tensor (not a range).
    """
    cache = parse_json_of(text, source=source)
    data = cache.get("data") if isinstance(cache, dict) else None
    if not isinstance(data, dict) or not data or cache.get("CLS") != "TensorsData":
        raise CalibrationError(
            f"{source} is not an ONNX Runtime calibration cache; expected a JSON object with "
            '"CLS": "TensorsData" and a range for at least one tensor under "data"'
        )
    ranges = {}
    for name, entry in data.items():
        try:
            low, high = (_ort_end(entry, key) for key in ("lowest", "highest"))
            ranges[name] = imported_range(low, high, "ONNX Runtime's calibration cache")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            line = _line_of(text, json.dumps(name))
            raise CalibrationError(f"{source}:{line}: tensor {name!r}: {error}") from error
    return ranges


def to_tensorrt(ranges: Mapping[str, CalibrationRange], *, version: int = 8601) -> str:
    """TensorRT's calibration cache: one symmetric s8 scale for each tensor, as float32 bits.

    Example:
        >>> found = CalibrationRange(
        ...     min=-1.0, max=127.0, observed_min=-1.0, observed_max=127.0,
        ...     method=Method.MINMAX, divergence=None, candidates=0, share_clipped=0.0,
        ...     fallback=None,
        ... )
        >>> print(to_tensorrt({"conv1": found}), end="")  # 127 / 127 = 1.0 = 0x3f800000
        TRT-8601-EntropyCalibration2
        conv1: 3f800000

    Args:
        ranges: tensor name to range; the smaller end is lost.
        version: of TensorRT in its header, for instance 8601 for 8.6.1.

    Raises:
        CalibrationError: a name that would break a line.
    """
    lines = [f"TRT-{version}-EntropyCalibration2"]
    for name, found in sorted(ranges.items()):
        if not name or name != name.strip() or len(name.splitlines()) != 1:
            raise CalibrationError(f"tensor name {name!r} does not fit on a line of the cache")
        params = from_range(found.min, found.max, dtype=QuantType.S8, symmetric=True)
        lines.append(f"{name}: {struct.pack('>f', float(params.scale)).hex()}")
    return "\n".join(lines) + "\n"


def from_tensorrt(text: str, *, source: str) -> dict[str, CalibrationRange]:
    """Read TensorRT's calibration cache: a scale s becomes the range -127 s to 127 s, exactly.

    Raises:
        CalibrationError: naming source and line: another header, a malformed line, a tensor
            given twice, or a scale that is not a normal float32 above zero.
    """
    lines = text.splitlines()
    if not lines or not _TRT_HEADER.fullmatch(lines[0].strip()):
        found = lines[0] if lines else ""
        raise CalibrationError(
            f"{source}:1: header is {found!r:.60}; expected TRT-<version>-EntropyCalibration2"
        )
    ranges: dict[str, CalibrationRange] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        match = _TRT_LINE.fullmatch(line.strip())
        if match is None:
            raise CalibrationError(
                f"{source}:{number}: {line!r:.60} is not '<tensor>: <8 hexadecimal digits>'"
            )
        name, (scale,) = match["name"], struct.unpack(">f", bytes.fromhex(match["scale"]))
        if name in ranges:
            raise CalibrationError(f"{source}:{number}: tensor {name!r} is given twice")
        if not (math.isfinite(scale) and scale >= SMALLEST_SCALE):
            raise CalibrationError(
                f"{source}:{number}: the scale of {name!r} is {scale}; expected above zero, a "
                "normal float32"
            )
        try:
            ranges[name] = imported_range(
                -_TRT_LIMIT * scale, _TRT_LIMIT * scale, "TensorRT's cache"
            )
        except CalibrationError as error:
            raise CalibrationError(f"{source}:{number}: tensor {name!r}: {error}") from error
    if not ranges:
        raise CalibrationError(f"{source}: no tensors after the header")
    return ranges


def imported_range(low: float, high: float, origin: str) -> CalibrationRange:
    """A range of which only the ends are known, widened to include zero.

    Raises:
        CalibrationError: ends out of order or not finite.
    """
    if low > high:
        raise CalibrationError(f"the range {low} to {high} is out of order")
    low, high = min(low, 0.0), max(high, 0.0)
    return CalibrationRange(
        min=low,
        max=high,
        observed_min=low,
        observed_max=high,
        method=Method.IMPORTED,
        divergence=None,
        candidates=0,
        share_clipped=0.0,
        fallback=f"from {origin}, which keeps no observed range and no share clipped",
    )


def _ort_number(value: float) -> dict[str, Any]:
    return {"CLS": "numpy.array", "data": float(np.float32(value)), "dtype": "float32"}


def _ort_end(entry: Any, key: str) -> float:
    """One end of a range: an array object of ONNX Runtime's, or a plain number."""
    value = entry[key]
    value = value["data"] if isinstance(value, dict) else value
    while isinstance(value, list):
        if len(value) != 1:
            raise CalibrationError(f"{key} holds {len(value)} values; expected one for the tensor")
        value = value[0]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CalibrationError(f"{key} is {value!r:.60}; expected a number")
    return float(value)


def _line_of(text: str, needle: str) -> int:
    """The first line, from 1, that holds ``needle``."""
    return text[: max(text.find(needle), 0)].count("\n") + 1
