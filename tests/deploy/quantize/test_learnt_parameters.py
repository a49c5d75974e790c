"""Learnt integers and biases stand in the int8 file as they are, and only where they belong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper
from tiny import made_up_table, quantized, write_small_onnx

from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import describe, load_model, metadata
from segdeploy.deploy.quantize.learnt_parameters import LearntParameters
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.system.errors import InputError
from segdeploy.deploy.targets.profiles import ORT_X86, ORT_X86_NO_VNNI, TargetProfile


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return describe(write_small_onnx(tmp_path_factory.mktemp("learnt") / "net.onnx"))


def learnt_file(
    source: Artifact, path: Path, learnt: LearntParameters, profile: TargetProfile = ORT_X86
) -> Path:
    table = made_up_table(source)
    to_int8(source, path, table=table, table_sha256="ab" * 32, profile=profile, learnt=learnt)
    return path


def stored(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in load_model(path).graph.initializer}


def test_nothing_learnt_is_todays_file(source: Artifact, tmp_path: Path) -> None:
    plain = quantized(source, tmp_path / "plain.onnx", made_up_table(source))
    path = learnt_file(source, tmp_path / "learnt.onnx", LearntParameters())
    assert path.read_bytes() == plain.path.read_bytes()


def test_what_was_learnt_is_stored_as_it_is(source: Artifact, tmp_path: Path) -> None:
    plain = stored(quantized(source, tmp_path / "plain.onnx", made_up_table(source)).path)
    weight, bias = plain["low.weight/q"].copy(), np.linspace(-1, 1, 8).astype(np.float32)
    weight[0, 0, 0, 0] -= 1
    learnt = LearntParameters(
        weights={"low.weight": weight}, biases={"low": bias}, provenance="by hand"
    )
    path = learnt_file(source, tmp_path / "learnt.onnx", learnt)
    found = stored(path)
    assert np.array_equal(found["low.weight/q"], weight)
    assert np.array_equal(found["low.weight/scale"], plain["low.weight/scale"])
    step = found["low.bias/scale"]
    assert np.abs(found["low.bias/q"] * step.astype(np.float64) - bias).max() <= step.max() / 2
    assert np.array_equal(found["high.weight/q"], plain["high.weight/q"])
    assert metadata(load_model(path))["learnt"] == "by hand"


@pytest.mark.parametrize(
    ("learnt", "profile", "words"),
    [
        (LearntParameters(weights={"other": np.zeros(1, np.int8)}), ORT_X86, "'other'"),
        (LearntParameters(weights={"low.weight": np.zeros(1, np.int8)}), ORT_X86, "expected int8"),
        (
            LearntParameters(weights={"low.weight": np.full((8, 4, 3, 3), 65, np.int8)}),
            ORT_X86_NO_VNNI,
            "at most 64",
        ),
        (LearntParameters(biases={"pool": np.zeros(4, np.float32)}), ORT_X86, "takes a bias"),
        (
            LearntParameters(biases={"low": np.full(8, np.nan, np.float32)}),
            ORT_X86,
            "finite",
        ),
    ],
)
def test_parameters_of_something_else_are_refused(
    source: Artifact, tmp_path: Path, learnt: LearntParameters, profile: TargetProfile, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        learnt_file(source, tmp_path / "learnt.onnx", learnt, profile)
