"""Mixed precision under a budget: the fewest layers in float that keep it.

First come the methods of recovery, which keep every layer in int8: each is tried on what the ones
before left, and kept if it comes closer to the reference. Then layers are ranked by what each does
to the output alone in int8; the number of the worst that stay in float is found by trying. The best
file so far is always in place, and what was found is kept, so that an interrupted search loses one
trial at most.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from segdeploy.benchmarks.mixed.state import RecoveryTrial, SearchState, Trial
from segdeploy.benchmarks.parity.evidence import ParityReport
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import load_model
from segdeploy.deploy.quantize.activations import float_region
from segdeploy.deploy.recovery.candidate import Candidate, Workshop
from segdeploy.deploy.recovery.methods import Recovery, applied
from segdeploy.deploy.sensitivity.layer_errors import compare_layers

log = logging.getLogger(__name__)

RANKING_PARTS = 2
"""Rankings that are averaged: each is kept when it is done, so an interruption costs one."""

RANKING_IMAGES = 2
"""Images a part."""

T = TypeVar("T")
Inputs = Sequence[NDArray[Any]]


class _TimeUpError(Exception):
    """The time budget ended inside a ranking."""


@dataclass(frozen=True, kw_only=True)
class MixedResult:
    """What a search ended with.

    Attributes:
        artifact: the file in place.
        layers: convolutions in float, worst first.
        exclude: nodes in float, as ``--exclude`` takes them: those, what they alone read, and what
            was asked for.
        trials: by number of float layers, ascending.
        chosen: the trial of the file in place.
        within: it keeps the budget.
        finished: fewer layers were tried and lost too much; otherwise time ran out.
        recovery: the methods that were tried, in order, and what each gained.
    """

    artifact: Artifact
    layers: tuple[str, ...]
    exclude: tuple[str, ...]
    trials: tuple[Trial, ...]
    chosen: Trial
    within: bool
    finished: bool
    recovery: tuple[RecoveryTrial, ...]


@dataclass(frozen=True, kw_only=True)
class MixedSearch:
    """All that decides a search.

    Attributes:
        plain: the float32 model that was calibrated, and its ranges.
        output: the int8 file to write.
        workshop: the target, the nodes that stay in float whatever is found, and the images that
            recovery learns from.
        methods: of recovery, to try in this order.
        images: to rank layers on, normalised, ``RANKING_PARTS`` times ``RANKING_IMAGES`` at most.
        judge: compares a file with the reference on the validation images.
        max_drop: the budget, percentage points of IoU.
        time_budget_s: no trial starts that would end later, by the time the last one took.
    """

    plain: Candidate
    output: Path
    workshop: Workshop
    methods: tuple[Recovery, ...]
    images: Inputs
    judge: Callable[[Artifact], ParityReport]
    max_drop: float
    time_budget_s: float

    def run(self, state: SearchState, *, started: float) -> MixedResult:
        """Search; see the module.

        Args:
            state: empty, or of a search to go on with.
            started: when the time budget began, by ``time.monotonic()``.

        Raises:
            InputError: see ``to_int8`` and ``layer_errors``.
            UsageError: likewise.
            RunError: a runtime failed.
        """
        deadline = started + self.time_budget_s
        trial_file(self.output).unlink(missing_ok=True)  # of a search that was killed
        with self._saying_what_is_left(state):
            if 0 not in state.trials:
                self._try(state, self.plain, (), 0)
            candidate = self._recovered(state, deadline)
            done = state.trials[0].within(self.max_drop)
            ranking = () if done else self._ranking(state, candidate, started)
            while ranking and not done:
                count = next_count(self._tried(state, len(ranking)), len(ranking))
                done = count is None
                if count is None or not self._time_for(state, deadline):
                    break
                self._try(state, candidate, ranking, count)
        return self._result(state, candidate, ranking, finished=done)

    def _recovered(self, state: SearchState, deadline: float) -> Candidate:
        """What the methods leave, each kept if it helps, until the budget is kept.

        No other is begun once layers are ranked, nor when the time is up.
        """
        candidate, known = self.plain, {each.method: each for each in state.recovery}
        for method in self.methods:
            if method in known:
                if known[method].kept:
                    candidate = applied(method, candidate, self.workshop)
                continue
            over = state.noise or time.monotonic() > deadline
            if over or state.trials[0].within(self.max_drop):
                break
            before = state.trials[0]
            found = applied(method, candidate, self.workshop)
            trial = None if found is candidate else self._measured(found, (), 0)
            kept = trial is not None and trial.better_than(before)
            tried = RecoveryTrial(method=method, before=before, after=trial, kept=kept)
            state.recovery.append(tried)
            if kept and trial is not None:
                candidate, state.trials[0] = found, trial
                trial_file(self.output).replace(self.output)
            trial_file(self.output).unlink(missing_ok=True)
            state.write()
            log.info("%s", tried.words())
        return candidate

    def _ranking(self, state: SearchState, candidate: Candidate, started: float) -> tuple[str, ...]:
        """Layers, worst first; none where the time ended before.

        A second part is added while half of the time is left.
        """
        parts = [
            self.images[i : i + RANKING_IMAGES] for i in range(0, len(self.images), RANKING_IMAGES)
        ]
        for images in () if state.ranked else parts[len(state.noise) :]:
            if state.noise and time.monotonic() > started + self.time_budget_s / 2:
                break
            try:
                self._rank(images, state, candidate, deadline=started + self.time_budget_s)
            except _TimeUpError:
                break
        if not state.noise:
            return ()
        state.ranked = True
        state.write()
        return state.ranking()

    def _rank(
        self, images: Inputs, state: SearchState, candidate: Candidate, *, deadline: float
    ) -> None:
        """Add one part to the ranking."""
        before = time.monotonic()

        def in_time(work: Iterable[T]) -> Iterator[T]:
            for piece in self.workshop.progress(work, "rank layers"):
                if time.monotonic() > deadline:
                    raise _TimeUpError
                yield piece

        with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
            found = compare_layers(
                candidate.source,
                self.workshop.write(candidate, Path(folder) / "int8.onnx"),
                images,
                threads=self.workshop.threads,
                progress=in_time,
            )
        ordered = sorted(found, key=lambda layer: layer.position)
        state.noise.append({layer.name: _noise(layer.sqnr_alone_db) for layer in ordered})
        state.write()
        log.info(
            "ranked %d layers by what each does alone, on %d images, %.0f s",
            len(found),
            len(images),
            time.monotonic() - before,
        )

    def _try(
        self, state: SearchState, candidate: Candidate, ranking: Sequence[str], count: int
    ) -> None:
        """Measure one number of float layers; put the file in place if none was better."""
        tried = trial_file(self.output)
        try:
            trial = self._measured(candidate, ranking[:count], count)
            state.trials[count] = trial
            if self._best(state) is trial:
                tried.replace(self.output)
            state.write()
        finally:
            tried.unlink(missing_ok=True)
        verdict = "within the budget" if trial.within(self.max_drop) else "not proven within"
        log.info("%d layers in float: %s, %s, %.0f s", count, trial.words(), verdict, trial.seconds)

    def _measured(self, candidate: Candidate, layers: Sequence[str], count: int) -> Trial:
        """A file beside the reference; it lies in ``trial_file``."""
        before = time.monotonic()
        artifact = self._write(candidate, layers, trial_file(self.output))
        report = self.judge(artifact)
        return Trial.of(report, layers=count, seconds=time.monotonic() - before)

    def _write(self, candidate: Candidate, layers: Sequence[str], path: Path) -> Artifact:
        return self.workshop.write(candidate, path, self._in_float(layers))

    def _in_float(self, layers: Sequence[str]) -> tuple[str, ...]:
        graph = load_model(self.plain.source.path).graph
        inside = float_region(graph, layers, kernels=self.workshop.profile.kernels)
        return tuple(dict.fromkeys((*self.workshop.exclude, *inside)))

    def _tried(self, state: SearchState, total: int) -> dict[int, bool]:
        return {n: t.within(self.max_drop) for n, t in state.trials.items() if n <= total}

    def _best(self, state: SearchState) -> Trial:
        """The fewest layers within the budget; without any, the one that comes nearest."""
        within = fewest_within(self._tried(state, max(state.trials)))
        if within is not None:
            return state.trials[within]
        return max(state.trials.values(), key=lambda trial: (not trial.collapsed, trial.low))

    def _time_for(self, state: SearchState, deadline: float) -> bool:
        """Whether another trial would end in time."""
        longest = max(trial.seconds for trial in state.trials.values())
        return time.monotonic() + longest <= deadline

    def _result(
        self,
        state: SearchState,
        candidate: Candidate,
        ranking: Sequence[str],
        *,
        finished: bool,
    ) -> MixedResult:
        """Write the best once more, from what was found: a rerun may lack its file."""
        chosen = self._best(state)
        layers = tuple(ranking[: chosen.layers])
        return MixedResult(
            artifact=self._write(candidate, layers, self.output),
            layers=layers,
            exclude=self._in_float(layers),
            trials=tuple(state.trials[count] for count in sorted(state.trials)),
            chosen=chosen,
            within=chosen.within(self.max_drop),
            finished=finished,
            recovery=tuple(state.recovery),
        )

    @contextmanager
    def _saying_what_is_left(self, state: SearchState) -> Iterator[None]:
        """On an interruption, say what is in place."""
        try:
            yield
        except KeyboardInterrupt:
            if state.trials:
                best = self._best(state)
                log.info(
                    "best so far, in place: %s, %d layers in float, %s",
                    self.output,
                    best.layers,
                    best.words(),
                )
            raise


def trial_file(output: Path) -> Path:
    """Where the model lies that is being tried."""
    return output.with_name(f"{output.name}.trial")


_MOST_DECADES = 300.0
"""Of noise over signal: what a float holds, and JSON with it."""


def _noise(sqnr_db: float | None) -> float:
    """Noise over signal; 0 where nothing changed."""
    return 0.0 if sqnr_db is None else float(10.0 ** min(-sqnr_db / 10, _MOST_DECADES))


def fewest_within(tried: Mapping[int, bool]) -> int | None:
    """The smallest number of float layers that kept the budget; ``None`` where none did."""
    return min((count for count, within in tried.items() if within), default=None)


def next_count(tried: Mapping[int, bool], total: int) -> int | None:
    """The number of float layers to try next.

    Starts without any, doubles until the budget is kept, then bisects between that number and the
    largest below it that lost too much. A few layers carry most of the loss, so a small number is
    found in few trials.

    Example:
        Seven layers are needed of 31.

        >>> tried = {}
        >>> while (count := next_count(tried, 31)) is not None:
        ...     tried[count] = count >= 7
        >>> list(tried), fewest_within(tried)
        ([0, 1, 2, 4, 8, 6, 7], 7)

    Args:
        tried: for each number tried, whether the budget was kept.
        total: layers there are.

    Returns:
        ``None`` when the number is found, or even all layers in float lose too much.
    """
    within = fewest_within(tried)
    lost = max((count for count in tried if within is None or count < within), default=-1)
    if within is None:
        return None if lost == total else min(total, max(0, 2 * lost if lost > 0 else lost + 1))
    return None if within == lost + 1 else (lost + within) // 2
