"""Segment an image with a model of this package: from its file, on a server, or on a device.

    python segment.py MODEL.onnx image.png -o mask.png
    python segment.py MODEL.xml image.png -o mask.png
    python segment.py NAME image.png -o mask.png --server localhost:8000
    python segment.py --outputs predictions -o masks

A file needs onnxruntime or openvino, a server tritonclient[http] (Triton or OpenVINO Model Server),
outputs that a device wrote (.npy or .npz, one an image) neither; all of them numpy and pillow. What
a model takes and what its values mean is read from package.json beside this script. Complete as it
is: copy what you need into your program.

Of one label the mask is 0 and 255. Of classes that exclude each other it is a palette image of
class indices. Of labels that may overlap there is a mask for each: mask_0.png, mask_1.png, ...
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
ONE_LABEL: Contract = {"post_processing": "threshold", "classes": [{"name": "foreground"}]}
"""The output of a package that states no other."""

SERVER_TYPES = {"FP32": "float32", "FP16": "float16", "UINT8": "uint8"}


@dataclass(frozen=True)
class Model:
    """A model ready to run: its input's shape (-1 for any length) and type, and what runs it."""

    shape: list[int]
    dtype: str
    run: Callable[[Values], Values]


def main() -> None:
    """Read the command line, segment one image, write its mask or masks."""
    parser = argparse.ArgumentParser(description="Segment one image with a model of this package.")
    parser.add_argument(
        "model", nargs="?", help=".onnx or .xml file; with --server the model's name there"
    )
    parser.add_argument("image", nargs="?", type=Path, help="image file of any size")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="mask to write (.png), of outputs a folder"
    )
    parser.add_argument("--server", metavar="HOST:PORT", help="where the server answers HTTP")
    parser.add_argument("--outputs", type=Path, metavar="FOLDER", help="what a device returned")
    options = parser.parse_args()
    if (options.image is None) is (options.outputs is None):
        parser.error("give a model and an image, or --outputs")
    manifest = Path(__file__).with_name("package.json")
    package = json.loads(manifest.read_text(encoding="utf-8"))
    contract, output = package["preprocess"], package.get("output", ONE_LABEL)
    if options.outputs:
        options.output.mkdir(parents=True, exist_ok=True)
        for path in sorted(p for p in options.outputs.iterdir() if p.suffix in (".npy", ".npz")):
            found = decided(values_of(path), output)
            print(*write(found, output, options.output / f"{path.stem}.png"), sep="\n")
        return
    image = read(options.image, contract)
    model = on_server(options.server, options.model) if options.server else open_file(options.model)
    print(*write(segment(model, image, contract, output), output, options.output), sep="\n")


def read(path: Path, contract: Contract) -> Values:
    """An image file as the contract takes it, (H, W, channels); .npy holds it decoded already."""
    if path.suffix == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    if contract["channel_order"] == "BANDS" or contract.get("source_bits", 8) != 8:
        sys.exit(
            f"{path}: the model takes {len(contract['mean'])} channels of "
            f"{contract.get('source_bits', 8)} bits; decode it, and give (height, width, channels) "
            "as .npy"
        )
    image = Image.open(path).convert("L" if contract["channel_order"] == "GREY" else "RGB")
    return np.asarray(image).reshape(image.height, image.width, -1)


def segment(
    model: Model, image: Values, contract: Contract, output: Contract = ONE_LABEL
) -> Values:
    """What an image (H, W, channels) shows, colours as RGB: uint8 of the contract's size.

    (height, width), 0 and 1 of one label or the index of a class; of labels that may overlap
    (labels, height, width), 0 and 1.
    """
    feed = prepared(image, contract, shape=model.shape, dtype=model.dtype)
    result: Values = model.run(np.repeat(feed[None], max(model.shape[0], 1), axis=0))[0]
    return decided(result, output)


def values_of(path: Path) -> Values:
    """What a device returned for one image: (channels, height, width), or classes."""
    loaded = np.load(path, allow_pickle=False)
    values = np.asarray(loaded if path.suffix == ".npy" else loaded[loaded.files[0]])
    planes = 3 if np.issubdtype(values.dtype, np.floating) else 2
    return values.reshape(values.shape[-planes:])


def decided(values: Values, output: Contract) -> Values:
    """Classes of one image's values, (channels, height, width), as ``segment`` gives them.

    Whole numbers are classes already, as of a model that decides by itself.
    """
    if not np.issubdtype(values.dtype, np.floating):
        return values.astype(np.uint8)
    if output["post_processing"] == "argmax":
        return np.asarray(values.argmax(axis=0), np.uint8)
    masks: Values = (values >= FOREGROUND_PROBABILITY).astype(np.uint8)
    return masks[0] if len(output["classes"]) == 1 else masks


def write(found: Values, output: Contract, path: Path) -> list[str]:
    """Write what ``segment`` found; a line about each file."""
    size, names = f"{found.shape[-2]}x{found.shape[-1]}", [c["name"] for c in output["classes"]]
    if output["post_processing"] == "argmax":
        indexed = Image.frombytes("P", found.shape[::-1], found.tobytes())
        indexed.putpalette([part for each in output["classes"] for part in each["colour"]])
        indexed.save(path)
        shares = [f"{name} {(found == index).mean():.1%}" for index, name in enumerate(names)]
        return [f"{path}: {', '.join(shares)}, {size}"]
    lines = []
    for index, mask in enumerate(found if found.ndim == 3 else [found]):
        one = path.with_stem(f"{path.stem}_{index}") if found.ndim == 3 else path
        Image.fromarray(mask * np.uint8(255)).save(one)
        lines.append(f"{one}: {mask.mean():.1%} {names[index]}, {size}")
    return lines


def prepared(image: Values, contract: Contract, *, shape: list[int], dtype: str) -> Values:
    """An image as a model takes it: as it is, resized, or resized and normalised."""
    takes_pixels = dtype == "uint8"
    if takes_pixels and shape[1] < 0:
        return image
    pixels = framed(image, contract)
    if takes_pixels:
        return pixels
    ordered = pixels[..., ::-1] if contract["channel_order"] == "BGR" else pixels
    mean, std = (np.asarray(contract[key], np.float32) for key in ("mean", "std"))
    normalised = (eight_bit(ordered, contract) * np.float32(contract["scale"]) - mean) / std
    return np.ascontiguousarray(normalised.transpose(2, 0, 1)).astype(dtype, copy=False)


def framed(image: Values, contract: Contract) -> Values:
    """An image at the contract's size: resized, padded and cropped as it says."""
    size, interpolation = tuple(contract["size"]), contract["interpolation"]
    if interpolation == "bilinear" and not {"resize_to", "aspect", "source_bits"} & set(contract):
        return resized(image, size, antialias=contract["antialias"])
    from placement import Placement  # type: ignore[import-not-found]  # beside this script
    from resizing import resize  # type: ignore[import-not-found]  # likewise

    target = None if interpolation == "none" else tuple(contract.get("resize_to") or size)
    aspect, anchor = contract.get("aspect", "stretch"), contract.get("anchor", "centre")
    place = Placement.of(image.shape[:2], size, target=target, aspect=aspect, anchor=anchor)
    if target is not None:
        image = resize(
            image, place.scaled, interpolation=interpolation, antialias=contract["antialias"]
        )
    pad, value = contract.get("pad", "constant"), contract.get("pad_value", 0)
    return np.asarray(place.framed(image, pad=pad, value=value))


def eight_bit(pixels: Values, contract: Contract) -> Values:
    """Levels as those of 8-bit images, 0 to 255, where the contract takes others."""
    values: Values = pixels.astype(np.float32)
    if not {"source_bits", "source_range"} & set(contract):
        return values
    top = (1 << contract.get("source_bits", 8)) - 1
    low, high = (np.float32(end) for end in contract.get("source_range") or (0, top))
    stretched: Values = (values.clip(low, high) - low) * (np.float32(255) / (high - low))
    return stretched


def resized(image: Values, size: tuple[int, int], *, antialias: bool) -> Values:
    """Bilinear, half-pixel centres, rounded; with antialiasing Pillow's filter."""
    if image.shape[:2] == size:
        return image
    if antialias:
        planes = [Image.fromarray(image[..., channel]) for channel in range(image.shape[2])]
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
