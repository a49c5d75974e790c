"""What a benchmark says of its own noise: of other processes, and of rankings that are luck."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from typing import Any

import numpy as np
import psutil
import pytest
from report_builders import compared_row, report_of, sample_report, timed

from segdeploy.benchmarks.parity.records import ParityRow, ParitySection
from segdeploy.benchmarks.report.html import html
from segdeploy.benchmarks.report.markdown import markdown
from segdeploy.benchmarks.report.schema import report_schema
from segdeploy.benchmarks.report.templates import escape
from segdeploy.benchmarks.speed.contention import OtherLoad, Sample, percent_of_others, sample
from segdeploy.benchmarks.speed.fastest import Fastest
from segdeploy.benchmarks.speed.records import BenchmarkRow, BenchmarkSection
from segdeploy.benchmarks.speed.timing_noise import (
    noise_lines,
    noise_words,
    ratio_interval,
    resolution_percent,
    within_noise,
)
from segdeploy.calibration.json_record import record_of
from segdeploy.deploy.runtimes.registry import RuntimeName, usable_cores
from segdeploy.pipeline.run_report import recommend

jsonschema: Any = importlib.import_module("jsonschema")  # ships no type stubs
ROUNDS = 60


def drawn(mean_ms: float, *, noise: float, seed: int, rounds: int = ROUNDS) -> list[float]:
    """Latencies around a mean, each off by its own factor."""
    factors = np.exp(np.random.default_rng(seed).normal(0, noise, rounds))
    return [float(sample) for sample in mean_ms / 1e3 * factors]


def row(name: str, latencies_s: list[float] | None, **changes: Any) -> BenchmarkRow:
    p50_ms = None if latencies_s is None else 1e3 * float(np.median(latencies_s))
    return timed(name, 1, p50_ms, latencies_s=latencies_s, file=f"{name}.onnx", **changes)


class TestRatios:
    def test_a_slow_moment_of_the_machine_cancels(self) -> None:
        moment = np.random.default_rng(0).uniform(1, 5, ROUNDS)
        ends = ratio_interval(list(moment), list(1.2 * moment))
        assert ends == pytest.approx((1.2, 1.2))

    def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says(self) -> None:
        held = 0
        for trial in range(100):
            one = drawn(10, noise=0.2, seed=2 * trial)
            low, high = ratio_interval(one, drawn(11, noise=0.2, seed=2 * trial + 1)) or (0, 0)
            held += low <= 1.1 <= high
        assert 88 <= held <= 100

    def test_more_rounds_resolve_more(self) -> None:
        found = [
            resolution_percent(
                [row(n, drawn(10, noise=0.1, seed=s, rounds=r)) for s, n in enumerate("ab")]
            )
            for r in (20, 2000)
        ]
        assert found[0] is not None
        assert found[1] is not None
        assert found[1] < found[0] / 4

    @pytest.mark.parametrize(("one", "other"), [([1.0], [2.0]), ([1.0, 2.0], [1.0]), ([], [])])
    def test_without_rounds_in_common_there_is_none(
        self, one: list[float], other: list[float]
    ) -> None:
        assert ratio_interval(one, other) is None

    def test_slices_of_a_throughput_are_rounds_too(self) -> None:
        rows = [
            row(
                n,
                None,
                hint="throughput",
                images_per_s=9.0,
                completions_s=[[0.1, scale * k] for k in (0.2, 0.3)],
            )
            for n, scale in (("a", 1.0), ("b", 2.0))
        ]
        assert resolution_percent(rows) == pytest.approx(0, abs=1e-9)


class TestWords:
    def test_steady_rows_need_no_warning(self) -> None:
        rows = [row(n, drawn(ms, noise=0.02, seed=ms)) for n, ms in (("a", 10), ("b", 12))]
        resolution = resolution_percent(rows)
        assert resolution is not None
        assert resolution < 1
        assert noise_words(other_cpu_percent=3.0, resolution_percent=resolution) is None
        assert within_noise(rows[0], rows[1:]) == []

    def test_noisy_rows_do(self) -> None:
        rows = [row(n, drawn(10, noise=0.5, seed=s)) for s, n in enumerate("ab")]
        resolution = resolution_percent(rows)
        assert resolution is not None
        words = noise_words(other_cpu_percent=None, resolution_percent=resolution)
        assert words == f"noise: differences under {int(resolution) + 1} % mean nothing here"
        assert within_noise(rows[0], rows[1:]) == ["b"]

    def test_pytorch_counts_only_beside_a_single_candidate(self) -> None:
        eager = row("eager", drawn(50, noise=0.5, seed=0), runtime="pytorch")
        steady = [row(n, drawn(10, noise=0.01, seed=s)) for s, n in enumerate("ab")]
        resolution = [resolution_percent([eager, *steady[:few]]) for few in (0, 1, 2)]
        assert resolution[0] is None
        assert resolution[1] is not None
        assert resolution[2] is not None
        assert resolution[2] < 1 < resolution[1]

    def test_a_busy_machine_is_named_even_where_the_ranking_is_resolved(self) -> None:
        assert noise_words(other_cpu_percent=38.4, resolution_percent=2.5) == (
            "noise: other processes used 38 % of the CPU while this was timed; differences under "
            "3 % mean nothing here"
        )
        assert noise_words(other_cpu_percent=38.4, resolution_percent=None) == (
            "noise: other processes used 38 % of the CPU while this was timed"
        )


class TestRecommendation:
    def told(self, *rows: BenchmarkRow) -> str:
        compared = tuple(
            record_of(
                compared_row(row.name, 0.0, 0.0, 0.0, file=row.file, passed=row.name != "lost"),
                ParityRow,
                whole="the row",
            )
            for row in rows
        )
        parity = ParitySection(
            reference="PyTorch", max_drop_percentage_points=0.1, images=2, rows=compared
        )
        found = recommend(parity, BenchmarkSection(duration_s=1.0, warmup=1, rows=rows))
        assert found is not None
        assert found.file == "a.onnx"
        return found.reason

    def test_it_names_what_cannot_be_told_from_the_fastest(self) -> None:
        fastest = row("a", drawn(10, noise=0.3, seed=1))
        shuffled = np.random.default_rng(2).permutation(fastest.latencies_s or ())
        close = row("b", [1.02 * float(seconds) for seconds in shuffled])
        far = row("c", drawn(30, noise=0.3, seed=3))
        lost = row("lost", drawn(10.2, noise=0.3, seed=4))
        assert self.told(fastest, close, far, lost) == (
            "the fastest at batch 1 of the 3 that passed and were timed, within noise of b"
        )

    def test_it_is_silent_where_the_fastest_is(self) -> None:
        rows = [row(n, drawn(ms, noise=0.05, seed=ms)) for n, ms in (("a", 10), ("b", 12))]
        assert self.told(*rows) == "the fastest at batch 1 of the 2 that passed and were timed"

    def test_runtime_auto_says_so_too(self) -> None:
        ort, openvino = RuntimeName.ONNXRUNTIME, RuntimeName.OPENVINO
        found = Fastest(p50_ms={ort: 2.0, openvino: 2.125}, refused={}, alike=(openvino,))
        assert found.words == "ONNX Runtime 2.00 ms, OpenVINO 2.12 ms (within noise)"


class TestPages:
    def report(self, *, noisy: bool) -> dict[str, Any]:
        report = sample_report()
        setting = {"hint": "latency", "batch": 8, "threads": 2, "streams": 1}
        figures = {"other_cpu_percent": 38.2, "resolution_percent": 8.6}
        quiet = {"other_cpu_percent": None, "resolution_percent": None}
        conditions = [setting | {"batch": 1} | quiet, setting | (figures if noisy else quiet)]
        report["benchmark"]["conditions"] = conditions
        return report

    def test_the_line_stands_on_every_page_and_only_when_it_must(self) -> None:
        line = (
            "batch 8, threads 2, streams 1: noise: other processes used 38 % of the CPU while this "
            "was timed; differences under 9 % mean nothing here"
        )
        noisy, quiet = (report_of(self.report(noisy=each)) for each in (True, False))
        assert noise_lines(noisy.benchmark) == [line]
        assert noise_lines(quiet.benchmark) == noise_lines(None) == []
        words = {"word": "PASS", "verdict": "It is well."}
        assert markdown(noisy, **words).count(escape(line)) == 1
        assert "noise: " not in markdown(quiet, **words)
        assert html(noisy, word="PASS").count(line) == 1
        assert "noise: " not in html(quiet, word="PASS")

    def test_the_schema_accepts_it_and_refuses_what_cannot_be(self) -> None:
        schema = report_schema()
        report = self.report(noisy=True)
        jsonschema.validate(report, schema, cls=jsonschema.Draft202012Validator)
        report["benchmark"]["conditions"][0]["other_cpu_percent"] = 101
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(report, schema, cls=jsonschema.Draft202012Validator)


class TestOtherLoad:
    def test_nothing_is_told_of_an_instant_or_of_a_system_that_does_not_count(self) -> None:
        start = Sample(clock_s=0.0, busy_s=5.0, own_s=0.0)
        for clock_s, busy_s in ((0.1, 5.1), (10.0, 5.0)):
            end = Sample(clock_s=clock_s, busy_s=busy_s, own_s=0.0)
            assert percent_of_others(start, end, cores=2) is None

    def test_shares_stay_shares_whatever_the_clocks_say(self) -> None:
        start = Sample(clock_s=0.0, busy_s=0.0, own_s=0.0)
        more_own = Sample(clock_s=1.0, busy_s=1.0, own_s=1.1)
        more_busy = Sample(clock_s=1.0, busy_s=9.0, own_s=0.0)
        assert percent_of_others(start, more_own, cores=1) == 0
        assert percent_of_others(start, more_busy, cores=1) == 100

    def test_own_time_counts_what_was_started_and_has_ended(self) -> None:
        before = sample()
        script = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: 0"
        subprocess.run([sys.executable, "-c", script], check=True)
        assert sample().own_s - before.own_s >= 0.2

    def test_a_busy_loop_in_a_process_of_somebody_else_is_seen(self) -> None:
        loop = "import time; end = time.monotonic() + 10\nwhile time.monotonic() < end: pass"
        loops = max(1, usable_cores() // 2)
        script = f"""if True:
            import subprocess, sys
            for _ in range({loops}):
                command = [sys.executable, "-c", {loop!r}]
                print(subprocess.Popen(command, stdout=subprocess.DEVNULL).pid)
        """
        told = subprocess.run(
            [sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True
        )
        processes = [psutil.Process(int(pid)) for pid in told.stdout.split()]
        try:
            with OtherLoad() as load:
                time.sleep(1.0)
            used = sum(process.cpu_times().user for process in processes)
        finally:
            for process in processes:
                process.kill()
        assert load.percent is not None
        assert load.percent >= 100 * 0.5 * min(used, loops) / usable_cores()
        assert load.percent >= 10
