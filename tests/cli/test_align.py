"""``segdeploy align``: its flags, what it prints, and how it exits."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segdeploy.cli.align import align
from segdeploy.cli.align_flags import FLAGS_OF, STEPS, align_flags
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.training.align.dump import Step

Run = Callable[..., tuple[int, dict[str, Any]]]


def parser() -> argparse.ArgumentParser:
    built = argparse.ArgumentParser(prog="segdeploy align")
    align_flags(built)
    return built


@pytest.fixture
def run(caplog: pytest.LogCaptureFixture) -> Run:
    """Function (words) -> exit code and result; what it says is in ``caplog``."""
    caplog.set_level(logging.INFO)

    def call(*words: object) -> tuple[int, dict[str, Any]]:
        code, result = align(parser().parse_args([str(word) for word in words]), [])
        json.dumps(result, allow_nan=False, default=str)  # what --format json prints
        return code, result

    return call


def test_the_steps_and_flags_are_those_of_the_checks() -> None:
    assert tuple(step.value for step in Step) == STEPS
    flags = {action.dest for action in parser()._actions} - {"help", "action"}
    assert flags == set().union(*FLAGS_OF.values())
    given = vars(parser().parse_args(["curves"]))
    assert {name for name, value in given.items() if value is not None} == {"action", "files"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("curves a.csv b.csv --steps 3", "--steps is for align dump, not for curves"),
        ("compare a b --plot x.png", "--plot is for align curves, not for compare"),
        ("dump --num-samples 3 -o x", "--num-samples is for align layers, not for dump"),
        ("dump --no-logits -o x", "--logits is for align layers, not for dump"),
        ("compare a", "align compare takes 2 files, got .'a'."),
        ("layers a b", "align layers takes 0 files"),
        ("dump", "needs -o FOLDER"),
        ("layers -m x.onnx", "needs what it is compared with: -c CHECKPOINT or --reference"),
        ("layers --reference x.onnx", "goes with -m, and without -c"),
        ("layers --tolerance forward=1", "takes one --tolerance NUMBER"),
        ("curves a b --plot x.txt", "expected .png or .svg"),
    ],
)
def test_flags_that_make_no_sense_together(words: str, message: str, run: Run) -> None:
    with pytest.raises(UsageError, match=message):
        run(*words.split())


@pytest.mark.parametrize("wrong", ["sideways=1", "forward=", "-1", "=1", "x"])
def test_a_tolerance_that_is_none(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(["compare", "a", "b", f"--tolerance={wrong}"])
    assert caught.value.code == 2
    assert "--tolerance" in capsys.readouterr().err


def test_layers_agree_until_one_is_perturbed(
    run: Run, tiny_unet_checkpoint: Path, image_set: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["layers", "-c", tiny_unet_checkpoint, "--data", image_set, "--threads", 1]
    words += ["--runtime", "onnxruntime", "--num-samples", 2]
    code, result = run(*words)
    assert (code, result["passed"]) == (0, True)
    (alignment,) = result["alignments"]
    assert (len(alignment["layers"]), alignment["images"]) == (86, 2)
    assert "86 of 86 layers agree" in caplog.text
    code, result = run(*words, "--perturb", "conv1_2.conv.0", "--tolerance", 1e-4)
    assert (code, result["passed"]) == (1, False)
    assert result["alignments"][0]["first_departure"] == "conv1_2.conv.0"
    assert "the first that departs is conv1_2.conv.0 (Conv)" in caplog.text
    assert result["alignments"][0]["tolerance"] == 1e-4


def test_dumps_are_compared_step_by_step(
    run: Run,
    tiny_unet_checkpoint: Path,
    image_set: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = ["dump", "-c", tiny_unet_checkpoint, "--data", image_set, "--threads", 1]
    words += ["--steps", 2, "--batch", 2]
    code, result = run(*words, "-o", tmp_path / "a")
    assert (code, len(result["losses"])) == (0, 2)
    run(*words, "-o", tmp_path / "b", "--plain-kernels")
    code, result = run("compare", tmp_path / "a", tmp_path / "b")
    assert (code, result["first_departure"]) == (0, None)
    assert [row["step"] for row in result["steps"]] == list(STEPS)
    code, result = run("compare", tmp_path / "a", tmp_path / "b", "--tolerance", "forward=1e-12")
    assert (code, result["first_departure"]) == (1, "forward")
    assert "FAIL: forward departs first, tensor forward/eval/final1" in caplog.text
    with pytest.raises(UsageError, match="takes STEP=NUMBER"):
        run("compare", tmp_path / "a", tmp_path / "b", "--tolerance", "1")
    run(*words, "-o", tmp_path / "c", "--learning-rate", 0.01)
    with pytest.raises(InputError, match=r"learning_rate: 0\.001 and 0\.01"):
        run("compare", tmp_path / "a", tmp_path / "c")


def test_a_device_that_is_not_here(
    run: Run, tiny_unet_checkpoint: Path, image_set: Path, tmp_path: Path
) -> None:
    words = ["dump", "-c", tiny_unet_checkpoint, "--data", image_set, "-o", tmp_path / "a"]
    with pytest.raises(UsageError, match="--device abacus is not ready in PyTorch here"):
        run(*words, "--device", "abacus")
    assert not (tmp_path / "a").exists()


def test_curves_pass_or_fail_and_are_drawn(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text("epoch,train_loss\n1,1.0\n2,1.0\n")
    two.write_text("epoch,train_loss\n1,1.2\n2,0.8\n")
    code, result = run("curves", one, two)
    assert (code, result["passed"]) == (1, False)
    assert result["mean_signed"] == pytest.approx(0)
    assert run("curves", one, two, "--max-relative", 0.25)[0] == 0
    assert run("curves", one, two, "--max-absolute", 0.25)[0] == 0
    shutil.copyfile(one, tmp_path / "longer.csv")
    with (tmp_path / "longer.csv").open("a") as stream:
        stream.write("3,0.9\n")
    code, _ = run("curves", one, tmp_path / "longer.csv", "--common")
    assert code == 0
    assert "of 2 epochs, 1 left out that one run lacks" in caplog.text
    with pytest.raises(InputError, match="expected 'val_loss'"):
        run("curves", one, two, "--column", "val_loss")
