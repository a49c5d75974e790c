"""Blocks of calls: who is when, what counts, and what a ratio is worth."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from segdeploy.benchmarks.speed.blocks import (
    Blocks,
    Timed,
    ratio,
    take_turns,
)
from segdeploy.deploy.runtimes.timing import DISCARDED_CALLS, FEWEST_CALLS, block_of
from segdeploy.deploy.system.errors import UsageError


def no_rest(seconds: float) -> None:
    """The simulated machine needs none."""


def told(name: str, log: list[str], seconds: float = 0.05) -> Timed:
    def call() -> float:
        log.append(name)
        return seconds

    return Timed(name=name, block=partial(block_of, call))


class TestTurns:
    def test_calls_of_a_block_are_back_to_back_and_the_first_ones_do_not_count(self) -> None:
        log: list[str] = []
        found = take_turns([told("a", log), told("b", log)], rounds=2, block_s=0.2, rest=no_rest)
        calls = DISCARDED_CALLS + 4
        assert log == ["a"] * calls + ["b"] * calls + ["b"] * calls + ["a"] * calls
        assert [len(block) for each in found for block in each.blocks_s] == [4] * 4

    def test_a_slow_candidate_still_has_a_few_calls_a_block(self) -> None:
        log: list[str] = []
        slow = [told("a", log, 9.0), told("b", log, 9.0)]
        (first, _) = take_turns(slow, rounds=2, block_s=0.1, rest=no_rest)
        assert {len(block) for block in first.blocks_s} == {FEWEST_CALLS}

    def test_it_rests_before_each_block(self) -> None:
        rests: list[float] = []
        take_turns([told("a", []), told("b", [])], rounds=3, block_s=0.1, rest=rests.append)
        assert len(rests) == 6
        assert min(rests) > 0

    def test_it_ends_when_enough_is_known_but_never_on_one_round(self) -> None:
        found = take_turns(
            [told("a", []), told("b", [])], rounds=9, enough=lambda _: True, rest=no_rest
        )
        assert [len(each.blocks_s) for each in found] == [2, 2]

    def test_one_candidate_cannot_be_compared(self) -> None:
        with pytest.raises(UsageError, match="two candidates"):
            take_turns([told("a", [])], rounds=4)


class TestRatio:
    def drawn(self, seed: int, true: float) -> tuple[Blocks, Blocks]:
        """Twelve rounds, whose moments are up to twice as slow, with 2 % of noise in each block."""
        generator = np.random.default_rng(seed)
        moments = generator.uniform(1, 2, 12)

        def blocks(factor: float) -> Blocks:
            times = moments * factor * np.exp(generator.normal(0, 0.02, 12))
            return Blocks(name="x", blocks_s=tuple((float(t),) for t in times))

        return blocks(true), blocks(1.0)

    def test_slow_moments_of_the_machine_cancel(self) -> None:
        found = ratio(*self.drawn(0, 0.9))
        assert found.value == pytest.approx(0.9, abs=0.03)
        assert found.faster
        assert ratio(*reversed(self.drawn(0, 0.9))).slower

    def test_the_interval_holds_the_true_ratio_as_often_as_it_says(self) -> None:
        found = [ratio(*self.drawn(seed, 1.0)) for seed in range(400)]
        share = sum(each.low <= 1.0 <= each.high for each in found) / len(found)
        assert 0.92 < share < 0.98

    def test_rounds_must_pair(self) -> None:
        one = Blocks(name="a", blocks_s=((1.0,), (1.0,)))
        with pytest.raises(ValueError, match="two rounds"):
            ratio(one, Blocks(name="b", blocks_s=((1.0,),)))

    @pytest.mark.parametrize("blocks", [(), ((),), ((0.0,),), ((float("inf"),),)])
    def test_what_is_no_measurement_is_refused(self, blocks: tuple[tuple[float, ...], ...]) -> None:
        with pytest.raises(ValueError, match=r"x "):
            Blocks(name="x", blocks_s=blocks)
