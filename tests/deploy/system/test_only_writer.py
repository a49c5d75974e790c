"""One writer at a time, and nothing left of one that was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from segdeploy.calibration.files import atomic_writer
from segdeploy.cli.main import main
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.only_writer import is_empty, writing_file, writing_folder

HOLD = """
import sys, time
from pathlib import Path
from segdeploy.deploy.system.only_writer import writing_{kind}
with writing_{kind}(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(kind: str, path: Path) -> subprocess.Popen[str]:
    """A process that holds an output and does nothing with it."""
    code = HOLD.format(kind=kind)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_second_writer_is_refused_while_the_first_lives_and_not_when_it_was_killed(
    kind: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    hold = {"folder": writing_folder, "file": writing_file}[kind]
    with holder(kind, output) as other:
        with pytest.raises(UsageError, match=f"another process is writing to {output}"):
            hold(output).__enter__()
        other.send_signal(signal.SIGKILL)
        other.wait()
        with hold(output):
            pass
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "the lock went"


def test_two_in_one_process_are_refused_as_well(tmp_path: Path) -> None:
    with writing_folder(tmp_path), pytest.raises(UsageError), writing_folder(tmp_path):
        pass
    with writing_folder(tmp_path):
        assert is_empty(tmp_path)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match="out is a file; give a folder"):
        writing_folder(tmp_path / "out").__enter__()


def test_a_folder_to_which_nothing_was_written_goes_again(tmp_path: Path) -> None:
    with writing_folder(tmp_path / "new" / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_files_in_one_folder_have_writers_of_their_own(tmp_path: Path) -> None:
    with writing_file(tmp_path / "a.json"), writing_file(tmp_path / "b.json"):
        pass


def test_what_a_killed_writer_left_goes_and_nothing_else(tmp_path: Path) -> None:
    kept = {"net.onnx", "net.onnx.partial", "net.calib.partial.npz", "notes.1.txt", "a.json"}
    for name in (*kept, "net.onnx.123.partial", "a.json.7.partial", "b.json.7.partial"):
        (tmp_path / name).touch()
    with writing_file(tmp_path / "a.json"):
        assert not (tmp_path / "a.json.7.partial").exists()
        assert (tmp_path / "b.json.7.partial").exists(), "another file's writer may be alive"
    with writing_folder(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == kept | {".lock"}


def test_a_failed_write_leaves_the_old_file_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")

    def write_half() -> None:
        with atomic_writer(path) as stream:
            stream.write(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"net\.onnx"):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_each_verb_that_writes_a_folder_refuses_a_second_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with writing_folder(tmp_path / "out"):
        assert main(["run", "-o", str(tmp_path / "out"), "--num-samples", "2"]) == 2
    assert f"another process is writing to {tmp_path / 'out'}" in capsys.readouterr().err
