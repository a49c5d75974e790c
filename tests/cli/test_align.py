"""``segdeploy align``: its flags, what it prints, and how it exits."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segdeploy.cli import align as cli_align
from segdeploy.cli.align import STEPS
from segdeploy.cli.parser import build_parser
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.training.align.dump import Step

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run(caplog: pytest.LogCaptureFixture) -> Run:
    """Function (words) -> exit code and result; what it says is in ``caplog``."""
    caplog.set_level(logging.INFO)

    def call(*words: object) -> tuple[int, dict[str, Any]]:
        code, result = cli_align.run(build_parser().parse_args(["align", *map(str, words)]), [])
        json.dumps(result, allow_nan=False, default=str)  # what --format json prints
        return code, result

    return call


def test_the_steps_are_those_of_a_dump() -> None:
    assert tuple(step.value for step in Step) == STEPS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("curves a.csv b.csv --steps 3", "unrecognized arguments: --steps 3"),
        ("compare a b --plot x.png", "unrecognized arguments: --plot"),
        ("dump --num-samples 3 -o x", "unrecognized arguments: --num-samples 3"),
        ("dump --no-logits -o x", "unrecognized arguments: --no-logits"),
        ("compare a", "the following arguments are required: CANDIDATE"),
        ("layers a b", "one model, not 2: a b"),
        ("dump", "the following arguments are required: -o/--output"),
        ("layers --tolerance forward=1", "'forward=1' is not a number"),
        ("compare a b --tolerance 1", "'1' is not STEP=NUMBER, with a step of inputs, forward"),
        ("", "the following arguments are required: CHECK"),
    ],
)
def test_a_check_takes_its_own_flags_and_no_other(
    words: str, message: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*words.split())
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("layers -m x.onnx", "needs what it is compared with: -c CHECKPOINT or --reference"),
        ("layers --reference x.onnx", "goes with -m, and without -c"),
        ("curves a b --plot x.txt", "expected .png or .svg"),
    ],
)
def test_flags_that_make_no_sense_together(words: str, message: str, run: Run) -> None:
    with pytest.raises(UsageError, match=message):
        run(*words.split())


@pytest.mark.parametrize("wrong", ["sideways=1", "forward=", "-1", "=1", "x"])
def test_a_tolerance_that_is_none(wrong: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("compare", "a", "b", f"--tolerance={wrong}")
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
