"""Killed or interrupted at any moment, a command goes on and ends with the same bytes.

The short form; ``python tests/kills.py -h`` is the long one.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kill_compare import difference
from kill_verbs import INPUTS, TERMINAL, VERBS
from kill_zygote import Zygote
from kills import Bench, Tally, finish, interrupted_at, killed_at, killed_before

from segdeploy.calibration.files import remove_partial
from segdeploy.cli.main import main
from segdeploy.training.files import FILES
from segdeploy.training.folder import claim
from segdeploy.training.history import EpochFigures
from segdeploy.training.state import TrainingState, load_state, save_state

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
KILLED = ("run", "calibrate", "train", "predict", "quantize", "prepare", "package")
INTERRUPTED = ("calibrate", "train workers", "predict")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("kills")
    (folder / "reuse").mkdir()
    with Zygote() as zygote:
        yield Bench(folder, zygote, reuse=folder / "reuse")


@pytest.mark.parametrize("name", KILLED)
def test_killed_several_times_it_ends_with_the_bytes_of_an_undisturbed_command(
    name: str, bench: Bench
) -> None:
    verb, tally, draw = VERBS[name], Tally(verb=name), random.Random(name)
    _, seconds, operations = bench.whole(verb)
    folder = bench.new_folder(verb)
    aim = draw.randint(1, operations)
    assert killed_before(bench, verb, folder, aim, tally, torn=True)
    if name != "run":  # takes seconds; the long form does it
        killed_at(bench, verb, folder, draw.uniform(0.2, 0.7) * seconds, tally)
    finish(bench, verb, folder, tally)
    assert tally.differences == []


@pytest.mark.parametrize("name", ["calibrate", "quantize"])
def test_killed_before_its_last_changes_of_a_name(name: str, bench: Bench) -> None:
    verb, tally = VERBS[name], Tally(verb=name)
    operations = bench.whole(verb)[2]
    folder = bench.new_folder(verb)
    assert killed_before(bench, verb, folder, operations - 1, tally, torn=False)
    finish(bench, verb, folder, tally)
    assert tally.differences == []


@pytest.mark.parametrize("name", INTERRUPTED)
def test_interrupted_it_says_how_to_go_on_and_that_ends_with_the_same_bytes(
    name: str, bench: Bench
) -> None:
    verb, tally, draw = VERBS[name], Tally(verb=name), random.Random(2)
    while not tally.kills:
        folder = bench.new_folder(verb)
        command = interrupted_at(bench, verb, folder, draw, tally)
        assert command in (None, list(verb.argv))
        finish(bench, verb, folder, tally)
    assert tally.differences == []


def test_a_second_command_on_the_same_output_is_refused_and_harms_nothing(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    verb = VERBS["train"]
    whole, _, _ = bench.whole(verb)
    folder = bench.new_folder(verb)
    monkeypatch.chdir(folder)
    first = bench.zygote.start(bench.command(verb, folder))
    while not Path("out/state.pt").exists():
        assert not first.ended(0.01), (folder / TERMINAL).read_text()
    assert main(verb.argv) == 2
    assert "another process is writing to out" in capsys.readouterr().err
    assert not first.ended(0), "the first was still at work"
    assert first.wait() == 0
    assert bench.differs(verb, folder) is None
    assert whole != folder


def test_a_forked_command_does_what_a_fresh_process_does(bench: Bench) -> None:
    verb = VERBS["predict"]
    folder = bench.new_folder(verb)
    subprocess.run([sys.executable, "-m", "segdeploy", *verb.argv], cwd=folder, check=True)
    assert bench.differs(verb, folder) is None


def test_a_training_that_starts_over_and_dies_is_not_taken_for_the_finished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in FILES:
        (tmp_path / name).touch()
    done = EpochFigures(
        epoch=1,
        train_loss=1.0,
        val_loss=1.0,
        val_iou=50.0,
        learning_rate=0.1,
        images_per_s=1.0,
        seconds=1.0,
    )
    save_state(TrainingState(settings="{}", history=(done,), tensors={}), tmp_path)
    monkeypatch.setattr(Path, "unlink", lambda path, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        claim(tmp_path, overwrite=True)
    assert load_state(tmp_path, settings="{}") is None


def test_half_a_folder_of_a_killed_command_goes_too(tmp_path: Path) -> None:
    for name in (".pkg.7.partial", ".pkg.replaced.7.partial", ".other.7.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.onnx").touch()
    remove_partial(tmp_path, of=[".pkg", ".pkg.replaced"])
    assert [path.name for path in tmp_path.iterdir()] == [".other.7.partial"]
    remove_partial(tmp_path)
    assert not list(tmp_path.iterdir())


def test_counts_of_another_run_are_not_in_the_way_of_overwriting(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb = VERBS["run"]
    folder = bench.new_folder(verb)
    counts = folder / "out/unet_plus_plus.calib.partial.npz"
    counts.parent.mkdir()
    counts.write_bytes(b"of other images")
    # counts, figures, checksums, manifest, first file
    command = bench.command(verb, folder, "--overwrite", aim=5)
    assert bench.zygote.start(command).wait() == -signal.SIGKILL
    assert not counts.exists()
    assert (folder / "out/manifest.json").exists()


def test_a_difference_is_found_and_named(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.onnx").write_bytes(b"equal" + name.encode())
        (tmp_path / name / INPUTS).write_text(name)
    found = difference(tmp_path / "one", tmp_path / "other", leave_out=[INPUTS])
    assert found == "net.onnx: 8 and 10 bytes, from byte 6 on b'ne' and b'ther'"
    (tmp_path / "one/a.7.partial").touch()
    assert "a.7.partial" in str(difference(tmp_path / "one", tmp_path / "other"))
