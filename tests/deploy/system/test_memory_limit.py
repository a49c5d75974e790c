"""``--max-memory``: when a command is ended, what it says, and what is left of it."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from segdeploy.cli.main import main
from segdeploy.cli.parser import VERBS, build_parser, subparsers_of, verbs
from segdeploy.deploy.system import memory_limit
from segdeploy.deploy.system.errors import RunError
from segdeploy.deploy.system.flag_values import memory_size
from segdeploy.deploy.system.memory_limit import memory_limited, used_bytes, working_on

MIB = 2**20
LONG_S = 20.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(memory_limit, "PERIOD_S", 0.01)
    gc.collect()  # what a test before held would be freed under the eyes of this one
    yield
    working_on("")


def wait() -> None:
    """Work that goes on and on, and can be interrupted."""
    end = time.monotonic() + LONG_S
    while time.monotonic() < end:
        time.sleep(0.01)


def grow() -> None:
    """Outgrow a limit, and go on."""
    with memory_limited(used_bytes() + 32 * MIB, to_lower=("--batch", "--threads")):
        held = np.ones(96 * MIB, np.uint8)
        wait()
    assert held.all()


def test_work_that_outgrows_the_limit_is_interrupted_and_told() -> None:
    working_on("segdeploy run, stage calibrate")
    began = time.monotonic()
    with pytest.raises(RunError) as caught:
        grow()
    assert time.monotonic() - began < LONG_S / 2
    words = str(caught.value)
    assert " MiB used in segdeploy run, stage calibrate, --max-memory allows " in words
    assert words.endswith(
        "; lower --batch or --threads, or raise the limit. What was finished is kept"
    )
    assert "\n" not in words


def test_work_within_the_limit_is_left_alone() -> None:
    with memory_limited(used_bytes() + 512 * MIB):
        time.sleep(0.1)
    with memory_limited(None):
        pass
    with pytest.raises(KeyboardInterrupt), memory_limited(used_bytes() + 512 * MIB):
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="its own"), memory_limited(used_bytes() + 512 * MIB):
        raise ValueError("its own")


def test_what_was_started_counts_and_is_ended() -> None:
    script = "import time; held = bytearray(b'x') * (96 << 20); time.sleep(60)"
    limited = memory_limited(used_bytes() + 48 * MIB)
    with subprocess.Popen([sys.executable, "-c", script]) as child:
        with pytest.raises(RunError, match="out of memory"), limited:
            wait()
        assert child.wait(timeout=LONG_S) == -9


def test_pages_that_processes_share_count_once() -> None:
    held = np.ones(64 * MIB, np.uint8)
    before = used_bytes()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:  # shares all of it until the test is over
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        assert len(memory_limit._tree()) > 1
        assert used_bytes() < before + 48 * MIB
    finally:
        os.close(writer)
        os.close(reader)
        os.waitpid(pid, 0)
    assert held.all()


def test_a_thread_that_does_not_come_back_ends_the_process_and_its_workers(tmp_path: Path) -> None:
    script = f"""if True:
        import subprocess, sys, time
        from ctypes import CDLL
        from segdeploy.deploy.system import memory_limit
        memory_limit.GRACE_S = 0.2
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
        memory_limit.working_on("segdeploy train")
        with memory_limit.memory_limited(1, to_lower=["--batch"]):
            end = time.monotonic() + 60
            while time.monotonic() < end:  # stands for a library that swallows the interruption
                try:
                    CDLL(None).usleep(10_000)
                except KeyboardInterrupt:
                    pass
    """
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("segdeploy: error: out of memory: ")
    assert "used in segdeploy train, --max-memory allows 0 MiB; lower --batch, or " in done.stderr
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int((tmp_path / "pid").read_text())).wait(timeout=LONG_S)


@pytest.mark.parametrize(
    ("text", "size"), [("1024", 1024), ("1k", 1024), ("512M", 2**29), ("1.5GiB", 1610612736)]
)
def test_sizes(text: str, size: int) -> None:
    assert memory_size(text) == size


class TestCommand:
    @pytest.mark.parametrize("size", ["", "0", "-1G", "2X", "G", "1 2", "inf"])
    def test_a_size_that_is_none_is_a_usage_error(
        self, size: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["run", f"--max-memory={size}"])
        assert caught.value.code == 2
        assert "is no amount of memory; write 512M or 2G" in capsys.readouterr().err

    def test_verbs_that_have_the_flag(self) -> None:
        for verb in verbs():
            help_text = subparsers_of(build_parser())[verb].format_help()
            assert ("--max-memory SIZE" in help_text) == VERBS[verb].limited

    def test_one_line_and_exit_code_4(
        self,
        small_onnx: Callable[..., Path],
        image_set: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def slow(items: Iterable[Any], label: str, *, unit: str) -> Iterator[Any]:
            for item in items:
                time.sleep(2)
                yield item

        monkeypatch.setattr(
            "segdeploy.api.calibrate.bar", slow
        )  # or the work is done before a look
        model = small_onnx(tmp_path / "net.onnx")
        output = tmp_path / "net.calib.json"
        words = f"calibrate -m {model} --calib-data {image_set} -o {output} --max-memory 1M"
        assert main(words.split()) == 4
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("segdeploy: error: out of memory: ")
        assert "in segdeploy calibrate, --max-memory allows 1 MiB; lower --num-samples or" in line
        assert not output.exists()
        monkeypatch.undo()
        assert main(words.replace("1M", "100G").split()) == 0

    def test_no_memory_anywhere_is_one_line(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def refuse(*arguments: object) -> tuple[int, dict[str, object]]:
            raise MemoryError("Unable to allocate 9 GiB\nfor an array")

        monkeypatch.setattr("segdeploy.cli.doctor.run", refuse)
        assert main(["doctor"]) == 4
        assert capsys.readouterr().err.splitlines() == [
            "segdeploy: error: the system has no more memory for segdeploy doctor (Unable to "
            "allocate 9 GiB for an array); lower --batch, --num-samples or --threads, or free some"
        ]
