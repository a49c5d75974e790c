"""Whatever graph is drawn: each step gives a result or one line, and int8 computes about the same.

See ``random_onnx`` for what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from random_onnx import LAYERS, SIDE, Layer, write_random
from tiny import inferred

from segdeploy.calibration.estimate import Method
from segdeploy.deploy.data.image_set import SegmentationSet, open_set
from segdeploy.deploy.onnx_model.file import contract_of
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.rewrites.channel_activity import channel_activity
from segdeploy.deploy.runtimes.registry import RuntimeName, availability
from segdeploy.deploy.sensitivity.layer_errors import layer_errors
from segdeploy.deploy.stages.adopt import adopt
from segdeploy.deploy.stages.rewrite import rewrite
from segdeploy.deploy.stages.to_fp16 import to_fp16
from segdeploy.deploy.system.errors import InputError, RunError
from segdeploy.deploy.targets.profiles import OPENVINO_CPU, ORT_X86, TENSORRT, TargetProfile

TARGETS = (ORT_X86, TENSORRT, OPENVINO_CPU)

drawn = st.lists(st.sampled_from(LAYERS), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def images(
    tmp_path_factory: pytest.TempPathFactory, make_image_set: Callable[[Path, list[str]], Path]
) -> Callable[[int], SegmentationSet]:
    """Function from a number of channels to two images that have them."""

    @cache
    def opened(channels: int) -> SegmentationSet:
        root = tmp_path_factory.mktemp("images") / "set"
        make_image_set(root, ["train", "train", "val", "test"])
        for path in (root / "images").iterdir() if channels != 3 else ():
            pixels = np.asarray(Image.open(path))
            bands = pixels[..., 0] if channels == 1 else pixels[..., [0, 1, 2, 0][:channels]]
            how = {} if channels == 1 else {"planarconfig": "contig"}
            path.unlink()
            tifffile.imwrite(path.with_suffix(".tif"), bands, photometric="minisblack", **how)
        return open_set(root, "train")

    return opened


def require_every_step(
    path: Path, images: SegmentationSet, targets: tuple[TargetProfile, ...]
) -> None:
    """Adopt, halve, rewrite, calibrate, quantize and debug; it gives about what the file gives.

    Ranges are the ends of the values: KL may clip a tensor of two values, as drawn graphs have.
    """
    folder = path.parent
    try:
        source = adopt(
            path,
            folder / "ours.onnx",
            preprocess="zero-one",
            images=images.samples,
            size=(SIDE, SIDE),
        ).artifact
    except InputError as error:
        if "holds NaN or Inf" in str(error):  # a graph may overflow; nothing else may be wrong
            return
        raise
    contract = contract_of(source)
    prepared = [sample.input(contract) for sample in images]
    expected = inferred(source, RuntimeName.ONNXRUNTIME, prepared)
    try:
        half = inferred(to_fp16(source, folder / "half.onnx"), RuntimeName.ONNXRUNTIME, prepared)
        assert np.abs(half - expected).mean() < 0.1
    except RunError as error:
        if "beyond fp16" not in str(error):
            raise
    activity = channel_activity(source.path, images, preprocess=contract, threads=1)
    rewritten = rewrite(source, folder / "rewritten.onnx", activity=activity)
    found = inferred(rewritten, RuntimeName.ONNXRUNTIME, prepared)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    for step in (source, rewritten):
        table = calibrate(step, images, preprocess=contract, method=Method.MINMAX, threads=1)
        for profile in targets:
            if not availability(profile.runtime).ready:
                continue
            int8 = to_int8(
                step, folder / "int8.onnx", table=table, table_sha256="ab" * 32, profile=profile
            )
            try:
                found = inferred(int8, profile.runtime, prepared)
            except InputError as error:
                if "OpenVINO cannot compile" not in str(error):  # as where all nodes have one name
                    raise
                continue
            assert np.abs(found - expected).mean() < (0.2 if expected.shape[1] == 1 else 0.35)
    layers = layer_errors(step, table=table, profile=targets[0], images=prepared[:1], threads=1)
    assert len(layers) == len({layer.name for layer in layers})


@pytest.mark.parametrize("layer", LAYERS, ids=[layer.__name__ for layer in LAYERS])
def test_every_layer_alone(
    layer: Layer, images: Callable[[int], SegmentationSet], tmp_path: Path
) -> None:
    place = LAYERS.index(layer)
    forms = (
        {"seed": 0, "batch": 1},
        {
            "seed": 1 + place % 4,
            "batch": "n",
            "channels": (1, 2, 4)[place % 3],
            "classes": (2, 3)[place % 2],
            "sides_open": True,
        },
    )
    for form in forms:
        path = write_random(tmp_path / "x.onnx", [layer], **form)
        require_every_step(path, images(form.get("channels", 3)), TARGETS[:1])


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    layers=drawn,
    seed=st.integers(0, 2**16),
    batch=st.sampled_from([1, "n"]),
    channels=st.integers(1, 4),
    classes=st.sampled_from([1, 1, 2, 5]),
    sides_open=st.booleans(),
)
def test_layers_in_any_order(
    layers: list[Layer],
    seed: int,
    batch: int | str,
    channels: int,
    classes: int,
    sides_open: bool,
    images: Callable[[int], SegmentationSet],
    tmp_path: Path,
) -> None:
    form = {"batch": batch, "channels": channels, "classes": classes, "sides_open": sides_open}
    path = write_random(tmp_path / "x.onnx", layers, seed=seed, **form)
    require_every_step(path, images(channels), TARGETS)
