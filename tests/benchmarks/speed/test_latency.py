from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segdeploy.benchmarks.speed.latency import (
    MOST_REST,
    REST_S,
    BenchmarkResult,
    Candidate,
    measure,
)
from segdeploy.benchmarks.speed.records import Setting
from segdeploy.benchmarks.speed.sweep import Sweep
from segdeploy.benchmarks.speed.throughput import MIN_SLICES, ThroughputResult, measure_throughput
from segdeploy.deploy.onnx_model.artifact import Precision, TensorSpec
from segdeploy.deploy.runtimes.base import Executed, Execution, Feeds, Hint, Layer, infer_threaded
from segdeploy.deploy.system.errors import RunError, UsageError


class Clock:
    """A clock that only moves when a fake runtime works."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeRuntime:
    """Takes the next of its scripted seconds for each call and notes the call in a shared log."""

    inputs: tuple[TensorSpec, ...] = (TensorSpec(name="x", shape=("batch", 1), dtype="float32"),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec(name="y", shape=("batch", 1), dtype="float32"),)
    execution = Execution(threads=2)
    executed = Executed(
        layers=(Layer(name="c", operator="Conv", precision="fp32", macs=8),),
        requested=Precision.FP16,
    )

    def __init__(self, name: str, clock: Clock, log: list[str], seconds: Iterator[float]) -> None:
        self.name = name
        self.clock = clock
        self.log = log
        self.seconds = seconds
        self.collector_was_on: set[bool] = set()

    def infer(self, feeds: Feeds) -> dict[str, NDArray[np.float32]]:
        self.log.append(self.name)
        self.collector_was_on.add(gc.isenabled())
        self.clock.now += next(self.seconds)
        return {"y": feeds["x"]}

    def infer_many(self, batches: Iterable[Feeds]) -> Iterator[dict[str, NDArray[np.float32]]]:
        return map(self.infer, batches)

    def __enter__(self) -> FakeRuntime:
        return self

    def __exit__(self, *error: object) -> None: ...


def forever(*seconds: float) -> Iterator[float]:
    while True:
        yield from seconds


class Bench:
    """Fake candidates that share a clock and a log."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.log: list[str] = []
        self.rests: list[float] = []
        self.runtimes: dict[str, FakeRuntime] = {}

    def add(self, name: str, *seconds: float, batch: int = 1) -> Candidate:
        runtime = FakeRuntime(name, self.clock, self.log, forever(*seconds))
        self.runtimes[name] = runtime
        feeds = {"x": np.zeros((batch, 1), np.float32)}
        return Candidate(
            name=f"net.{name}", runtime=runtime, feeds=feeds, precision_requested=Precision.FP16
        )

    def measure(
        self, *candidates: Candidate, warmup: int = 0, duration_s: float = 0, min_samples: int = 1
    ) -> list[BenchmarkResult]:
        return measure(
            candidates,
            warmup=warmup,
            duration_s=duration_s,
            min_samples=min_samples,
            clock=self.clock,
            rest=self.rests.append,
        )


def result_of(*latencies_s: float, batch: int = 1) -> BenchmarkResult:
    return BenchmarkResult(
        artifact="net",
        runtime="fake",
        precision_requested=Precision.FP32,
        precision_executed="fp32",
        batch=batch,
        threads=1,
        streams=1,
        latencies_s=latencies_s,
    )


def test_candidates_warm_up_first_and_then_take_turns() -> None:
    bench = Bench()
    bench.measure(
        bench.add("A", 0.1), bench.add("B", 0.2), bench.add("C", 0.3), warmup=2, min_samples=3
    )
    assert "".join(bench.log) == "AABBCC" + 3 * "ABC"
    assert bench.rests == [REST_S] * 9, "one before each timed call, none while warming up"


def test_samples_are_the_time_of_each_call_without_the_warmup() -> None:
    bench = Bench()
    first, second = bench.measure(
        bench.add("A", 9.0, 0.1, 0.2), bench.add("B", 5.0, 0.5), warmup=1, min_samples=2
    )
    assert first.latencies_s == pytest.approx((0.1, 0.2))
    assert second.latencies_s == pytest.approx((0.5, 5.0))


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.sampled_from([0.125, 0.25, 0.5]), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.5, 3.0]),
    st.integers(1, 6),
)
def test_rounds_last_as_asked_and_every_candidate_gets_as_many_calls(
    seconds: list[float], duration_s: float, min_samples: int
) -> None:
    bench = Bench()
    candidates = [bench.add(str(i), s) for i, s in enumerate(seconds)]
    results = bench.measure(*candidates, duration_s=duration_s, min_samples=min_samples)
    rounds = len(results[0].latencies_s)
    assert all(len(result.latencies_s) == rounds for result in results)
    needed = -(-duration_s * len(seconds) // sum(seconds))
    assert rounds == max(min_samples, needed)
    assert [result.artifact for result in results] == [c.name for c in candidates]


def test_between_short_calls_the_rests_end_it_and_not_the_calls() -> None:
    bench = Bench()
    candidates = [bench.add("A", 0.0001), bench.add("B", 0.0003)]
    results = bench.measure(*candidates, duration_s=1.0, min_samples=10)
    rounds = round(MOST_REST / REST_S)
    assert [len(result.latencies_s) for result in results] == [rounds, rounds]
    assert len(bench.rests) == 2 * rounds


def test_the_result_says_what_ran() -> None:
    bench = Bench()
    (result,) = bench.measure(bench.add("A", 0.01, batch=8), min_samples=4)
    assert (result.runtime, result.batch, result.threads, result.streams) == ("A", 8, 2, 1)
    assert result.precision_requested is Precision.FP16
    assert result.precision_executed == "fp32 (weights stored in fp16)"
    assert result.images_per_s == pytest.approx(800)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_pauses_and_is_left_as_found(enabled: bool) -> None:
    bench = Bench()
    candidate = bench.add("A", 0.1)
    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        bench.measure(candidate, min_samples=2)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()
    assert bench.runtimes["A"].collector_was_on == {False}


def test_a_failing_runtime_ends_the_run_and_the_collector_comes_back() -> None:
    class Broken(FakeRuntime):
        def infer(self, feeds: Feeds) -> dict[str, NDArray[np.float32]]:
            raise RunError("device lost")

    bench = Bench()
    broken = Broken("B", bench.clock, bench.log, forever(0.1))
    candidate = Candidate(
        name="b",
        runtime=broken,
        feeds={"x": np.zeros((1, 1), np.float32)},
        precision_requested=Precision.FP32,
    )
    assert gc.isenabled()
    with pytest.raises(RunError, match="device lost"):
        bench.measure(candidate)
    assert gc.isenabled()


def test_progress_rises_to_one_outside_the_timed_calls() -> None:
    bench = Bench()
    seen: list[float] = []

    def slow_progress(done: float) -> None:
        seen.append(done)
        bench.clock.now += 7.0

    candidates = [bench.add("A", 0.1), bench.add("B", 0.1)]
    results = measure(
        candidates,
        warmup=0,
        duration_s=0,
        min_samples=4,
        progress=slow_progress,
        clock=bench.clock,
    )
    assert seen == [0.25, 0.5, 0.75, 1.0]
    assert all(s == pytest.approx(0.1) for result in results for s in result.latencies_s)


def test_real_time_is_measured_by_default() -> None:
    bench = Bench()
    (result,) = measure([bench.add("A", 0.0)], warmup=0, duration_s=0, min_samples=3)
    assert len(result.latencies_s) == 3
    assert all(0 < sample < 1 for sample in result.latencies_s)


@settings(deadline=None)
@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=50), st.integers(1, 16))
def test_percentiles_rise_within_the_samples_and_scale_with_them(
    samples: list[float], batch: int
) -> None:
    result = result_of(*samples, batch=batch)
    values = [1e3 * min(samples), result.p50_ms, result.p90_ms, result.p99_ms, 1e3 * max(samples)]
    assert all(a <= b * (1 + 1e-12) for a, b in pairwise(values))
    doubled = result_of(*(2 * sample for sample in samples), batch=batch)
    assert doubled.p90_ms == pytest.approx(2 * result.p90_ms)
    assert doubled.images_per_s == pytest.approx(result.images_per_s / 2)
    assert doubled.noise_percent == pytest.approx(result.noise_percent, abs=1e-6)


def test_percentiles_of_a_hundred_and_one_samples() -> None:
    result = result_of(*(0.001 * i for i in range(100, 201)))
    assert result.p50_ms == pytest.approx(150)
    assert result.p90_ms == pytest.approx(190)
    assert result.p99_ms == pytest.approx(199)
    assert result.noise_percent == pytest.approx(100 * 50 / 150)
    assert result.noisy
    assert not result_of(0.01, 0.01, 0.0101).noisy


def test_a_result_goes_through_json_unchanged() -> None:
    result = result_of(0.1, 0.25)
    fields = json.loads(json.dumps(asdict(result)))
    fields["precision_requested"] = Precision(fields["precision_requested"])
    fields["latencies_s"] = tuple(fields["latencies_s"])
    assert BenchmarkResult(**fields) == result


@pytest.mark.parametrize("samples", [(), (0.1, 0.0), (0.1, float("nan")), (-0.1,)])
def test_impossible_samples_are_refused(samples: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="latencies above zero"):
        result_of(*samples)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="batch 0"):
        result_of(0.1, batch=0)


@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"x": np.zeros((0, 1), np.float32)},
        {"x": np.zeros((1, 1), np.float32), "z": np.zeros((2, 1), np.float32)},
    ],
)
def test_feeds_need_one_batch_size(feeds: dict[str, NDArray[np.float32]]) -> None:
    runtime = FakeRuntime("A", Clock(), [], forever(0.1))
    with pytest.raises(UsageError, match="batch sizes"):
        Candidate(name="a", runtime=runtime, feeds=feeds, precision_requested=Precision.FP32)


@pytest.mark.parametrize(
    ("warmup", "duration_s", "min_samples"), [(-1, 1.0, 1), (0, -1.0, 1), (0, 1.0, 0)]
)
def test_impossible_settings_are_refused(warmup: int, duration_s: float, min_samples: int) -> None:
    bench = Bench()
    candidate = bench.add("A", 0.1)
    with pytest.raises(UsageError, match="cannot time 1 candidates"):
        bench.measure(candidate, warmup=warmup, duration_s=duration_s, min_samples=min_samples)
    with pytest.raises(UsageError, match="cannot time 0 candidates"):
        bench.measure()


class TestThroughput:
    """Images a second with every stream busy."""

    def test_candidates_warm_up_and_then_take_turns_in_slices(self) -> None:
        bench = Bench()
        candidates = [bench.add("A", 0.25, batch=4), bench.add("B", 0.125, batch=4)]
        results = measure_throughput(candidates, warmup=2, duration_s=2, clock=bench.clock)
        assert "".join(bench.log) == "AABB" + 4 * "AABBBB"
        assert [result.images_per_s for result in results] == pytest.approx([16, 32])
        assert [result.noise_percent for result in results] == pytest.approx([0, 0])
        assert results[0].completions_s == 4 * (pytest.approx((0.25, 0.5)),)
        assert [result.artifact for result in results] == ["net.A", "net.B"]

    @settings(max_examples=15, deadline=None)
    @given(st.sampled_from([0.0, 0.25, 1.0, 3.0]), st.sampled_from([0.125, 0.25, 4.0]))
    def test_slices_are_many_enough_and_never_empty(self, duration_s: float, call_s: float) -> None:
        bench = Bench()
        candidates = [bench.add("A", call_s), bench.add("B", call_s)]
        results = measure_throughput(candidates, warmup=0, duration_s=duration_s, clock=bench.clock)
        counts = [len(result.completions_s) for result in results]
        assert counts[0] == counts[1] >= MIN_SLICES
        for result in results:
            streams = FakeRuntime.execution.streams
            assert all(len(stamps) >= streams for stamps in result.completions_s)
            assert result.images_per_s == pytest.approx(1 / call_s)

    def test_every_stream_is_kept_busy(self) -> None:
        together = threading.Barrier(3, timeout=20)

        class Parallel(FakeRuntime):
            """Answers only when three requests are in flight."""

            execution = Execution(threads=3, streams=3)

            def infer(self, feeds: Feeds) -> dict[str, NDArray[np.float32]]:
                together.wait()
                return {"y": feeds["x"]}

            def infer_many(
                self, batches: Iterable[Feeds]
            ) -> Iterator[dict[str, NDArray[np.float32]]]:
                threes = (batch for batch in batches for _ in range(3))
                return infer_threaded(self.infer, threes, streams=3)

        runtime = Parallel("P", Clock(), [], forever(0.0))
        candidate = Candidate(
            name="p",
            runtime=runtime,
            feeds={"x": np.zeros((1, 1), np.float32)},
            precision_requested=Precision.FP32,
        )
        (result,) = measure_throughput([candidate], warmup=1, duration_s=0.0)
        assert all(len(stamps) >= 3 for stamps in result.completions_s)

    def test_noise_is_the_spread_between_slices(self) -> None:
        stamps = tuple((0.5, seconds) for seconds in (1.0, 1.0, 1.25, 2.0, 2.0))
        result = ThroughputResult(artifact="net", batch=2, completions_s=stamps)
        assert result.images_per_s == pytest.approx(2 * 10 / 7.25)
        assert result.noise_percent == pytest.approx(100 * (2 - 1) / 1.6)
        assert result.noisy

    def test_the_collector_pauses_and_progress_ends_at_one(self) -> None:
        bench = Bench()
        shares: list[float] = []
        assert gc.isenabled()
        measure_throughput(
            [bench.add("A", 0.1)], warmup=0, duration_s=1, progress=shares.append, clock=bench.clock
        )
        assert gc.isenabled()
        assert bench.runtimes["A"].collector_was_on == {False}
        assert shares == sorted(shares)
        assert shares[-1] == 1

    @pytest.mark.parametrize("stamps", [(), ((),), ((0.2, 0.1),), ((0.0,),), ((float("nan"),),)])
    def test_stamps_that_cannot_be_are_refused(self, stamps: tuple[tuple[float, ...], ...]) -> None:
        with pytest.raises(ValueError, match="net"):
            ThroughputResult(artifact="net", batch=1, completions_s=stamps)

    @pytest.mark.parametrize(("warmup", "duration_s"), [(-1, 1.0), (0, -1.0), (0, float("inf"))])
    def test_impossible_settings_are_refused(self, warmup: int, duration_s: float) -> None:
        with pytest.raises(UsageError, match="cannot time 1 candidates"):
            measure_throughput([Bench().add("A", 0.1)], warmup=warmup, duration_s=duration_s)
        with pytest.raises(UsageError, match="cannot time 0 candidates"):
            measure_throughput([], warmup=0, duration_s=1)


class TestSweep:
    """The settings that are gone through."""

    @given(
        st.lists(st.integers(1, 8), min_size=1, max_size=3),
        st.lists(st.integers(1, 4), min_size=1, max_size=3),
        st.lists(st.integers(1, 4), min_size=1, max_size=3),
    )
    def test_every_setting_comes_once_and_an_impossible_one_says_why(
        self, batches: list[int], threads: list[int], streams: list[int]
    ) -> None:
        sweep = Sweep(
            batches=tuple(batches),
            threads=tuple(threads),
            streams=tuple(streams),
            hint=Hint.THROUGHPUT,
        )
        points = list(sweep.points())
        found = [(point.batch, point.threads, point.streams) for point in points]
        assert sorted(found) == sorted(
            {(b, t, s) for b in batches for t in threads for s in streams}
        )
        for point in points:
            assert (point.execution is None) == (point.streams > point.threads)
            if point.execution is None:
                assert f"{point.streams} streams cannot share" in str(point.skipped)
            else:
                assert point.skipped is None
                assert point.setting == Setting(
                    hint=Hint.THROUGHPUT,
                    batch=point.execution.batch,
                    threads=point.execution.threads,
                    streams=point.execution.streams,
                )

    def test_streams_default_to_what_the_hint_needs(self) -> None:
        latency = Sweep(threads=(1, 4))
        throughput = Sweep(threads=(1, 4), hint=Hint.THROUGHPUT)
        assert [point.streams for point in latency.points()] == [1, 1]
        assert [point.streams for point in throughput.points()] == [1, 4]

    def test_several_streams_need_the_throughput_hint(self) -> None:
        with pytest.raises(UsageError, match=r"--streams 1 2 .*; add --hint throughput"):
            Sweep(threads=(2,), streams=(1, 2))
        with pytest.raises(UsageError, match="at least one"):
            Sweep(threads=())
