from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from segdeploy.training.batch_norm import (
    SharedBatchNorm2d,
    batch_norms,
    freeze_statistics,
    reestimate_statistics,
    share_statistics,
)
from segdeploy.training.batch_norm_study import main


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    )


INPUTS = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 + 1


def test_frozen_statistics_stay_while_everything_else_trains() -> None:
    made = network()
    made(INPUTS)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    freeze_statistics(made.train())
    assert torch.equal(made(INPUTS[:2]), made(INPUTS)[:2])  # no image sees its neighbours
    made(INPUTS).square().sum().backward()
    assert all(p.grad is not None for p in made.parameters())
    for key, value in made.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_training_mode_sets_the_statistics_free_again() -> None:
    made = network()
    freeze_statistics(made)
    before = made[1].running_mean.clone()
    made.train()(INPUTS)
    assert not torch.equal(made[1].running_mean, before)


def test_estimated_statistics_are_the_average_over_the_batches() -> None:
    made = network()
    for _ in range(3):
        made(INPUTS * 5)  # whatever they were does not matter
    reestimate_statistics(made, INPUTS.split(2))
    with torch.no_grad():
        features = [made[0](batch) for batch in INPUTS.split(2)]
    means = torch.stack([f.mean(dim=(0, 2, 3)) for f in features]).mean(dim=0)
    variances = torch.stack([f.var(dim=(0, 2, 3)) for f in features]).mean(dim=0)
    torch.testing.assert_close(made[1].running_mean, means)
    torch.testing.assert_close(made[1].running_var, variances)
    assert not made.training
    assert [norm.momentum for _, norm in batch_norms(made)] == [0.1, 0.1]


def test_sharing_keeps_keys_values_and_mode() -> None:
    made, shared = network().eval(), network().eval()
    share_statistics(shared)
    assert all(isinstance(norm, SharedBatchNorm2d) for _, norm in batch_norms(shared))
    assert list(made.state_dict()) == list(shared.state_dict())
    assert torch.equal(made(INPUTS), shared(INPUTS))
    with pytest.raises(ValueError, match="process group"):
        shared.train()(INPUTS)


def test_the_study_trains_every_form_and_keeps_what_is_finished(
    image_set: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(image_set), "-o", str(tmp_path / "out"), "--format", "json"]
    arguments += ["--width", "1", "--epochs", "1", "--threads", "1"]
    assert main(arguments) == 0
    shown = capfd.readouterr()
    forms = json.loads(shown.out)["forms"]
    averaged = [form["averaged_weights"] for form in forms]
    assert averaged == [True, True, False, False] + [True, False] * 2
    assert [form["statistics"].split(",")[-1] for form in forms[:2]] == [
        "moving to the end",
        " then estimated again",
    ]
    assert all(0 <= form["last_val_iou"] <= 100 for form in forms)
    assert shown.err.count("\n") == 2 + len(forms)
    states = {p: p.stat().st_mtime_ns for p in tmp_path.glob("out/*/state.pt")}
    assert main(arguments) == 0
    assert json.loads(capfd.readouterr().out)["forms"] == forms
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("out/*/state.pt")} == states
