"""A model is timed with what it takes: its own batch, the contract's size where it takes any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import segdeploy as sd
from segdeploy.benchmarks.speed.random_feeds import random_feeds, size_to_feed
from segdeploy.deploy.onnx_model.artifact import TensorSpec
from segdeploy.deploy.onnx_model.file import describe, load_model, save_model
from segdeploy.deploy.system.errors import InputError

Small = Callable[..., Path]


def test_a_model_of_a_fixed_batch_is_timed_at_it(
    small_onnx: Small, image_set: Path, tmp_path: Path
) -> None:
    one = small_onnx(tmp_path / "one.onnx", batch=1)
    found = sd.benchmark(
        one, data=image_set, runtimes="onnxruntime", threads=1, warmup=0, duration_s=0.0
    )
    assert [(row.batch, row.skipped) for row in found.rows] == [(1, None)]


def test_beside_models_of_any_batch_its_other_rows_are_skipped_with_the_reason(
    small_onnx: Small, image_set: Path, tmp_path: Path
) -> None:
    one, any_batch = small_onnx(tmp_path / "one.onnx", batch=1), small_onnx(tmp_path / "any.onnx")
    found = sd.benchmark(
        [one, any_batch],
        data=image_set,
        runtimes="onnxruntime",
        batches=2,
        threads=1,
        warmup=0,
        duration_s=0.0,
    )
    assert [(row.file, row.batch, row.skipped) for row in found.rows] == [
        ("any.onnx", 2, None),
        ("one.onnx", 2, "takes 1 in a call, and this is 2"),
        ("one.onnx", 1, None),
        ("any.onnx", 1, None),
    ]


def test_end_to_end_takes_the_batch_of_the_model(
    small_onnx: Small, image_set: Path, tmp_path: Path
) -> None:
    one = small_onnx(tmp_path / "one.onnx", batch=1)
    found = sd.end_to_end(
        one, image_set / "images", runtimes="onnxruntime", batches=2, threads=1, duration_s=0.0
    )
    assert [(row.batch, row.skipped) for row in found.rows] == [(1, None)]


def symbolic(path: Path) -> Path:
    """The same file with a height and a width that it leaves open."""
    model = load_model(path)
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in ((2, "h"), (3, "w")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    save_model(model, path)
    return path


def test_a_model_of_any_size_is_timed_at_the_size_of_its_contract(
    small_onnx: Small, image_set: Path, tmp_path: Path
) -> None:
    path = symbolic(small_onnx(tmp_path / "any.onnx"))
    assert describe(path).inputs[0].shape[2:] == ("h", "w")
    assert size_to_feed(describe(path)) == (32, 32)
    found = sd.benchmark(
        path, data=image_set, runtimes="onnxruntime", batches=1, threads=1, warmup=0, duration_s=0.0
    )
    assert not found.failed
    assert [row.skipped for row in found.rows] == [None]


def test_a_size_that_nothing_states_is_named() -> None:
    spec = TensorSpec(name="image", shape=("n", 3, "h", "w"), dtype="float32")
    with pytest.raises(InputError, match=r"'image' takes images of .*'h', 'w'.*expected a size"):
        random_feeds([spec], 1)
    assert random_feeds([spec], 2, size=(4, 6))["image"].shape == (2, 3, 4, 6)
