"""Whatever graph is drawn: each step gives a result or one line, and int8 computes about the same.

See ``random_onnx`` for what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_onnx import LAYERS, Layer, write_random

from segdeploy.calibration.estimate import Method
from segdeploy.deploy.data.image_set import SegmentationSet, open_set
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import contract_of
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.rewrites.channel_activity import channel_activity
from segdeploy.deploy.runtimes.base import Execution, infer_each
from segdeploy.deploy.runtimes.registry import RuntimeName, availability, open_runtime
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
) -> SegmentationSet:
    root = tmp_path_factory.mktemp("images") / "set"
    return open_set(make_image_set(root, ["train", "train", "val", "test"]), "train")


def probabilities(
    artifact: Artifact,
    runtime: RuntimeName,
    images: list[np.ndarray],  # type: ignore[type-arg]  # of float32
) -> np.ndarray:  # type: ignore[type-arg]  # of float32
    with open_runtime(runtime, artifact, execution=Execution(threads=1)) as opened:
        return infer_each(opened, images)[:, 0]


def require_every_step(
    path: Path, images: SegmentationSet, targets: tuple[TargetProfile, ...]
) -> None:
    """Adopt, halve, rewrite, calibrate and quantize; what runs gives about what the file gives.

    Ranges are the ends of the values: KL may clip a tensor of two values, as drawn graphs have.
    """
    folder = path.parent
    try:
        source = adopt(
            path, folder / "ours.onnx", preprocess="zero-one", images=images.samples
        ).artifact
    except InputError as error:
        if "holds NaN or Inf" in str(error):  # a graph may overflow; nothing else may be wrong
            return
        raise
    contract = contract_of(source)
    prepared = [contract.apply(sample.image()) for sample in images]
    expected = probabilities(source, RuntimeName.ONNXRUNTIME, prepared)
    try:
        half = probabilities(
            to_fp16(source, folder / "half.onnx"), RuntimeName.ONNXRUNTIME, prepared
        )
        assert np.abs(half - expected).mean() < 0.1
    except RunError as error:
        if "beyond fp16" not in str(error):
            raise
    activity = channel_activity(source.path, images, preprocess=contract, threads=1)
    rewritten = rewrite(source, folder / "rewritten.onnx", activity=activity)
    found = probabilities(rewritten, RuntimeName.ONNXRUNTIME, prepared)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    for step in (source, rewritten):
        table = calibrate(step, images, preprocess=contract, method=Method.MINMAX, threads=1)
        for profile in targets:
            if not availability(profile.runtime).ready:
                continue
            int8 = to_int8(
                step, folder / "int8.onnx", table=table, table_sha256="ab" * 32, profile=profile
            )
            assert np.abs(probabilities(int8, profile.runtime, prepared) - expected).mean() < 0.2


@pytest.mark.parametrize("layer", LAYERS, ids=[layer.__name__ for layer in LAYERS])
def test_every_layer_alone(layer: Layer, images: SegmentationSet, tmp_path: Path) -> None:
    for seed, batch in ((0, 1), (1, "n")):
        path = write_random(tmp_path / "x.onnx", [layer], seed=seed, batch=batch)
        require_every_step(path, images, TARGETS[:1])


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(layers=drawn, seed=st.integers(0, 2**16), batch=st.sampled_from([1, "n"]))
def test_layers_in_any_order(
    layers: list[Layer],
    seed: int,
    batch: int | str,
    images: SegmentationSet,
    tmp_path: Path,
) -> None:
    path = write_random(tmp_path / "x.onnx", layers, seed=seed, batch=batch)
    require_every_step(path, images, TARGETS)
