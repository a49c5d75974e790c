"""A network on this machine's runtime: placements are built as files, looked at, timed, judged."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from segdeploy.benchmarks.speed.blocks import Blocks, Timed, take_turns
from segdeploy.benchmarks.speed.random_feeds import random_feeds, size_to_feed
from segdeploy.benchmarks.tune.search import Look, Verdict
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.quantize.qdq_placement import QdqPlacement
from segdeploy.deploy.runtimes.executed_nodes import executed_nodes
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.isolated import TIME_LIMIT_S, call_isolated, open_isolated
from segdeploy.deploy.runtimes.registry import RuntimeName

WARMUP_CALLS = 3


class FileBench:
    """Builds each placement once, in a folder that goes away with the search.

    Args:
        build: writes the int8 file of a placement.
        judge: says whether a file is accurate enough, given the untuned one.
        folder: for the files.
        runtime: what executes them, in processes of their own.
        execution: how.
        time_limit_s: longest time for loading a file, and for each call.
    """

    def __init__(
        self,
        build: Callable[[QdqPlacement, Path], Artifact],
        judge: Callable[[Artifact], Verdict],
        *,
        folder: Path,
        runtime: RuntimeName,
        execution: Execution,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        self._build, self._judge, self._folder = build, judge, folder
        self._runtime, self._execution = runtime, execution
        self._time_limit_s = time_limit_s
        self._files: dict[QdqPlacement, Artifact] = {}

    def file(self, placement: QdqPlacement) -> Artifact:
        """The file of a placement."""
        if placement not in self._files:
            path = self._folder / f"{len(self._files)}.onnx"
            self._files[placement] = self._build(placement, path)
        return self._files[placement]

    def look(self, placement: QdqPlacement) -> Look:
        """What runs; see ``benchmarks.tune.search.Bench``."""
        nodes = call_isolated(
            partial(executed_nodes, self._runtime, self.file(placement), execution=self._execution),
            limit_s=self._time_limit_s,
            doing="while loading",
        )
        return Look(
            fingerprint=hashlib.sha256(repr(nodes).encode()).hexdigest(),
            operators=Counter(node.words for node in nodes),
        )

    def compare(
        self,
        one: QdqPlacement,
        other: QdqPlacement,
        *,
        rounds: int,
        enough: Callable[[Sequence[Blocks]], bool] | None,
    ) -> tuple[Blocks, Blocks]:
        """Time two; see ``benchmarks.tune.search.Bench``."""
        with ExitStack() as stack:
            timed = []
            for name, placement in (("old", one), ("new", other)):
                artifact = self.file(placement)
                runtime = stack.enter_context(
                    open_isolated(
                        self._runtime,
                        artifact,
                        execution=self._execution,
                        time_limit_s=self._time_limit_s,
                    )
                )
                feeds = random_feeds(
                    artifact.inputs, self._execution.batch, size=size_to_feed(artifact)
                )
                for _ in range(WARMUP_CALLS):
                    runtime.infer(feeds)
                timed.append(Timed.of(name, runtime, feeds))
            old, new = take_turns(timed, rounds=rounds, enough=enough)
        return old, new

    def judge(self, placement: QdqPlacement) -> Verdict:
        """Whether it is accurate enough; see ``benchmarks.tune.search.Bench``."""
        return self._judge(self.file(placement))
