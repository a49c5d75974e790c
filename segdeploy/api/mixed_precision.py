"""Mixed precision: the fewest layers in float that keep a budget of accuracy."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segdeploy.api.calibration_tables import calibration_table_of, file_of, table_sha256
from segdeploy.api.data import Data
from segdeploy.api.judging import image_bar, opened, reference_of, split_of
from segdeploy.api.models import AnyOnnx, artifact_of
from segdeploy.api.outputs import AnyPath, output_file
from segdeploy.api.recovery import folder_of, images_for, methods_of, workshop_of
from segdeploy.api.targets import int8_path, profile_of
from segdeploy.benchmarks.mixed.judge import Judge
from segdeploy.benchmarks.mixed.search import (
    RANKING_IMAGES,
    RANKING_PARTS,
    MixedResult,
    MixedSearch,
    trial_file,
)
from segdeploy.benchmarks.mixed.state import SearchState, Trial
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy import __version__
from segdeploy.deploy.data.image_set import SegmentationSet, open_set, read_splits
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.file import contract_of, output_of, require_fp32
from segdeploy.deploy.recovery.candidate import Candidate
from segdeploy.deploy.recovery.methods import Recovery
from segdeploy.deploy.runtimes.base import Execution
from segdeploy.deploy.runtimes.registry import availability, usable_cores
from segdeploy.deploy.system.errors import InputError
from segdeploy.deploy.system.only_writer import writing_file
from segdeploy.deploy.targets.profiles import ORT_X86, TargetProfile

if TYPE_CHECKING:
    from segdeploy.api.models import AnyModel

log = logging.getLogger(__name__)

TIME_BUDGET_S = 600.0


@dataclass(frozen=True, kw_only=True)
class MixedPrecision(MixedResult):
    """What a search ended with.

    Attributes:
        max_drop: the budget, percentage points of IoU.
        test: the file in place on the test split; ``None`` where the folder has none.
        test_images: of that split.
    """

    max_drop: float
    test: Trial | None
    test_images: int


def mixed_precision(
    model: AnyOnnx,
    table: CalibrationTable | AnyPath,
    *,
    max_drop: float,
    reference: AnyModel,
    data: Data | AnyPath,
    target: TargetProfile | str = ORT_X86,
    exclude: Sequence[str] = (),
    recover: Sequence[Recovery | str] | Recovery | str | None = None,
    out: AnyPath | None = None,
    time_budget_s: float = TIME_BUDGET_S,
    seed: int = 0,
    threads: int | None = None,
    overwrite: bool = False,
) -> MixedPrecision:
    """Search for the fewest layers in float with which an int8 model keeps a budget.

    Before any layer goes to float, recovery is tried: one method after another, each kept if it
    comes closer to the reference, until the budget is kept. It learns from images of the train
    split. All is chosen on the val split; the test split only reports. The best file so far is in
    place at any moment, and an interrupted search goes on when it is started again.

    Args:
        model: the float32 file that was calibrated.
        table: its ranges, or the file that holds them.
        max_drop: the largest loss of IoU, percentage points; the lower end of the 95 % interval
            of the change must keep it.
        reference: checkpoint or ONNX file that accuracy is compared with.
        data: a prepared folder with a val split.
        target: what the model is made for.
        exclude: layers that stay in float whatever is found.
        recover: the methods of recovery that may be tried; ``None`` is all of them, an empty
            sequence none.
        out: file to write; by default ``NAME.int8.TARGET.onnx`` beside the model.
        time_budget_s: no trial starts that would end later.
        seed: of the bootstrap, and of the images that recovery learns from and that layers are
            ranked on.
        threads: ``None`` takes every processor of this process.
        overwrite: replace the file that is there; a search that was interrupted goes on without.

    Raises:
        InputError: the model is not float32, the table is of another model, there is no val
            split, or the target's runtime, which has to run the trials, is not here.
        UsageError: the file exists, another process writes it, or the reference expects other
            inputs.
        OSError: a file cannot be written.
    """
    started = time.monotonic()
    source, profile = artifact_of(model), profile_of(target)
    output = int8_path(source, profile, out)
    begun = output.with_name(kept_beside(output)[0]).is_file()
    output_file(output, source.path, *file_of(table), overwrite=overwrite or begun)
    with writing_file(output, beside=kept_beside(output)):
        require_fp32(source, "int8 is made")
        preprocess, classes = contract_of(source), output_of(source)
        methods, images = methods_of(recover), Data.of(data)
        folder, ranges = images.root, calibration_table_of(table)
        validation = split_of(folder, "val")
        if not availability(profile.runtime).ready:
            raise InputError(f"{availability(profile.runtime).reason}; it has to run the trials")
        right = reference_of(reference, preprocess)
        execution = Execution(threads=threads or usable_cores())
        anything = recover is None and images.calibration is None
        if anything and "train" not in _splits(folder):
            log.info("no recovery: %s has no train split to learn from", folder)
            methods = ()
        learning = images_for(images, ranges, seed=seed) if methods else validation
        decides = [
            __version__,
            source.sha256,
            table_sha256(table),
            right.sha256,
            profile.name,
            sorted(exclude),
            validation.sha256(),
            preprocess.to_json(),
            seed,
            methods,
            learning.sha256(),
        ]
        state = SearchState.open(
            output.with_name(kept_beside(output)[0]),
            fingerprint=hashlib.sha256(json.dumps(decides).encode()).hexdigest(),
        )
        log.info(
            "choosing on %d val images, on %s%s",
            len(validation),
            profile.runtime.value,
            f"; going on after {len(state.trials)} trials" if state.trials else "",
        )
        work = folder_of(output)
        work.mkdir(exist_ok=True)
        with opened(right, execution) as runtime:

            def judge(images: SegmentationSet) -> Judge:
                return Judge(
                    runtime,
                    images,
                    preprocess=preprocess,
                    output=classes,
                    runtime=profile.runtime,
                    execution=execution,
                    seed=seed,
                    progress=image_bar,
                )

            judged = judge(validation)
            result = MixedSearch(
                plain=Candidate(source=source, table=ranges),
                output=output,
                workshop=workshop_of(
                    source,
                    learning,
                    work,
                    profile=profile,
                    exclude=exclude,
                    table_sha256=table_sha256(table),
                    seed=seed,
                    threads=execution.threads,
                ),
                methods=methods,
                images=_for_ranking(validation, preprocess, seed),
                judge=lambda artifact: judged.report(artifact, max_drop=max_drop),
                max_drop=max_drop,
                time_budget_s=time_budget_s,
            ).run(state, started=started)
            test, test_images = _tested(result, folder, judge, max_drop)
        if result.finished:
            state.path.unlink(missing_ok=True)
            shutil.rmtree(work, ignore_errors=True)
    return MixedPrecision(**vars(result), max_drop=max_drop, test=test, test_images=test_images)


def kept_beside(output: Path) -> tuple[str, str]:
    """What a search keeps in the folder of its output until it is done: its state, a trial."""
    return f"{output.name}.search.json", trial_file(output).name


def outcome(result: MixedResult, max_drop: float) -> str:
    """How a search ended, in words."""
    count = len(result.layers)
    kept = [each.method.value for each in result.recovery if each.kept]
    if result.within and not count and kept:
        by = " ".join(kept)
        return f"all layers in int8 keep the budget of {max_drop:g} points: --recover {by}"
    if result.within and not count:
        return f"all layers in int8 keep the budget of {max_drop:g} points: no search needed"
    if result.within:
        found = "the fewest" if result.finished else "the fewest that time allowed to try"
        recovery = f"--recover {' '.join(kept)} " if kept else ""
        return f"{count} layers in float, {found}: {recovery}--exclude {' '.join(result.exclude)}"
    if result.finished:
        return f"even with every layer in float the budget of {max_drop:g} points is not kept"
    return (
        f"the time ended before the budget of {max_drop:g} points was kept; the best so far is in "
        "place, run the same command to go on"
    )


def _tested(
    result: MixedResult, folder: Path, judge: Callable[[SegmentationSet], Judge], max_drop: float
) -> tuple[Trial | None, int]:
    """The file in place on the test split, ``None`` where there is none, and its images."""
    if "test" not in _splits(folder):
        return None, 0
    before = time.monotonic()
    report = judge(open_set(folder, "test")).report(result.artifact, max_drop=max_drop)
    seconds = time.monotonic() - before
    return Trial.of(report, layers=result.chosen.layers, seconds=seconds), len(report.images)


def _splits(root: Path) -> set[str]:
    """Names of the splits of a prepared folder."""
    return set(read_splits(root / "splits.csv").values())


def _for_ranking(images: SegmentationSet, preprocess: Preprocess, seed: int) -> list[Any]:
    """A few images, drawn by seed, normalised."""
    few = min(len(images), RANKING_PARTS * RANKING_IMAGES)
    return list(images.take(few, seed=seed).inputs(preprocess))
