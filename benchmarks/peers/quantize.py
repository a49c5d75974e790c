"""Int8 models as other tools make them, one tool in a process of its own.

``benchmarks.peers.models`` has a fresh process write each, so that what a tool leaves behind in a
process, and its memory, do not reach the timing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.scores.accuracy import iou_per_image
from segdeploy.calibration.qparams import QuantType
from segdeploy.deploy.data.image_levels import decode
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.output_contract import FOREGROUND_PROBABILITY
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.runtimes.openvino_core import openvino_core
from segdeploy.deploy.system.memory import peak_bytes

Feeds = dict[str, NDArray[np.float32]]


class Recipe(str, Enum):
    """How other tools are asked to quantize; see ``SETTINGS``."""

    ORT_STATIC = "onnxruntime-static"
    NNCF_PERFORMANCE = "nncf-performance"
    NNCF_MIXED = "nncf-mixed"
    NNCF_ACCURACY = "nncf-accuracy-control"


STANDARD = (Recipe.ORT_STATIC, Recipe.NNCF_PERFORMANCE, Recipe.NNCF_MIXED)
"""Recipes that take seconds; accuracy control scores a network again for each layer it restores."""

MOST_DROP_POINTS = 0.2
"""Points of IoU that accuracy control may lose."""


_NNCF_SETTINGS = (
    "`nncf.quantize` on the OpenVINO model, preset {preset}, all calibration images, everything "
    "else as it comes (fast bias correction)"
)
SETTINGS = {
    Recipe.ORT_STATIC: (
        "`quant_pre_process` without its symbolic shape inference, which is for transformers, then "
        "`quantize_static`: QDQ, activations of the type our profile uses, QInt8 weights per "
        "channel, MinMax"
    ),
    Recipe.NNCF_PERFORMANCE: _NNCF_SETTINGS.format(preset="PERFORMANCE"),
    Recipe.NNCF_MIXED: _NNCF_SETTINGS.format(preset="MIXED"),
    Recipe.NNCF_ACCURACY: (
        "`nncf.quantize_with_accuracy_control` on the OpenVINO model, preset PERFORMANCE; the "
        "val split validates, or where there is none those images; at most "
        f"{MOST_DROP_POINTS} points of IoU"
    ),
}
"""What each tool was asked for, as the page says it."""

_ORT_TYPES = {"u8": "QUInt8", "s8": "QInt8"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a tool is to write.

    Attributes:
        recipe: the tool, and how it is asked.
        model: a float32 ONNX file.
        input_name: of its input.
        images: calibration images.
        preprocess: the model's input contract.
        activation_type: of the int8 model, where the tool lets one choose.
        reduce_range: whether weights keep to 7 bits, likewise.
        output: the file to write.
        validation: images with masks that accuracy control scores.
    """

    recipe: Recipe
    model: Path
    input_name: str
    images: tuple[Path, ...]
    preprocess: Preprocess
    activation_type: QuantType
    reduce_range: bool
    output: Path
    validation: SegmentationSet | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What making a model took.

    Attributes:
        seconds: of the work, imports of its tools included.
        peak_bytes: largest resident memory of its process.
    """

    seconds: float
    peak_bytes: int


def feeds(request: Request) -> Iterator[Feeds]:
    """The model's input for each calibration image, decoded one by one."""
    for path in request.images:
        image = request.preprocess.apply(decode(path, request.preprocess).pixels)
        yield {request.input_name: image[None]}


class _Reader:
    """The images for ONNX Runtime, which asks for one at a time."""

    def __init__(self, request: Request) -> None:
        self._feeds = feeds(request)

    def get_next(self) -> Feeds | None:
        """The next image, or ``None`` after the last."""
        return next(self._feeds, None)


def _onnxruntime(request: Request) -> None:
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        quantize_static,
    )
    from onnxruntime.quantization import (
        QuantType as OrtType,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    output = request.output
    prepared = output.with_name(f"{output.stem}.prepared.onnx")
    quant_pre_process(str(request.model), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(output),
        _Reader(request),
        quant_format=QuantFormat.QDQ,
        activation_type=OrtType[_ORT_TYPES[request.activation_type.value]],
        weight_type=OrtType.QInt8,
        per_channel=True,
        reduce_range=request.reduce_range,
        calibrate_method=CalibrationMethod.MinMax,
    )


def _nncf(request: Request, preset: str) -> None:
    import nncf
    import openvino

    quantized = nncf.quantize(
        openvino_core().read_model(request.model),
        nncf.Dataset(feeds(request)),
        preset=nncf.QuantizationPreset[preset],
        subset_size=len(request.images),
    )
    openvino.save_model(quantized, request.output, compress_to_fp16=False)


def _nncf_accuracy(request: Request) -> None:
    """NNCF's own loop that puts layers back to float until the IoU is kept."""
    import nncf
    import openvino

    images = request.validation
    if images is None:
        raise ValueError("accuracy control needs images with masks")
    truths, fields = images.truths(request.preprocess), images.fields(request.preprocess)
    inputs = images.inputs(request.preprocess)

    def feed(place: int) -> Feeds:
        return {request.input_name: inputs[place][None]}

    def iou(compiled: Any, asked: Any) -> float:
        places = list(asked)
        found = [compiled(feed(place))[0][0, 0] >= FOREGROUND_PROBABILITY for place in places]
        counted = None if fields is None else fields[places]
        return float(iou_per_image(np.stack(found), truths[places], counted).mean())

    quantized = nncf.quantize_with_accuracy_control(
        openvino_core().read_model(request.model),
        calibration_dataset=nncf.Dataset(list(feeds(request))),
        validation_dataset=nncf.Dataset(list(range(len(images))), feed),
        validation_fn=iou,
        max_drop=MOST_DROP_POINTS,
        drop_type=nncf.DropType.ABSOLUTE,
        subset_size=len(request.images),
    )
    openvino.save_model(quantized, request.output, compress_to_fp16=False)


def write(request: Request) -> Cost:
    """Write the int8 model that a request asks for."""
    started = perf_counter()
    if request.recipe is Recipe.ORT_STATIC:
        _onnxruntime(request)
    elif request.recipe is Recipe.NNCF_ACCURACY:
        _nncf_accuracy(request)
    else:
        _nncf(request, request.recipe.name.removeprefix("NNCF_"))
    return Cost(seconds=perf_counter() - started, peak_bytes=peak_bytes())
