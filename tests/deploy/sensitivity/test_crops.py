"""Layers of large images are compared on crops: the layers and their order stay."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tiny import exported, made_up_table, quantized

from segdeploy.deploy.models import UNetPlusPlus
from segdeploy.deploy.onnx_model.activation_memory import activation_memory
from segdeploy.deploy.onnx_model.file import load_model
from segdeploy.deploy.sensitivity.crops import cropped
from segdeploy.deploy.sensitivity.layer_errors import compare_layers


def test_a_large_image_is_compared_on_its_middle(
    tmp_path: Path, tiny_unet: UNetPlusPlus, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = exported(tiny_unet, tmp_path)
    candidate = quantized(reference, tmp_path / "int8.onnx", made_up_table(reference))
    models = load_model(reference.path), load_model(candidate.path)
    height, width = (int(side) for side in reference.inputs[0].shape[2:])
    image = np.random.default_rng(0).uniform(-1, 1, (3, height, width)).astype(np.float32)
    whole = activation_memory(models[0]).all

    same, images = cropped(models, [image], most_bytes=whole)
    assert same is models
    assert images[0] is image

    smaller, (crop,) = cropped(models, [image], most_bytes=whole // 2)
    assert crop.shape == (3, *sorted((height, width // 2)))
    assert activation_memory(smaller[0], size=crop.shape[1:]).all <= whole // 2
    assert crop.tobytes() in (
        image[:, height // 4 : height // 4 + height // 2].tobytes(),
        image[:, :, width // 4 : width // 4 + width // 2].tobytes(),
    )

    all_of_it = compare_layers(reference, candidate, [image], threads=1)
    half = partial(cropped, most_bytes=whole // 2)
    monkeypatch.setattr("segdeploy.deploy.sensitivity.layer_errors.cropped", half)
    middle = compare_layers(reference, candidate, [image], threads=1)
    assert {layer.name for layer in middle} == {layer.name for layer in all_of_it}


def test_sides_that_the_poolings_do_not_divide_are_left(
    tmp_path: Path, tiny_unet: UNetPlusPlus
) -> None:
    reference = exported(tiny_unet, tmp_path)
    candidate = quantized(reference, tmp_path / "int8.onnx", made_up_table(reference))
    image = np.zeros((3, *map(int, reference.inputs[0].shape[2:])), np.float32)
    _, (crop,) = cropped(
        (load_model(reference.path), load_model(candidate.path)), [image], most_bytes=1
    )
    assert crop.shape == (3, 16, 16)
