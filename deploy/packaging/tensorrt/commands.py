"""Command lines of TensorRT's tools: building engines and comparing them with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.packaging.base import PackagedModel

LOADER, INPUTS = "data_loader.py", "inputs"
BUILD, BUILD_IMPLICIT, COMPARE = "build.sh", "build_with_cache.sh", "compare.sh"
CACHE = "calibration.tensorrt.cache"

TOLERANCE = {Precision.FP32: 1e-3, Precision.FP16: 2e-2, Precision.INT8: 1e-1}
"""Largest difference of a probability from ONNX Runtime's that Polygraphy lets pass."""

_LOADER = """\
\"\"\"Prepared images, for `polygraphy run --data-loader-script`.\"\"\"

from pathlib import Path

import numpy as np

BATCH = {batch}


def load_data():
    paths = sorted(Path(__file__).with_name("{folder}").glob("*.npy"))
    for start in range(0, len(paths) - BATCH + 1, BATCH):
        chosen = paths[start : start + BATCH]
        yield {{"{name}": np.concatenate([np.load(path) for path in chosen])}}
"""


def shapes_of(source: PackagedModel, batches: tuple[int, int, int]) -> list[tuple[str, str]]:
    """Smallest, usual and largest shape, as ``image:1x3x96x96``; none where the batch is fixed."""
    if not isinstance(source.artifact.inputs[0].shape[0], str):
        return []
    name = source.artifact.inputs[0].name
    shapes = ["x".join(map(str, source.image_shape(batch))) for batch in batches]
    return [
        (key, f"{name}:{shape}") for key, shape in zip(("min", "opt", "max"), shapes, strict=True)
    ]


def trtexec(
    source: PackagedModel, batches: tuple[int, int, int], *, name: str | None = None
) -> str:
    """Build a strongly typed engine: every layer runs in the types of the graph.

    Args:
        source: the model.
        batches: smallest, usual and largest.
        name: of a file of the same input, without ``.onnx``; ``None`` takes the model's.
    """
    name = name or source.name
    shapes = [f"--{key}Shapes={shape}" for key, shape in shapes_of(source, batches)]
    ends = [f"--onnx={name}.onnx", "--stronglyTyped"]
    return " ".join(["trtexec", *ends, *shapes, f"--saveEngine={name}.plan"])


def trtexec_with_cache(source: PackagedModel, batches: tuple[int, int, int]) -> str:
    """Build an int8 engine from a float model and the calibration cache (TensorRT up to 10)."""
    shapes = [f"--{key}Shapes={shape}" for key, shape in shapes_of(source, batches)]
    ends = [f"--onnx={source.artifact.path.name}", "--int8", "--fp16", f"--calib={CACHE}"]
    return " ".join(["trtexec", *ends, *shapes, f"--saveEngine={source.name}.cache.plan"])


def polygraphy(source: PackagedModel, batches: tuple[int, int, int], *, real: bool) -> str:
    """One model in ONNX Runtime and in TensorRT.

    Args:
        source: the model.
        batches: smallest, usual and largest.
        real: on the images of the package; otherwise on noise in the range of the contract.
    """
    name = source.artifact.inputs[0].name
    profile = [
        f"--trt-{key}-shapes {name}:[{shape.partition(':')[2].replace('x', ',')}]"
        for key, shape in shapes_of(source, batches)
    ]
    inputs = [f"--data-loader-script {LOADER}"] if real else _noise(source, batches)
    return " ".join(
        [
            f"polygraphy run {source.artifact.path.name} --onnxrt --trt --strongly-typed",
            *profile,
            *inputs,
            f"--atol {TOLERANCE[source.artifact.precision]:g} --rtol 0",
        ]
    )


def _noise(source: PackagedModel, batches: tuple[int, int, int]) -> list[str]:
    contract, name = source.preprocess, source.artifact.inputs[0].name
    ends = [
        (pixel * contract.scale - mean) / std
        for pixel in (0, 255)
        for mean, std in zip(contract.mean, contract.std, strict=True)
    ]
    usual = ",".join(map(str, source.image_shape(usual_batch(source, batches))))
    return [
        f"--input-shapes {name}:[{usual}]",
        f"--val-range {name}:[{min(ends):.6g},{max(ends):.6g}]",
    ]


def usual_batch(source: PackagedModel, batches: tuple[int, int, int]) -> int:
    """The batch to run at: the model's own where it is fixed."""
    fixed = source.artifact.inputs[0].shape[0]
    return fixed if isinstance(fixed, int) else batches[1]


def write_loader(
    images: SegmentationSet, source: PackagedModel, folder: Path, *, batch: int
) -> None:
    """Write every image as a prepared float32 batch of one, and a script that yields them.

    Args:
        images: what to compare on.
        source: the model, for its contract and its input's name.
        folder: of the package.
        batch: images a call.
    """
    (folder / INPUTS).mkdir()
    for sample in images:
        np.save(
            folder / INPUTS / f"{sample.name}.npy",
            sample.input(source.preprocess)[None],
        )
    text = _LOADER.format(
        folder=INPUTS,
        name=source.artifact.inputs[0].name,
        batch=usual_batch(source, (1, batch, batch)),
    )
    (folder / LOADER).write_text(text, encoding="utf-8")
