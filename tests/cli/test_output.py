"""What goes where: answers on standard output, notes on standard error, JSON alone where asked."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from segdeploy.cli.main import main
from segdeploy.deploy.system import progress
from segdeploy.deploy.system.command import Terminal
from segdeploy.deploy.system.errors import InputError


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_answer_is_on_standard_output(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capsys, "verify", finished_run)
    assert (code, err) == (0, "")
    assert out.endswith("files, unchanged\n")


def test_with_json_only_json_is_on_standard_output(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, words, _ = said(capsys, "verify", finished_run)
    code, out, err = said(capsys, "verify", finished_run, "--format", "json")
    assert code == 0
    assert json.loads(out)["kind"] == "run"
    assert err == words


def test_an_error_is_on_standard_error_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capsys, "verify", tmp_path / "absent")
    assert (code, out) == (3, "")
    assert len(err.splitlines()) == 1


def test_quiet_leaves_the_answer_and_takes_the_notes(
    raw_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("data", "prepare", raw_set, "-o")
    loud = said(capsys, *command, tmp_path / "a")
    quiet = said(capsys, *command, tmp_path / "b", "-q")
    assert "laid out as dsb2018" in loud[2]
    assert quiet == (0, loud[1].replace(str(tmp_path / "a"), str(tmp_path / "b")), "")
    assert progress._hidden() is True


def test_verbose_shows_where_an_error_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capsys, "verify", tmp_path / "absent", "-v")
    assert (code, out) == (3, "")
    assert err.startswith("segdeploy: error: ")
    assert "Traceback (most recent call last)" in err
    assert InputError.__name__ in err


@pytest.mark.parametrize(
    ("name", "level", "json_asked", "stream"),
    [
        ("segdeploy.cli.doctor", logging.INFO, False, "out"),
        ("segdeploy.cli.doctor", logging.INFO, True, "err"),
        ("segdeploy.cli.doctor", logging.WARNING, False, "err"),
        ("segdeploy.pipeline.run", logging.INFO, False, "err"),
        ("segdeploy.clip", logging.INFO, False, "err"),
        ("torch", logging.ERROR, False, "err"),
    ],
)
def test_each_line_has_one_place(
    name: str,
    level: int,
    json_asked: bool,
    stream: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal = Terminal()
    terminal.json = json_asked
    terminal.emit(logging.LogRecord(name, level, "", 1, "%s words", ("two",), None))
    captured = capsys.readouterr()
    other = captured.err if stream == "out" else captured.out
    assert (getattr(captured, stream), other) == ("two words\n", "")


def test_a_letter_that_the_terminal_lacks_is_an_escape() -> None:
    script = (
        "import logging\n"
        "from segdeploy.deploy.system.command import Terminal\n"
        "record = logging.LogRecord('segdeploy.cli.x', logging.INFO, '', 1, 'caf\\xe9', (), None)\n"
        "Terminal().emit(record)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=True,
        env={"PYTHONIOENCODING": "ascii"},
    )
    assert found.stdout == b"caf\\xe9\n"


def test_a_reader_that_leaves_ends_the_command_without_a_word() -> None:
    command = f"{sys.executable} -m segdeploy doctor | true"
    found = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (found.stdout, found.stderr) == ("", "")
