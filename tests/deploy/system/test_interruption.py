from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from segdeploy.cli.main import main
from segdeploy.deploy.system.errors import RunError
from segdeploy.deploy.system.interruption import Interrupted, begun, held_back, interruptible

SLOW = """
import os, signal, sys, time
from segdeploy.deploy.system.command import guarded
class Lost:
    def __del__(self):
        {finalizer}
def work():
    {work}
    time.sleep(10)
    return 0
sys.exit(guarded("program", work, to_the_end=True))
"""
SEND = "os.kill(os.getpid(), signal.SIGINT)"


def ended(*, work: str, finalizer: str = "pass") -> subprocess.CompletedProcess[str]:
    code = SLOW.format(work=work, finalizer=finalizer)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_once_and_the_second_is_patiently_ignored(number: int) -> None:
    before = signal.getsignal(number)
    with interruptible(to_the_end=False) as found:
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
    assert found.number == number
    assert signal.getsignal(number) == before


def test_one_that_comes_while_processes_start_waits_until_they_have() -> None:
    started = []

    def start() -> None:
        with held_back():
            os.kill(os.getpid(), signal.SIGTERM)
            started.append("worker")

    with interruptible(to_the_end=False) as found, pytest.raises(Interrupted):
        start()
    assert started == ["worker"]
    assert found.number == signal.SIGTERM


def test_the_third_ends_the_process_at_once() -> None:
    work = f"""
    try:
        {SEND}
    finally:
        {SEND}
        {SEND}"""
    assert ended(work=work).returncode == -signal.SIGINT


def test_one_that_is_lost_in_a_finalizer_comes_again() -> None:
    done = ended(work="lost = Lost(); del lost", finalizer=SEND)
    assert done.returncode == 130
    assert done.stderr == "interrupted; what was finished is kept. To go on: the same command\n"


def test_what_native_code_made_of_it_is_still_an_interruption() -> None:
    work = f"""
    try:
        {SEND}
    except KeyboardInterrupt as error:
        raise ValueError("error_already_set") from error"""
    done = ended(work=work)
    assert (done.returncode, "Traceback" in done.stderr) == (130, False)


@pytest.mark.parametrize("started", [True, False])
def test_overwriting_is_not_told_again_once_the_output_is_its_own(
    started: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(options: object, arguments: object) -> None:
        if not started:
            raise Interrupted
        with begun():
            raise Interrupted

    monkeypatch.setattr("segdeploy.cli.run.run", interrupted)
    assert main(["run", "--overwrite", "-o", str(tmp_path)]) == 130
    flag = "" if started else "--overwrite "
    assert capsys.readouterr().err.endswith(f"To go on: segdeploy run {flag}-o {tmp_path}\n")


def test_what_does_not_go_on_is_told_to_replace_what_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(options: object, arguments: object) -> None:
        raise Interrupted

    monkeypatch.setattr("segdeploy.cli.benchmark.run", interrupted)
    words = ["benchmark", "net.onnx", "--end-to-end", "images", "-o", str(tmp_path)]
    assert main(words) == 130
    shown = f"To go on: segdeploy {' '.join(words)} --overwrite\n"
    assert capsys.readouterr().err.endswith(shown)


def test_begun_leaves_other_errors_alone() -> None:
    with pytest.raises(RunError), begun():
        raise RunError("broken")
