"""The largest value each channel reaches behind its ReLU, over a set of images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from segdeploy.deploy.data.image_set import Sample
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.file import copy_returning, load_model
from segdeploy.deploy.onnx_model.shapes import Shapes, float_tensors, infer_shapes, one_image
from segdeploy.deploy.runtimes.ort_session import OrtSession, session_options
from segdeploy.deploy.system.errors import InputError
from segdeploy.deploy.system.progress import ItemProgress


def channel_activity(
    path: Path,
    samples: Iterable[Sample],
    *,
    preprocess: Preprocess,
    threads: int,
    progress: ItemProgress[Sample] = iter,
) -> dict[str, NDArray[np.float32]]:
    """Run images through a float32 model and keep each channel's maximum.

    The maximum over a map is taken inside the model, so memory does not depend on the images.

    Args:
        path: the ONNX file.
        samples: at least one image.
        preprocess: the model's input contract.
        threads: for the runtime.
        progress: wraps the images, for a progress bar.

    Returns:
        Output of each Relu on maps (1, channels, h, w) to float32 (channels,).

    Raises:
        InputError: no image, one that cannot be read, a value that is not finite, or a model that
            ONNX Runtime does not load.
        RunError: ONNX Runtime failed on an image.
    """
    with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
        observed = Path(folder) / "observed.onnx"
        names = _with_maxima(path, observed)
        if not names:
            return {}
        session = OrtSession(observed, session_options(threads=threads), shown=path)
    activity: dict[str, NDArray[np.float32]] = {}
    for sample in progress(samples):
        image = sample.input(preprocess)[None]
        feeds = {session.input: image}
        values = session.run(feeds, [f"{name}/max" for name in names], where=f"on {path}")
        for name, value in zip(names, values, strict=True):
            if not np.isfinite(value).all():
                raise InputError(f"{name} is not finite on image {sample.name}")
            previous = activity.get(name, np.full(value.shape[1], -np.inf, np.float32))
            activity[name] = np.maximum(previous, value.reshape(-1))
    if not activity:
        raise InputError("no image to observe; give a folder with at least one")
    return activity


def _with_maxima(path: Path, observed: Path) -> list[str]:
    """Write the model with the maximum of each ReLU's maps as outputs; the ReLUs' names."""
    model = load_model(path)
    shapes = infer_shapes(model, [one_image(value) for value in model.graph.input])
    floats = float_tensors(model)
    names = [
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Relu" and node.output[0] in floats and _maps(shapes, node.output[0])
    ]
    del model
    largest = [f"{name}/max" for name in names]
    copy_returning(
        path,
        observed,
        dict.fromkeys(largest, onnx.TensorProto.FLOAT),
        nodes=[
            helper.make_node("GlobalMaxPool", [name], [new], name=new)
            for name, new in zip(names, largest, strict=True)
        ],
    )
    return names


def _maps(shapes: Shapes, name: str) -> bool:
    """Whether a tensor is one image's maps; where its size is open, nothing else is known."""
    shape = shapes.get(name)
    return shape is None or (len(shape) == 4 and shape[0] == 1)
