from __future__ import annotations

import csv
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import TINY

import segdeploy.training.loop
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.training.files import FILES
from segdeploy.training.loop import Settings, TrainingResult, train
from segdeploy.training.recipe import Amp, Loss, Recipe, Schedule
from segdeploy.training.state import identity_of

EPOCHS = 4


def run(
    folder: Path, output: Path, *, overwrite: bool = False, **changes: object
) -> TrainingResult:
    recipe = Recipe(**({"epochs": EPOCHS, "batch": 4, "width": 2} | changes))  # type: ignore[arg-type]  # keyword by keyword
    return train(
        recipe,
        train_set=open_set(folder, "train"),
        val_set=open_set(folder, "val"),
        preprocess=TINY,
        output=output,
        settings=Settings(quiet=True, overwrite=overwrite),
    )


def stop_in_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """The user interrupts during the validation of an epoch (from 1)."""
    evaluate, calls = segdeploy.training.loop.evaluate, itertools.count(1)

    def interrupted(*arguments: object) -> object:
        if next(calls) == epoch:
            raise KeyboardInterrupt
        return evaluate(*arguments)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(segdeploy.training.loop, "evaluate", interrupted)


def figures(output: Path) -> list[dict[str, str]]:
    """The history without what the clock decides."""
    with (output / "history.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return [{k: v for k, v in r.items() if k not in ("seconds", "images_per_s")} for r in rows]


def assert_same_outcome(one: Path, other: Path) -> None:
    for name in ("best.safetensors", "last.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert figures(one) == figures(other)
    states = [torch.load(f / "state.pt", weights_only=True)["tensors"] for f in (one, other)]
    for first, second in zip(*(_leaves(state) for state in states), strict=True):
        same = torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second
        assert same


def _leaves(tree: object) -> list[object]:
    if isinstance(tree, dict):
        return [leaf for key in tree for leaf in _leaves(tree[key])]
    if isinstance(tree, list | tuple):
        return [leaf for item in tree for leaf in _leaves(item)]
    return [tree]


@pytest.mark.parametrize("stopped_in", [1, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"arch": Architecture.R2U_NET, "freeze_statistics_from": 2, "clip_norm": 0.5},
        {"schedule": Schedule.COSINE, "amp": Amp.FP16, "loss": Loss.BCE_LOVASZ},
        {"slim": 0.3, "sparsity": 1e-2, "width": 4, "amp": Amp.OFF},
    ],
    ids=["default", "frozen", "fp16", "slim"],
)
def test_an_interrupted_training_ends_with_the_bits_of_an_uninterrupted_one(
    image_set: Path, tmp_path: Path, stopped_in: int, changes: dict[str, object]
) -> None:
    run(image_set, tmp_path / "whole", **changes)
    with pytest.MonkeyPatch.context() as patch:
        stop_in_epoch(patch, stopped_in)
        with pytest.raises(KeyboardInterrupt):
            run(image_set, tmp_path / "stopped", **changes)
    finished = len(figures(tmp_path / "stopped")) if stopped_in > 1 else 0
    assert finished == stopped_in - 1
    torch.rand(5)  # whatever happened before must not matter
    run(image_set, tmp_path / "stopped", **changes)
    assert_same_outcome(tmp_path / "whole", tmp_path / "stopped")


def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_bits(
    image_set: Path, tmp_path: Path
) -> None:
    (tmp_path / "tiny.json").write_text(TINY.to_json())
    command = [sys.executable, "-m", "segdeploy", "train", "--data", str(image_set)]
    command += ["--preprocess", str(tmp_path / "tiny.json"), "--width", "2", "--epochs", "12"]
    command += ["--batch", "2", "--threads", "1", "-o"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    output = tmp_path / "killed"
    for epochs, delay in ((1, 0.0), (5, 0.013)):
        process = subprocess.Popen([*command, str(output)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not (output / "history.csv").exists() or len(figures(output)) < epochs:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert epochs <= len(figures(output)) < 12
    subprocess.run([*command, str(output)], check=True, capture_output=True)
    assert_same_outcome(tmp_path / "whole", output)
    assert not list(output.glob("*.partial"))


def test_a_finished_training_is_left_alone(image_set: Path, tmp_path: Path) -> None:
    result = run(image_set, tmp_path / "out", epochs=1)
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    assert run(image_set, tmp_path / "out", epochs=1) == result
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()} == times


def test_other_settings_are_refused_and_named_unless_it_may_start_over(
    image_set: Path, tmp_path: Path
) -> None:
    run(image_set, tmp_path / "out", epochs=1)
    with pytest.raises(UsageError, match=r"learning_rate was 0\.002, is 0\.1; seed was 0, is 4"):
        run(image_set, tmp_path / "out", epochs=1, seed=4, learning_rate=0.1)
    run(image_set, tmp_path / "new", epochs=1, seed=4)
    run(image_set, tmp_path / "out", epochs=1, seed=4, overwrite=True)
    assert_same_outcome(tmp_path / "new", tmp_path / "out")


def test_other_images_are_other_settings(image_set: Path, tmp_path: Path) -> None:
    run(image_set, tmp_path / "out", epochs=1)
    one, other = (sample.image_path for sample in open_set(image_set, "train").samples[:2])
    one.write_bytes(other.read_bytes())
    with pytest.raises(UsageError, match="train_images was"):
        run(image_set, tmp_path / "out", epochs=1)


def test_a_damaged_state_is_named(image_set: Path, tmp_path: Path) -> None:
    run(image_set, tmp_path / "out", epochs=1)
    state = tmp_path / "out" / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"state\.pt cannot be read.*--overwrite"):
        run(image_set, tmp_path / "out", epochs=1)


@pytest.mark.parametrize("part", ["network", "optimiser", "importance"])
def test_a_state_with_other_tensors_is_named(part: str, image_set: Path, tmp_path: Path) -> None:
    run(image_set, tmp_path / "out", epochs=1, patience=9)
    state = tmp_path / "out" / "state.pt"
    content = torch.load(state, weights_only=True)
    settings = json.loads(content["settings"]) | {"epochs": 2}
    content["settings"] = json.dumps(settings, sort_keys=True)
    content["tensors"][part] = {"a": 5}
    torch.save(content, state)
    with pytest.raises(InputError, match=r"state\.pt does not hold the tensors .*--overwrite"):
        run(image_set, tmp_path / "out", epochs=2, patience=9)


def test_checkpoints_without_a_state_are_not_written_over(image_set: Path, tmp_path: Path) -> None:
    run(image_set, tmp_path / "out", epochs=1)
    (tmp_path / "out" / "state.pt").unlink()
    with pytest.raises(UsageError, match=r"best\.safetensors exists, but no state\.pt"):
        run(image_set, tmp_path / "out", epochs=1)
    assert set(FILES) - {"state.pt"} <= {p.name for p in (tmp_path / "out").iterdir()} | {
        "curves.png"  # needs matplotlib
    }


def test_patience_ends_a_training_that_brings_nothing(image_set: Path, tmp_path: Path) -> None:
    """With ema 1 the evaluated weights never change, so no epoch is better than the first."""
    result = run(image_set, tmp_path / "out", epochs=9, ema=1.0, patience=2)
    assert (result.best_epoch, result.epochs) == (1, 3)
    assert run(image_set, tmp_path / "out", epochs=9, ema=1.0, patience=2) == result


def test_a_pretrained_checkpoint_is_known_by_its_bytes_wherever_it_lies(
    image_set: Path, tmp_path: Path
) -> None:
    def identity(folder: str, content: bytes) -> str:
        path = tmp_path / folder / "net.pth"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        images = open_set(image_set, "val")
        return identity_of(Recipe(epochs=1, pretrained=path), images, images, TINY, processes=1)

    known = identity("SECRETUSER", b"one")
    assert identity("moved", b"one") == known
    assert identity("moved", b"other") != known
    assert "SECRETUSER" not in known
