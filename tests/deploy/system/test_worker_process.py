"""Work in a process of its own: what comes back, what is said when it fails, what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import worker_tasks

from segdeploy.calibration.errors import CalibrationError
from segdeploy.deploy.system.errors import InputError, RunError, UsageError
from segdeploy.deploy.system.memory import peak_bytes
from segdeploy.deploy.system.no_telemetry import VARIABLES
from segdeploy.deploy.system.worker_process import ALONE, WorkerProcess, call_alone

SHORT_S = 0.3
LONG_S = 60.0

Ask = Callable[..., Any]


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    process = WorkerProcess.take()
    yield process
    process.kill()


@pytest.fixture(params=["kept", "alone"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Let another process call a function, by either way there is."""
    if request.param == "alone":
        return call_alone
    worker = request.getfixturevalue("worker")
    return partial(worker.ask, limit_s=LONG_S, doing=ALONE)


class TestSameAsHere:
    def test_it_is_another_process_in_the_same_place(self, ask: Ask) -> None:
        number, folder, search = ask(worker_tasks.process_and_folder)
        assert number != os.getpid()
        assert (folder, search) == (str(Path.cwd()), sys.path)

    def test_a_kept_one_comes_along_to_another_folder(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        first = WorkerProcess.take()
        first.release()
        monkeypatch.chdir(tmp_path)
        second = WorkerProcess.take()
        assert second is first
        found = second.ask(worker_tasks.process_and_folder, limit_s=LONG_S, doing="")
        assert found == (first.pid, str(tmp_path), sys.path)
        second.kill()

    def test_much_is_sent_and_comes_back(self, ask: Ask) -> None:
        assert ask(worker_tasks.length, b"x" * 10**7) == 10**7

    def test_telemetry_stays_refused(self, ask: Ask) -> None:
        for name, value in VARIABLES.items():
            assert ask(worker_tasks.variable, name) == value

    def test_what_is_printed_there_is_no_answer(
        self, ask: Ask, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert ask(worker_tasks.say, "garbage") == "answered"
        assert capfd.readouterr().out == ""

    @pytest.mark.parametrize("name", ["segdeploy", "worker_tasks", "pickle", "deploy", "onnx"])
    def test_nothing_is_imported_from_the_working_folder(
        self, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong one')")
        monkeypatch.chdir(tmp_path)
        assert call_alone(worker_tasks.process_and_folder)[1] == str(tmp_path)

    def test_peak_memory_is_that_of_the_process_alone(self) -> None:
        held = bytearray(b"1") * 300_000_000
        assert peak_bytes() >= len(held)
        assert 5_000_000 < call_alone(worker_tasks.peak) < len(held)


class TestErrors:
    @pytest.mark.parametrize("kind", [InputError, UsageError, CalibrationError])
    def test_ours_keep_their_class_and_words(self, ask: Ask, kind: type[Exception]) -> None:
        with pytest.raises(kind, match=r"^no luck$") as caught:
            ask(worker_tasks.refuse, kind.__name__)
        assert caught.type is kind

    def test_any_other_is_told_in_words(self, ask: Ask) -> None:
        with pytest.raises(RunError, match=rf"^KeyError \('no luck'\) {ALONE}$"):
            ask(worker_tasks.refuse, "KeyError")

    def test_an_answer_that_cannot_be_sent_is_an_error(self, ask: Ask) -> None:
        with pytest.raises(RunError, match="lambda"):
            ask(worker_tasks.unpicklable)

    def test_the_process_is_there_after_an_error(self, worker: WorkerProcess) -> None:
        for _ in range(2):
            with pytest.raises(InputError):
                worker.ask(worker_tasks.refuse, "InputError", limit_s=LONG_S, doing="")
        assert worker.ask(worker_tasks.length, b"xx", limit_s=LONG_S, doing="") == 2

    @pytest.mark.parametrize(
        ("task", "reason"),
        [
            (partial(worker_tasks.leave, 7), "ended with exit 7"),
            (worker_tasks.kill, "ended by SIGKILL"),
        ],
    )
    def test_an_end_is_told(self, ask: Ask, task: Callable[[], None], reason: str) -> None:
        with pytest.raises(RunError, match=f"^{reason} {ALONE}$"):
            ask(task)

    def test_last_words_are_told_where_they_were_kept(self) -> None:
        with pytest.raises(RunError, match=f"^no luck {ALONE}$"):
            call_alone(worker_tasks.leave, "first\nno luck")


class TestLimits:
    def test_one_that_hangs_is_killed(self, worker: WorkerProcess) -> None:
        began = time.monotonic()
        with pytest.raises(RunError, match=f"^no answer within {SHORT_S:g} s in a test$"):
            worker.ask(worker_tasks.hang, limit_s=SHORT_S, doing="in a test")
        assert time.monotonic() - began < LONG_S
        assert not psutil.pid_exists(worker.pid)

    def test_who_reports_may_take_longer_than_the_limit(self) -> None:
        shares: list[float] = []
        found = call_alone(worker_tasks.steps, 0.1, 12, progress=shares.append, silence_s=1.0)
        assert found == 12
        assert shares == [(step + 1) / 12 for step in range(12)]

    def test_who_stops_to_report_is_killed(self) -> None:
        shares: list[float] = []
        with pytest.raises(RunError, match=f"^no answer within {SHORT_S:g} s"):
            call_alone(worker_tasks.report_once_and_hang, progress=shares.append, silence_s=SHORT_S)
        assert shares == [0.5]

    def test_one_that_does_not_end_is_killed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("segdeploy.deploy.system.worker_process.END_LIMIT_S", SHORT_S)
        began = time.monotonic()
        assert call_alone(worker_tasks.hang_at_the_end) == "answered"
        assert time.monotonic() - began < LONG_S


class TestNothingIsLeft:
    def test_an_interrupted_caller_ends_it(self) -> None:
        def interrupt(share: float) -> None:
            raise KeyboardInterrupt

        before = set(psutil.Process().children(recursive=True))
        with pytest.raises(KeyboardInterrupt):
            call_alone(worker_tasks.steps, 0.01, 10_000, progress=interrupt)
        assert set(psutil.Process().children(recursive=True)) <= before

    def test_one_alone_is_gone_when_it_answered(self) -> None:
        number, *_ = call_alone(worker_tasks.process_and_folder)
        assert not psutil.pid_exists(number)

    @pytest.mark.parametrize("how", ["kept", "alone"])
    def test_a_killed_parent_takes_even_one_that_hangs_along(
        self, how: str, tmp_path: Path
    ) -> None:
        file = tmp_path / "pid"
        call = {
            "kept": f"WorkerProcess.take().ask(hang, {str(file)!r}, limit_s=600, doing='')",
            "alone": f"call_alone(hang, {str(file)!r})",
        }[how]
        script = f"""if True:
            import sys
            sys.path[:0] = {sys.path!r}
            from worker_tasks import hang
            from segdeploy.deploy.system.worker_process import WorkerProcess, call_alone
            {call}"""
        parent = subprocess.Popen([sys.executable, "-c", script])
        end = time.monotonic() + LONG_S
        while not (file.exists() and file.read_text()):
            assert parent.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        hung = psutil.Process(int(file.read_text()))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert not psutil.wait_procs([hung], timeout=20)[1]
