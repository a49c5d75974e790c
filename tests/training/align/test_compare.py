"""Dumps of a training step: what they hold, and what a comparison names."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.models.checkpoint import load_checkpoint
from segdeploy.deploy.models.networks import Network
from segdeploy.deploy.system.errors import InputError
from segdeploy.training.align.compare import TOLERANCES, compare_dumps
from segdeploy.training.align.dump import INDEX, TENSORS, Dump, Step, read_dump, write_dump
from segdeploy.training.align.steps import StepsRecipe, checkpoint_dump
from segdeploy.training.align.tolerance import Tolerance

# --- dumps -------------------------------------------------------------------------------------


RECIPE = StepsRecipe(steps=3, batch=2)


def dumped(checkpoint: Path, root: Path, **changes: Any) -> Dump:
    recipe = dataclasses.replace(RECIPE, **changes)
    return checkpoint_dump(load_checkpoint(checkpoint), open_set(root, "train"), recipe)


@pytest.fixture
def reference(tiny_unet_checkpoint: Path, image_set: Path) -> Dump:
    return dumped(tiny_unet_checkpoint, image_set)


def changed(dump: Dump, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Dump:
    tensors = {**dump.tensors, name: change(dump.tensors[name].copy())}
    return dataclasses.replace(dump, tensors=tensors, source="candidate")


@pytest.mark.parametrize("which", ["tiny_unet", "tiny_r2u"])
def test_a_dump_holds_what_a_training_computes(
    which: str, image_set: Path, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(f"{which}_checkpoint")
    network: Network = request.getfixturevalue(which)
    dump = dumped(path, image_set)
    assert list(dict.fromkeys(name.partition("/")[0] for name in dump.tensors)) == [
        step.value for step in Step
    ]
    image = torch.from_numpy(dump.tensors["inputs/image"][0])
    with torch.inference_mode():
        expected = network.eval().heads(image)
    found = [dump.tensors[name] for name in dump.tensors if name.startswith("forward/eval/")]
    for wanted, logits in zip(expected, found, strict=True):
        assert np.array_equal(wanted.numpy(), logits)
    parameters = dict(network.named_parameters())
    gradients = [name.removeprefix("backward/") for name in dump.of(Step.BACKWARD)]
    assert gradients == list(reversed(parameters))
    for name, parameter in parameters.items():  # AdamW's first step, written out
        gradient = dump.tensors[f"backward/{name}"].astype(np.float64)
        start = parameter.detach().numpy().astype(np.float64)
        kept = start * (1 - RECIPE.learning_rate * RECIPE.weight_decay)
        after = kept - RECIPE.learning_rate * gradient / (np.abs(gradient) + 1e-8)
        np.testing.assert_allclose(dump.tensors[f"update/{name}"], after, atol=1e-6)
    losses = dump.tensors["training/losses"]
    assert losses.shape == (RECIPE.steps,)
    assert losses[0] == dump.tensors["loss/mean"][0]
    assert all(tensor.base is None or tensor.size for tensor in dump.tensors.values())


def test_the_checkpoint_is_left_as_it_was(tiny_unet_checkpoint: Path, image_set: Path) -> None:
    checkpoint = load_checkpoint(tiny_unet_checkpoint)
    before = {name: value.clone() for name, value in checkpoint.network.state_dict().items()}
    checkpoint_dump(checkpoint, open_set(image_set, "train"), RECIPE)
    assert not checkpoint.network.training
    for name, value in checkpoint.network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    tiny_unet_checkpoint: Path, image_set: Path, tmp_path: Path
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(3)  # whatever happened before must not matter
        write_dump(dumped(tiny_unet_checkpoint, image_set, seed=seed), tmp_path / name)
    for file in (INDEX, TENSORS):
        one, two, three = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert one == two
        assert one != three


def test_more_images_than_there_are_come_again_only_when_all_have(
    tiny_unet_checkpoint: Path, image_set: Path
) -> None:
    names = dumped(tiny_unet_checkpoint, image_set, steps=4, batch=2).settings["images"]
    assert len(names) == 8
    assert len(set(names[:6])) == 6


def test_a_dump_comes_back_as_it_was_written(reference: Dump, tmp_path: Path) -> None:
    write_dump(reference, tmp_path / "dump")
    again = read_dump(tmp_path / "dump")
    assert list(again.tensors) == list(reference.tensors)
    for name, tensor in reference.tensors.items():
        assert np.array_equal(again.tensors[name], tensor)
        assert again.tensors[name].dtype == tensor.dtype
    assert again.settings == reference.settings
    assert again.environment == reference.environment


def test_another_implementation_can_write_a_dump(reference: Dump, tmp_path: Path) -> None:
    """By hand, from the documented names: no digest, hardly any settings."""
    tensors = {name: np.ascontiguousarray(t) for name, t in reference.tensors.items()}
    save_file(tensors, tmp_path / TENSORS)
    index = {"schema_version": 1, "settings": {}, "environment": {"implementation": "other"}}
    (tmp_path / INDEX).write_text(json.dumps(index | {"tensors": list(tensors)}))
    assert all(row.passed for row in compare_dumps(reference, read_dump(tmp_path)))


def test_plain_kernels_are_another_implementation_that_agrees(
    tiny_unet_checkpoint: Path, image_set: Path, reference: Dump
) -> None:
    checkpoint = load_checkpoint(tiny_unet_checkpoint)
    other = checkpoint_dump(checkpoint, open_set(image_set, "train"), RECIPE, plain_kernels=True)
    assert torch.backends.mkldnn.enabled
    rows = compare_dumps(reference, other)
    assert [row.step for row in rows if not row.passed] == []
    assert max(row.difference.max_abs for row in rows) > 0, "compared with itself?"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / INDEX).unlink(), "cannot be read"),
        (lambda f: (f / INDEX).write_text("[]"), r"it is \[\]; expected keys and values"),
        (
            lambda f: (f / INDEX).write_text('{"schema_version": 2}'),
            "schema_version is 2; this",
        ),
        (
            lambda f: (f / INDEX).write_text('{"schema_version": 1}'),
            "lacks 'settings',",
        ),
        (lambda f: (f / TENSORS).write_bytes(b"cut off"), "no safetensors file"),
        (lambda f: (f / TENSORS).unlink(), "no safetensors file"),
        (lambda f: save_file({"loss/x": np.ones(1)}, f / TENSORS), "dump again"),
    ],
)
def test_a_damaged_dump_is_refused(
    change: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    dump = Dump(source="x", tensors={"loss/mean": np.ones(1)}, settings={}, environment={})
    write_dump(dump, tmp_path / "dump")
    change(tmp_path / "dump")
    with pytest.raises(InputError, match=message):
        read_dump(tmp_path / "dump")


def test_tensors_that_the_index_does_not_list_are_named(tmp_path: Path) -> None:
    dump = Dump(source="x", tensors={"loss/mean": np.ones(1)}, settings={}, environment={})
    write_dump(dump, tmp_path)
    index = json.loads((tmp_path / INDEX).read_text())
    for listed in ([], ["loss/mean", "loss/other"]):
        (tmp_path / INDEX).write_text(json.dumps(index | {"tensors": listed}))
        with pytest.raises(InputError, match=r"'loss/(mean|other)' is in .* and not in"):
            read_dump(tmp_path)
    assert load_file(tmp_path / TENSORS).keys() == {"loss/mean"}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"logits": np.ones(1)}, "belongs to no step"),
        ({"forward/": np.ones(1)}, "belongs to no step"),
        ({"forward/a": np.ones(1, np.int64)}, "int64; expected float32 or float64"),
    ],
)
def test_names_and_types_outside_the_format(tensors: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Dump(source="x", tensors=tensors, settings={}, environment={})


# --- comparing dumps ---------------------------------------------------------------------------


def test_a_dump_agrees_with_itself_exactly(reference: Dump) -> None:
    rows = compare_dumps(reference, reference)
    assert [row.step for row in rows] == list(Step)
    assert all(row.passed and row.difference.max_abs == 0 for row in rows)


@pytest.mark.parametrize(
    ("step", "name"),
    [
        (Step.INPUTS, "inputs/truth"),
        (Step.FORWARD, "forward/eval/final3"),
        (Step.FORWARD, "forward/train/final1"),
        (Step.METRIC, "metric/iou"),
        (Step.LOSS, "loss/mean"),
        (Step.BACKWARD, "backward/conv1_1.conv.3.weight"),
        (Step.UPDATE, "update/conv0_0.conv.1.running_mean"),
        (Step.UPDATE, "update/conv1_1.conv.3.weight"),
        (Step.TRAINING, "training/losses"),
    ],
)
def test_the_first_departure_is_named_and_balanced_drift_is_seen(
    reference: Dump, step: Step, name: str
) -> None:
    """Half of the values are off upwards, half downwards: the signed mean stays."""

    def sway(tensor: NDArray[Any]) -> NDArray[Any]:
        flat = tensor.reshape(-1)
        flat[0::2] += 0.05 * np.abs(tensor).max()
        flat[1::2] -= 0.05 * np.abs(tensor).max()
        return tensor

    rows = compare_dumps(reference, changed(reference, name, sway))
    departed = [row for row in rows if not row.passed]
    # A gradient that departs explains an update only as far as it moves it.
    assert departed[0].step is step
    assert departed[0].first_departure is not None
    assert departed[0].first_departure.name == name


def test_the_first_of_several_departures_is_the_one_computed_first(reference: Dump) -> None:
    other = reference
    for name in ("training/losses", "loss/final2", "loss/final4", "update/final1.bias"):
        other = changed(other, name, lambda tensor: tensor + 1)
    first = next(row for row in compare_dumps(reference, other) if not row.passed)
    assert first.first_departure is not None
    assert (first.step, first.first_departure.name) == (Step.LOSS, "loss/final2")


def test_a_gradients_sign_lost_in_rounding_is_no_fault_of_the_update(reference: Dump) -> None:
    """A bias before BatchNorm has a gradient of 0 but for rounding; AdamW steps by its sign."""
    gradient, updated = "backward/conv0_0.conv.0.bias", "update/conv0_0.conv.0.bias"
    noise = reference.tensors[gradient]
    assert np.abs(noise).max() < 1e-5
    flipped = changed(reference, gradient, np.negative)
    moved = 2 * 1e-3 * noise.astype(np.float64) / (np.abs(noise.astype(np.float64)) + 1e-8)
    both = changed(flipped, updated, lambda tensor: (tensor + moved).astype(np.float32))
    assert all(row.passed for row in compare_dumps(reference, both))
    # The same move without the gradient that explains it is a fault.
    alone = changed(reference, updated, lambda tensor: (tensor + moved).astype(np.float32))
    departed = [row.step for row in compare_dumps(reference, alone) if not row.passed]
    assert departed == [Step.UPDATE]


def test_a_learning_rate_off_by_a_hundredth_departs_at_the_update(
    tiny_unet_checkpoint: Path, image_set: Path, reference: Dump
) -> None:
    other = dumped(tiny_unet_checkpoint, image_set, learning_rate=1.01e-3)
    silent = dataclasses.replace(other, settings={})
    rows = compare_dumps(reference, silent)
    assert next(row.step for row in rows if not row.passed) is Step.UPDATE


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("in_reference", [True, False])
def test_a_value_that_is_not_finite_departs(
    reference: Dump, broken: float, in_reference: bool
) -> None:
    def spoil(tensor: NDArray[Any]) -> NDArray[Any]:
        tensor.reshape(-1)[0] = broken
        return tensor

    other = changed(reference, "backward/final4.weight", spoil)
    # An infinite reference widens no tolerance: a fault behind it is still found.
    faulty = "backward/conv0_0.conv.1.weight"
    other = changed(other, faulty, lambda tensor: tensor + 0.1 * np.abs(tensor).max())
    pair = (other, reference) if in_reference else (reference, other)
    rows = compare_dumps(*pair)
    (backward,) = (row for row in rows if row.step is Step.BACKWARD)
    assert [row.name for row in backward.tensors if row.departs] == [
        "backward/final4.weight",
        faulty,
    ]
    json.dumps([row.as_json() for row in rows], allow_nan=False)


def test_dumps_of_other_tensors_shapes_or_settings_are_refused(reference: Dump) -> None:
    less = {n: t for n, t in reference.tensors.items() if n != "loss/mean"}
    fewer = dataclasses.replace(reference, tensors=less, source="candidate")
    for one, other in ((reference, fewer), (fewer, reference)):
        with pytest.raises(InputError, match="lacks loss/mean, which"):
            compare_dumps(one, other)
    cut = changed(reference, "metric/iou", lambda tensor: tensor[:1])
    with pytest.raises(InputError, match=r"metric/iou is \(2,\) in .* \(1,\) in candidate"):
        compare_dumps(reference, cut)
    longer = dataclasses.replace(reference, settings={**reference.settings, "steps": 9})
    with pytest.raises(InputError, match=r"other settings \(steps: 3 and 9\)"):
        compare_dumps(reference, longer)


def test_an_update_needs_the_learning_rate_that_scales_it(reference: Dump) -> None:
    silent = dataclasses.replace(reference, settings={})
    with pytest.raises(InputError, match="states no learning_rate"):
        compare_dumps(silent, reference)


def test_a_tolerance_decides(reference: Dump) -> None:
    other = changed(reference, "forward/eval/final4", lambda tensor: tensor * 1.001)
    wide = {**TOLERANCES, Step.FORWARD: Tolerance(relative=2e-3)}
    assert all(row.passed for row in compare_dumps(reference, other, tolerances=wide))
    narrow = {**TOLERANCES, Step.FORWARD: Tolerance(relative=5e-4)}
    assert not all(row.passed for row in compare_dumps(reference, other, tolerances=narrow))
