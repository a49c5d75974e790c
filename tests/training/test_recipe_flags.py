"""Each setting of a recipe is stated once: its flag, file and value follow from the field."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from segdeploy.cli.parser import build_parser
from segdeploy.cli.train import recipe_of
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.system.errors import UsageError
from segdeploy.training.augmentation import WIDE
from segdeploy.training.recipe import QUANTIZED, Amp, Loss, Recipe, Schedule, settings

OTHER: dict[str, tuple[str, Any]] = {
    "arch": ("r2u_net", Architecture.R2U_NET),
    "epochs": ("7", 7),
    "passes": ("2", 2),
    "batch": ("3", 3),
    "learning_rate": ("0.5", 0.5),
    "weight_decay": ("0.25", 0.25),
    "schedule": ("step", Schedule.STEP),
    "warmup_share": ("0.5", 0.5),
    "loss": ("bce-lovasz", Loss.BCE_LOVASZ),
    "amp": ("off", Amp.OFF),
    "clip_norm": ("2.5", 2.5),
    "ema": ("0.5", 0.5),
    "freeze_statistics_from": ("4", 4),
    "sparsity": ("0.125", 0.125),
    "slim": ("0.25", 0.25),
    "patience": ("9", 9),
    "recurrence": ("3", 3),
    "width": ("8", 8),
    "augmentation": ("wide", WIDE),
    "patch": ("48", 48),
    "pretrained": ("best.pth", Path("best.pth")),
    "quantize": ("ort-x86", "ort-x86"),
    "seed": ("5", 5),
}
"""A word for each field, and the value it stands for; no default."""


def recipe(*words: str) -> Recipe:
    return recipe_of(build_parser().parse_args(["train", "--data", "d", "-o", "o", *words]))


def test_the_table_has_every_field() -> None:
    assert set(OTHER) == set(settings()) == {field.name for field in fields(Recipe)}


def test_without_flags_a_recipe_is_the_default() -> None:
    assert recipe() == Recipe()


@pytest.mark.parametrize("name", [name for name in OTHER if name != "quantize"])
def test_a_flag_sets_its_field_and_no_other(name: str) -> None:
    word, value = OTHER[name]
    setting, default = settings()[name]
    flag = f"--{(setting.word or name).replace('_', '-')}"
    assert value != default
    assert recipe(flag, word) == replace(Recipe(), **{name: value})


def test_quantize_brings_defaults_of_its_own_and_a_flag_wins() -> None:
    needed = ("--quantize", "ort-x86", "--pretrained", "best.pth")
    brought: dict[str, Any] = {**QUANTIZED, "quantize": "ort-x86", "pretrained": Path("best.pth")}
    assert recipe(*needed) == Recipe(**brought)
    assert recipe(*needed, "--epochs", "7") == Recipe(**(brought | {"epochs": 7}))


def test_quantize_needs_a_trained_network() -> None:
    with pytest.raises(UsageError, match="expected a pretrained one"):
        recipe("--quantize", "ort-x86")


@pytest.mark.parametrize("name", OTHER)
def test_the_help_states_the_default(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    setting, default = settings()[name]
    with pytest.raises(SystemExit):
        build_parser().parse_args(["train", "-h"])
    shown = " ".join(capsys.readouterr().out.split())
    stated = "" if default in (None, 0.0) else f" (default: {setting.shown(default)})"
    assert f"{setting.help}{stated}" in shown


def test_a_value_out_of_range_names_the_field_and_what_it_may_be() -> None:
    with pytest.raises(UsageError, match=r"ema is 1\.5; expected 0 to 1"):
        recipe("--ema", "1.5")


def test_a_recipe_needs_no_pytorch() -> None:
    script = (
        "import sys, segdeploy.training.recipe as found\n"
        "print(found.Recipe().to_json())\n"
        "print([name for name in ('torch', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    text, heavy = done.stdout.splitlines()
    assert json.loads(text) == json.loads(Recipe().to_json())
    assert heavy == "[]"
