"""The fastest placement of Q and DQ that is as accurate: greedy, pattern by pattern.

All places of a pattern are changed together, beside the best so far, timed in blocks; what is
proven faster and accurate stays. A pattern that is not is tried again in halves, those with more
values first. What the device runs the same is not timed. In the end the untuned file and the tuned
one are timed anew, and the untuned one wins unless the whole interval says that the other is
faster: a search that tries much takes some luck for speed.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from segdeploy.benchmarks.speed.blocks import Blocks, Ratio, ratio
from segdeploy.benchmarks.tune.choices import Choice
from segdeploy.benchmarks.tune.state import Outcome, Trial, TuneState
from segdeploy.deploy.quantize.qdq_placement import QdqPlacement
from segdeploy.deploy.system.errors import InputError, RunError
from segdeploy.deploy.system.progress import ItemProgress

log = logging.getLogger(__name__)

TRIAL_ROUNDS = 16
"""Rounds of a trial at most."""

FIRST_ROUNDS = 5
"""Rounds before a trial may end."""

NO_GAIN = 0.998
"""A ratio above this, after the first rounds, is not worth more of them."""

CONFIRMING_ROUNDS = 24
"""Rounds of the last comparison, as far as time allows; not depending on what they show."""

FEWEST_CONFIRMING_ROUNDS = 6
"""However short the time."""

CONFIRMING_SHARE = 0.2
"""Of the time, at most, that is kept for the last comparison."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a device runs for a placement.

    Attributes:
        fingerprint: equal where the same runs.
        operators: how many of each it runs.
    """

    fingerprint: str
    operators: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a placement is accurate enough, and what was found, in words."""

    kept: bool
    words: str


class Bench(Protocol):
    """A network on a device: a placement is built there, looked at, timed and judged."""

    def look(self, placement: QdqPlacement) -> Look:
        """What runs.

        Raises:
            InputError: it cannot be built, or the runtime does not accept it.
        """

    def compare(
        self,
        one: QdqPlacement,
        other: QdqPlacement,
        *,
        rounds: int,
        enough: Callable[[Sequence[Blocks]], bool] | None,
    ) -> tuple[Blocks, Blocks]:
        """Time two, interleaved in blocks.

        Raises:
            RunError: the runtime failed.
        """

    def judge(self, placement: QdqPlacement) -> Verdict:
        """Whether it is accurate enough.

        Raises:
            RunError: the runtime failed.
        """


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What a search ended with.

    Attributes:
        placement: the fastest; the default where none was proven faster.
        confirmed: time of what the search took over that of the untuned file, in the last
            comparison; ``None`` where nothing was taken.
        trials: in order.
        finished: nothing is left to try; otherwise the time ended.
    """

    placement: QdqPlacement
    confirmed: Ratio | None
    trials: tuple[Trial, ...]
    finished: bool

    def words(self) -> str:
        """How it ended."""
        tried = f"{len(self.trials)} changes tried"
        if self.confirmed is None:
            return f"{tried}, none faster and as accurate: the untuned file stands"
        if not self.placement:
            return (
                f"{tried}; together those taken are not proven faster, time x "
                f"{self.confirmed.words()}: the untuned file stands"
            )
        return f"{tried}; tuned time x {self.confirmed.words()} of the untuned file's"


@dataclass(frozen=True, kw_only=True)
class TuneSearch:
    """All that decides a search.

    Attributes:
        bench: the network on the device.
        choices: what could be changed.
        prior: the ratio that a pattern is expected to give; ``None`` where nothing is known.
        time_budget_s: no trial starts that would end later, with the last comparison.
        progress: for a bar over what is looked at.
        clock: seconds, monotonic.
    """

    bench: Bench
    choices: Sequence[Choice]
    prior: Callable[[str], float | None]
    time_budget_s: float
    progress: ItemProgress[str] = iter
    clock: Callable[[], float] = time.monotonic

    def run(self, state: TuneState, *, started: float) -> Tuned:
        """Search; see the module.

        Args:
            state: empty, or of a search to go on with.
            started: when the time budget began, by ``clock``.

        Raises:
            InputError: the untuned file cannot be built or run.
            RunError: the runtime failed on the untuned file.
        """
        deadline = started + self.time_budget_s * (1 - CONFIRMING_SHARE)
        groups = {choice.pattern: self._sites(choice.pattern) for choice in self.choices}
        best, looks = QdqPlacement(), {QdqPlacement(): self.bench.look(QdqPlacement())}
        if state.order is None:
            state.order = self._order(groups, looks, deadline)
            state.write()
        queue = [groups[pattern] for pattern in state.order if pattern in groups]
        for done in range(sum(map(len, groups.values())) * 2):
            if not queue:
                break
            sites = queue.pop(0)
            if done < len(state.trials):
                trial = state.trials[done]
            elif self._time_for(state, deadline):
                trial = self._try(sites, best, looks)
                state.trials.append(trial)
                state.write()
                log.info("%s", trial.words())
            else:
                queue.insert(0, sites)
                break
            if trial.outcome is Outcome.TAKEN:
                best |= trial.placement
            elif trial.outcome is not Outcome.SAME_GRAPH and len(sites) > 1:
                half = (len(sites) + 1) // 2
                queue += [sites[:half], sites[half:]]
        end = started + self.time_budget_s
        return self._confirmed(best, state, end=end, finished=not queue)

    def _sites(self, pattern: str) -> tuple[Choice, ...]:
        """The places of a pattern, those with more values first."""
        return tuple(
            sorted((c for c in self.choices if c.pattern == pattern), key=lambda c: -c.elements)
        )

    def _order(
        self,
        groups: Mapping[str, Sequence[Choice]],
        looks: dict[QdqPlacement, Look],
        deadline: float,
    ) -> tuple[str, ...]:
        """Patterns: what paid on the device before, then what leaves fewer kernels to run.

        What the device runs the same for comes last, and what paid nothing before that. Half of the
        time may go into looking.
        """
        looking = self.clock() + (deadline - self.clock()) / 2
        untuned = looks[QdqPlacement()]

        def rank(pattern: str) -> tuple[float, int]:
            change, known = _together(groups[pattern]), self.prior(pattern)
            expected = 1.0 if known is None else known if known < 1 else 1.5
            if self.clock() > looking:
                return expected, 0
            try:
                looks[change] = self.bench.look(change)
            except (InputError, RunError):
                return 2.0, 0
            look = looks[change]
            if look.fingerprint == untuned.fingerprint:
                return 2.0, 0
            more = sum(look.operators.values()) - sum(untuned.operators.values())
            return expected, more

        ranked = {pattern: rank(pattern) for pattern in self.progress(groups)}
        return tuple(sorted(ranked, key=lambda pattern: ranked[pattern]))

    def _try(
        self, sites: Sequence[Choice], best: QdqPlacement, looks: dict[QdqPlacement, Look]
    ) -> Trial:
        """Measure one change beside the best so far."""
        before = self.clock()
        change = _together(sites)
        found: Ratio | None = None
        round_s: float | None = None
        graph = accuracy = ""
        try:
            candidate = _with(best, change)
            for placement in (best, candidate):
                if placement not in looks:
                    looks[placement] = self.bench.look(placement)
            graph = difference(looks[best], looks[candidate])
            if looks[candidate].fingerprint == looks[best].fingerprint:
                outcome = Outcome.SAME_GRAPH
            else:
                timing = self.clock()
                old, new = self.bench.compare(best, candidate, rounds=TRIAL_ROUNDS, enough=decided)
                round_s = (self.clock() - timing) / len(new.blocks_s)
                found, outcome = ratio(new, old), Outcome.NOT_FASTER
                if found.faster:
                    verdict = self.bench.judge(candidate)
                    accuracy = verdict.words
                    outcome = Outcome.TAKEN if verdict.kept else Outcome.LESS_ACCURATE
        except (InputError, RunError) as error:
            outcome, accuracy = Outcome.FAILED, str(error)
        return Trial(
            pattern=sites[0].pattern,
            sites=len(sites),
            change=change.to_json(),
            outcome=outcome,
            ratio=found,
            graph=graph,
            accuracy=accuracy,
            round_s=round_s,
            seconds=self.clock() - before,
        )

    def _time_for(self, state: TuneState, deadline: float) -> bool:
        """Whether another trial would end in time."""
        longest = max((trial.seconds for trial in state.trials), default=0.0)
        return self.clock() + longest <= deadline

    def _confirmed(
        self, best: QdqPlacement, state: TuneState, *, end: float, finished: bool
    ) -> Tuned:
        """The best, where it is proven faster than the untuned file once more."""
        confirmed = None
        if best:
            round_s = max(trial.round_s or 0.0 for trial in state.trials)
            affordable = int((end - self.clock()) / round_s) if round_s else CONFIRMING_ROUNDS
            rounds = max(FEWEST_CONFIRMING_ROUNDS, min(CONFIRMING_ROUNDS, affordable))
            old, new = self.bench.compare(QdqPlacement(), best, rounds=rounds, enough=None)
            confirmed = ratio(new, old)
        faster = confirmed is not None and confirmed.faster
        return Tuned(
            placement=best if faster else QdqPlacement(),
            confirmed=confirmed,
            trials=tuple(state.trials),
            finished=finished,
        )


def decided(blocks: Sequence[Blocks]) -> bool:
    """Whether a trial of an old and a new placement needs no more rounds.

    Proven either way, or no gain in sight.
    """
    old, new = blocks
    if len(old.blocks_s) < FIRST_ROUNDS:
        return False
    found = ratio(new, old)
    return found.faster or found.slower or found.value > NO_GAIN


def difference(old: Look, new: Look) -> str:
    """What a device runs more and fewer of, in words.

    Example:
        >>> old = Look(fingerprint="a", operators={"Reorder f32": 3, "Conv u8": 9})
        >>> new = Look(fingerprint="b", operators={"Reorder f32": 1, "Conv u8": 9, "Add u8": 1})
        >>> difference(old, new)
        '+1 Add u8, -2 Reorder f32'
    """
    change = Counter(new.operators)
    change.subtract(old.operators)
    return ", ".join(f"{n:+d} {operator}" for operator, n in sorted(change.items()) if n)


def _together(sites: Sequence[Choice]) -> QdqPlacement:
    found = QdqPlacement()
    for site in sites:
        found |= site.change
    return found


_OPPOSITE = {"own_scales": "one_scale", "one_scale": "own_scales"}
_OPPOSITE |= {"paired": "unpaired", "unpaired": "paired"}


def _with(best: QdqPlacement, change: QdqPlacement) -> QdqPlacement:
    """A placement with a change; the change wins where they contradict each other."""
    taken = {name: getattr(change, name) for name in _OPPOSITE}
    against = QdqPlacement(**{_OPPOSITE[name]: held for name, held in taken.items() if held})
    return (best - against) | change
