"""Speed and accuracy beside the peers: one network, the same images, everybody taking turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.peers.contenders import BASELINE, Contender, Group, contenders
from segdeploy.benchmarks.peers.models import Made, Model, SpeedSubject, make_models
from segdeploy.benchmarks.peers.speed_rows import Lap, comparisons_of, rows_of
from segdeploy.benchmarks.peers.timing import Setting, settings_of, time_in_turn
from segdeploy.deploy.runtimes.base import Hint, Runtime, infer_each
from segdeploy.deploy.system.errors import SegdeployError
from segdeploy.deploy.system.progress import LabelledProgress, ShareProgress
from segdeploy.deploy.system.shown_command import shown_text

ShareBar = Callable[[str], AbstractContextManager[ShareProgress]]
Pixels = NDArray[np.float32]

NO_COMPILE = "left out by --no-compile"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how large.

    Attributes:
        batch: of the second throughput setting.
        warmup: untimed calls of each contender and setting.
        duration_s: seconds for each contender and setting.
        with_compiled: ``torch.compile`` takes part; it compiles for minutes.
    """

    batch: int
    warmup: int
    duration_s: float
    with_compiled: bool = True

    def left_out(self, contender: Contender) -> str | None:
        """Why a contender was not asked to take part."""
        return NO_COMPILE if contender.compiled and not self.with_compiled else None


def compare_speed(
    subject: SpeedSubject, plan: Plan, *, bar: LabelledProgress[Any], share_bar: ShareBar
) -> dict[str, Any]:
    """Quantize with every tool, score every contender, time all of them in turn.

    Args:
        subject: the network, its images and the number of threads.
        plan: how long and how large.
        bar: a progress bar over items, with a label.
        share_bar: a progress bar for work that reports the share done, with a label.

    Returns:
        ``settings``, ``rows``, and ``comparisons``: our fastest beside NNCF's with each setting.
        A peer that is not installed, or fails, is a row with the reason.

    Raises:
        InputError: our tool does not accept the network or the images.
        RunError: the baseline or one of ours failed.
    """
    settings = settings_of(threads=subject.threads, batch=plan.batch)
    everybody = contenders(pruned=subject.pruned is not None)
    images = subject.evaluation.inputs(subject.preprocess)
    laps: dict[str, dict[str, Lap]] = {}
    skipped = {
        contender.name: reason
        for contender in everybody
        if (reason := plan.left_out(contender) or contender.missing())
    }
    with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
        models = make_models(subject, Path(folder), progress=lambda each: bar(each, "quantize"))
        for setting in settings:
            able = [contender for contender in everybody if contender.name not in skipped]
            with ExitStack() as stack:
                opened, failed = _open(
                    bar(able, f"open {setting.key}"), stack, subject, models, setting
                )
                skipped |= failed
                laps[setting.key] = _lap(opened, setting, images, plan, bar, share_bar)
            _forget_compiled()
    truths = subject.evaluation.truths(subject.preprocess)
    fields = subject.evaluation.fields(subject.preprocess)
    names = [sample.name for sample in subject.evaluation]
    return {
        "settings": [{"key": setting.key, "title": setting.title} for setting in settings],
        "rows": rows_of(everybody, laps, skipped, truths, names, fields),
        "comparisons": comparisons_of(everybody, laps),
    }


def _forget_compiled() -> None:
    """Let ``torch.compile`` start afresh: from its ninth variant of a network it runs it eager."""
    import torch

    torch.compiler.reset()


def _open(
    able: Iterable[Contender],
    stack: ExitStack,
    subject: SpeedSubject,
    models: Mapping[Model, Made],
    setting: Setting,
) -> tuple[dict[str, Runtime], dict[str, str]]:
    """Those who run with a setting, and why the others do not, by name."""
    opened: dict[str, Runtime] = {}
    failed: dict[str, str] = {}
    for contender in able:
        try:
            runtime = stack.enter_context(contender.open(subject, models, setting.execution))
            feed = np.zeros((setting.execution.batch, 3, *subject.preprocess.size), np.float32)
            runtime.infer({runtime.inputs[0].name: feed})
        except SegdeployError as error:
            if contender is BASELINE or contender.group is Group.OURS:
                raise
            failed[contender.name] = shown_text(str(error))
            continue
        opened[contender.name] = runtime
    return opened, failed


def _lap(
    opened: Mapping[str, Runtime],
    setting: Setting,
    images: Pixels,
    plan: Plan,
    bar: LabelledProgress[Any],
    share_bar: ShareBar,
) -> dict[str, Lap]:
    """Time everybody in turn, by name; with the setting of latency, predict all images before."""
    predicted: dict[str, Pixels] = {}
    if setting.execution.hint is Hint.LATENCY:
        for name in bar(list(opened), "predict"):
            predicted[name] = infer_each(opened[name], images)[:, 0]
    with share_bar(setting.key) as progress:
        timed = time_in_turn(
            list(opened.values()),
            setting,
            images,
            warmup=plan.warmup,
            duration_s=plan.duration_s,
            progress=progress,
        )
    return {
        name: Lap(executed=runtime.executed, timed=result, probability=predicted.get(name))
        for (name, runtime), result in zip(opened.items(), timed, strict=True)
    }
