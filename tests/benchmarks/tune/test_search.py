"""The search on a simulated device: a cost model in place of a clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from segdeploy.benchmarks.speed.blocks import Blocks, Timed, take_turns
from segdeploy.benchmarks.tune.choices import Choice
from segdeploy.benchmarks.tune.search import Look, Tuned, TuneSearch, Verdict
from segdeploy.benchmarks.tune.state import Outcome, TuneState
from segdeploy.deploy.quantize.qdq_placement import QdqPlacement
from segdeploy.deploy.runtimes.timing import block_of
from segdeploy.deploy.system.errors import InputError, RunError

BASE_S = 0.010


def names(placement: QdqPlacement) -> set[str]:
    return set(chain.from_iterable(getattr(placement, f.name) for f in fields(placement)))


@dataclass
class Simulated:
    """A device on which each departure costs or saves so many seconds of 10 ms."""

    costs: Mapping[str, float]
    noise: float = 0.002
    drift: float = 1.0
    invisible: frozenset[str] = frozenset()
    spoils: frozenset[str] = frozenset()
    breaks: frozenset[str] = frozenset()
    now: float = 0.0
    timed: list[QdqPlacement] = field(default_factory=list)
    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def clock(self) -> float:
        return self.now

    def seconds(self, placement: QdqPlacement) -> float:
        return BASE_S + sum(self.costs.get(name, 0.0) for name in names(placement))

    def look(self, placement: QdqPlacement) -> Look:
        self.now += 1.0
        if names(placement) & self.breaks:
            raise InputError("the runtime does not accept it")
        seen = sorted(names(placement) - self.invisible)
        return Look(fingerprint=" ".join(seen), operators=dict.fromkeys(seen, 1))

    def compare(
        self,
        one: QdqPlacement,
        other: QdqPlacement,
        *,
        rounds: int,
        enough: Callable[[Sequence[Blocks]], bool] | None,
    ) -> tuple[Blocks, Blocks]:
        self.timed.append(other)

        def timed(placement: QdqPlacement) -> Timed:
            def call() -> float:
                self.drift *= float(np.exp(self.generator.normal(0, 0.002)))
                spent = self.seconds(placement) * self.drift
                spent *= float(np.exp(self.generator.normal(0, self.noise)))
                self.now += spent
                return spent

            return Timed(name="x", block=partial(block_of, call))

        found = take_turns(
            [timed(one), timed(other)], rounds=rounds, enough=enough, rest=lambda _: None
        )
        return found[0], found[1]

    def judge(self, placement: QdqPlacement) -> Verdict:
        self.now += 2.0
        return Verdict(kept=not names(placement) & self.spoils, words="judged")


def choice(pattern: str, name: str, elements: int = 1) -> Choice:
    kind = pattern.split()[0]
    return Choice(pattern=pattern, change=QdqPlacement(**{kind: (name,)}), elements=elements)


CHOICES = (
    *(choice("in_float MaxPool", f"pool{n}", n) for n in range(4)),
    *(choice("own_scales Concat", f"cat{n}", n) for n in range(4)),
    choice("unpaired Resize", "up"),
    choice("in_float first layer", "first"),
)
COSTS = {"pool0": -0.0004, "pool1": 0.0009, "pool2": -0.0005, "pool3": 0.0007, "first": 0.002}
COSTS |= {"cat0": -0.0003, "cat1": -0.0003, "cat2": -0.0004, "cat3": -0.0002, "up": 0.0}
BEST = {"pool0", "pool2", "cat0", "cat1", "cat2", "cat3"}


def search(
    bench: Simulated,
    path: Path,
    *,
    budget_s: float = 1000.0,
    prior: Callable[[str], float | None] = lambda _: None,
) -> Tuned:
    path.mkdir(exist_ok=True)
    state = TuneState.open(path / "state.json", fingerprint="x")
    return TuneSearch(
        bench=bench, choices=CHOICES, prior=prior, time_budget_s=budget_s, clock=bench.clock
    ).run(state, started=bench.now)


class TestWhatIsFound:
    def test_the_optimum_of_a_cost_model_is_found_through_noise_and_drift(
        self, tmp_path: Path
    ) -> None:
        bench = Simulated(COSTS)
        found = search(bench, tmp_path)
        assert names(found.placement) == BEST
        assert found.finished
        assert found.confirmed is not None
        true = bench.seconds(found.placement) / BASE_S
        assert found.confirmed.value == pytest.approx(true, abs=0.005)

    def test_nothing_is_taken_where_nothing_is_faster(self, tmp_path: Path) -> None:
        found = search(Simulated({name: abs(cost) for name, cost in COSTS.items()}), tmp_path)
        assert not found.placement
        assert found.words().endswith("the untuned file stands")

    @pytest.mark.parametrize("seed", range(5))
    def test_what_is_returned_is_never_slower_than_the_untuned_file(
        self, seed: int, tmp_path: Path
    ) -> None:
        """Nothing is faster here, and the noise is large enough that some trial says so."""
        generator = np.random.default_rng(seed)
        bench = Simulated({}, noise=0.3, generator=generator)
        found = search(bench, tmp_path)
        assert bench.seconds(found.placement) <= BASE_S

    def test_the_last_comparison_undoes_what_luck_took(self, tmp_path: Path) -> None:
        """Every trial flatters the change; the comparison with the untuned file does not."""

        @dataclass
        class Flattering(Simulated):
            def seconds(self, placement: QdqPlacement) -> float:
                final = len(self.timed) and self.untimed_left
                return BASE_S if final else BASE_S * (1 - 0.01 * len(names(placement)))

            untimed_left: bool = False

            def compare(
                self,
                one: QdqPlacement,
                other: QdqPlacement,
                *,
                rounds: int,
                enough: Callable[[Sequence[Blocks]], bool] | None,
            ) -> tuple[Blocks, Blocks]:
                self.untimed_left = enough is None
                return super().compare(one, other, rounds=rounds, enough=enough)

        found = search(Flattering({}, noise=0.0005), tmp_path)
        assert any(trial.outcome is Outcome.TAKEN for trial in found.trials)
        assert not found.placement
        assert "not proven faster" in found.words()

    def test_what_costs_accuracy_is_not_taken_and_its_halves_are_tried(
        self, tmp_path: Path
    ) -> None:
        found = search(Simulated(COSTS, spoils=frozenset({"cat2"})), tmp_path)
        assert names(found.placement) == BEST - {"cat2"}
        assert Outcome.LESS_ACCURATE in {trial.outcome for trial in found.trials}

    def test_what_the_device_runs_the_same_is_not_timed(self, tmp_path: Path) -> None:
        bench = Simulated(COSTS, invisible=frozenset({"up"}))
        found = search(bench, tmp_path)
        assert not any("up" in names(placement) for placement in bench.timed)
        (trial,) = (t for t in found.trials if t.pattern == "unpaired Resize")
        assert trial.outcome is Outcome.SAME_GRAPH

    def test_what_the_runtime_refuses_is_named_and_the_search_goes_on(self, tmp_path: Path) -> None:
        found = search(Simulated(COSTS, breaks=frozenset({"first"})), tmp_path)
        failed = [trial for trial in found.trials if trial.outcome is Outcome.FAILED]
        assert [trial.accuracy for trial in failed] == ["the runtime does not accept it"]
        assert names(found.placement) == BEST


class TestTime:
    @pytest.mark.parametrize("budget_s", [12.0, 20.0, 35.0])
    def test_it_stops_in_time(self, budget_s: float, tmp_path: Path) -> None:
        bench = Simulated(COSTS)
        found = search(bench, tmp_path, budget_s=budget_s)
        assert bench.now <= budget_s
        assert not found.finished

    def test_a_search_that_goes_on_ends_where_an_uninterrupted_one_does(
        self, tmp_path: Path
    ) -> None:
        whole = search(Simulated(COSTS, noise=0.0), tmp_path / "a")
        bench, runs = Simulated(COSTS, noise=0.0), 0
        found = None
        while found is None or not found.finished:
            found = search(bench, tmp_path / "b", budget_s=20.0)
            runs += 1
        assert runs > 2
        assert found.placement == whole.placement
        assert [t.change for t in found.trials] == [t.change for t in whole.trials]

    def test_a_search_that_broke_off_loses_one_trial_at_most(self, tmp_path: Path) -> None:
        bench = Simulated(COSTS)
        compare = bench.compare

        def killed(*args: object, **said: object) -> tuple[Blocks, Blocks]:
            if len(bench.timed) == 3:
                raise KeyboardInterrupt
            return compare(*args, **said)  # type: ignore[arg-type]  # passed on

        bench.compare = killed  # type: ignore[method-assign]  # the machine is switched off
        with pytest.raises(KeyboardInterrupt):
            search(bench, tmp_path)
        kept = TuneState.open(tmp_path / "state.json", fingerprint="x").trials
        assert len(kept) == 3
        bench.compare = compare  # type: ignore[method-assign]  # and on again
        assert names(search(bench, tmp_path).placement) == BEST


class TestOrder:
    def test_what_paid_on_the_device_before_is_tried_first_and_what_did_not_last(
        self, tmp_path: Path
    ) -> None:
        known = {"unpaired Resize": 0.9, "in_float MaxPool": 1.02}
        found = search(Simulated(COSTS), tmp_path, prior=known.get)
        wholes = [trial.pattern for trial in found.trials[:4]]
        assert wholes[0] == "unpaired Resize"
        assert wholes[-1] == "in_float MaxPool"


def test_the_runtime_failing_on_the_untuned_file_is_an_error(tmp_path: Path) -> None:
    class Broken(Simulated):
        def look(self, placement: QdqPlacement) -> Look:
            raise RunError("it crashed")

    with pytest.raises(RunError, match="it crashed"):
        search(Broken({}), tmp_path)
