"""Segment one image with a model of this package: from its file, or on a server.

    python segment.py MODEL.onnx image.png -o mask.png
    python segment.py MODEL.xml image.png -o mask.png
    python segment.py NAME image.png -o mask.png --server localhost:8000

A file needs onnxruntime or openvino, a server tritonclient[http] (Triton or OpenVINO Model Server);
all of them numpy and pillow. The input contract is read from package.json beside this script.
Complete as it is: copy what you need into your program.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Contract = dict[str, Any]
Values = NDArray[Any]

FOREGROUND_PROBABILITY = 0.5
SERVER_TYPES = {"FP32": "float32", "FP16": "float16", "UINT8": "uint8"}


@dataclass(frozen=True)
class Model:
    """A model ready to run: its input's shape (-1 for any length) and type, and what runs it."""

    shape: list[int]
    dtype: str
    run: Callable[[Values], Values]


def main() -> None:
    """Read the command line, segment one image, write its mask."""
    parser = argparse.ArgumentParser(description="Segment one image with a model of this package.")
    parser.add_argument("model", help=".onnx or .xml file; with --server the model's name there")
    parser.add_argument("image", type=Path, help="image file of any size")
    parser.add_argument("-o", "--output", type=Path, required=True, help="mask to write, 0 and 255")
    parser.add_argument("--server", metavar="HOST:PORT", help="where the server answers HTTP")
    options = parser.parse_args()
    manifest = Path(__file__).with_name("package.json")
    contract = json.loads(manifest.read_text(encoding="utf-8"))["preprocess"]
    image = np.asarray(Image.open(options.image).convert("RGB"))
    model = on_server(options.server, options.model) if options.server else open_file(options.model)
    mask = segment(model, image, contract)
    Image.fromarray(mask * np.uint8(255)).save(options.output)
    print(f"{options.output}: {mask.mean():.1%} foreground, {mask.shape[0]}x{mask.shape[1]}")


def segment(model: Model, image: Values, contract: Contract) -> Values:
    """The mask of an RGB image (H, W, 3) uint8: (height, width) of the contract, 0 or 1."""
    feed = prepared(image, contract, shape=model.shape, dtype=model.dtype)
    result: Values = model.run(np.repeat(feed[None], max(model.shape[0], 1), axis=0))[0]
    if result.dtype == np.uint8:
        return result
    mask: Values = result[0] >= FOREGROUND_PROBABILITY
    return mask.astype(np.uint8)


def prepared(image: Values, contract: Contract, *, shape: list[int], dtype: str) -> Values:
    """An image as a model takes it: as it is, resized, or resized and normalised."""
    takes_pixels = dtype == "uint8"
    if takes_pixels and shape[1] < 0:
        return image
    pixels = resized(image, tuple(contract["size"]), antialias=contract["antialias"])
    if takes_pixels:
        return pixels
    ordered = pixels[..., ::-1] if contract["channel_order"] == "BGR" else pixels
    mean, std = (np.asarray(contract[key], np.float32) for key in ("mean", "std"))
    normalised = (ordered.astype(np.float32) * np.float32(contract["scale"]) - mean) / std
    return np.ascontiguousarray(normalised.transpose(2, 0, 1)).astype(dtype, copy=False)


def resized(image: Values, size: tuple[int, int], *, antialias: bool) -> Values:
    """Bilinear, half-pixel centres, rounded; with antialiasing Pillow's filter."""
    if image.shape[:2] == size:
        return image
    if antialias:
        planes = [Image.fromarray(image[..., channel]) for channel in range(3)]
        scaled = [plane.resize(size[::-1], Image.Resampling.BILINEAR) for plane in planes]
        return np.stack([np.asarray(plane) for plane in scaled], axis=-1)
    top, bottom, down = _taps(image.shape[0], size[0])
    left, right, across = _taps(image.shape[1], size[1])
    upper, lower = image[top].astype(np.float32), image[bottom].astype(np.float32)
    rows = upper + (lower - upper) * down[:, None, None]
    start, end = rows[:, left], rows[:, right]
    blended: Values = np.rint(start + (end - start) * across[None, :, None])
    return blended.astype(np.uint8)


def _taps(length: int, target: int) -> tuple[Values, Values, Values]:
    """For each target position: two source indices, and the weight of the second."""
    centre = ((np.arange(target) + 0.5) * length / target - 0.5).clip(0, length - 1)
    first = np.floor(centre).astype(np.intp)
    return first, np.minimum(first + 1, length - 1), (centre - first).astype(np.float32)


def open_file(path: str) -> Model:
    """A model file of the package, on the CPU."""
    return _openvino(path) if path.endswith(".xml") else _onnxruntime(path)


def _onnxruntime(path: str) -> Model:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is loaded
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    end = session.get_inputs()[0]
    return Model(
        shape=[side if isinstance(side, int) else -1 for side in end.shape],
        dtype={"tensor(float)": "float32", "tensor(float16)": "float16"}.get(end.type, "uint8"),
        run=lambda feed: np.asarray(session.run(None, {end.name: feed})[0]),
    )


def _openvino(path: str) -> Model:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # sends nothing
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    end = compiled.input(0)
    shape = [-1 if side.is_dynamic else side.get_length() for side in end.get_partial_shape()]
    kind = end.get_element_type().get_type_name()
    return Model(
        shape=shape,
        dtype={"f32": "float32", "f16": "float16"}.get(kind, "uint8"),
        run=lambda feed: np.asarray(compiled(feed)[0]),
    )


def on_server(url: str, name: str) -> Model:
    """A model on a server that speaks the KServe protocol, version 2."""
    from tritonclient import http

    client = http.InferenceServerClient(url)
    served = client.get_model_metadata(name)
    source, result = served["inputs"][0], served["outputs"][0]

    def run(feed: Values) -> Values:
        tensor = http.InferInput(source["name"], list(feed.shape), source["datatype"])
        tensor.set_data_from_numpy(feed)
        wanted = http.InferRequestedOutput(result["name"])
        answer = client.infer(name, inputs=[tensor], outputs=[wanted])
        return np.asarray(answer.as_numpy(result["name"]))

    shape = [int(side) for side in source["shape"]]
    return Model(shape=shape, dtype=SERVER_TYPES[source["datatype"]], run=run)


if __name__ == "__main__":
    main()
