"""Run one stage after the other, reuse what is unchanged, and check each against its parent."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from segdeploy.benchmarks.parity.evidence import StageCheck
from segdeploy.benchmarks.parity.records import ParitySection, PicturedImage
from segdeploy.benchmarks.parity.run import parity_section
from segdeploy.benchmarks.parity.worst_images import worst_images
from segdeploy.benchmarks.report.records import StageArtifact, StageRow
from segdeploy.benchmarks.speed.entries import Entry
from segdeploy.benchmarks.speed.environment import describe as describe_environment
from segdeploy.benchmarks.speed.layer_times import layer_time_section
from segdeploy.benchmarks.speed.memory_need import MOST_BYTES
from segdeploy.benchmarks.speed.records import BenchmarkSection, LayerTimeRow
from segdeploy.benchmarks.speed.run import speed_section
from segdeploy.benchmarks.speed.subjects import FileSubject
from segdeploy.benchmarks.speed.sweep import Sweep
from segdeploy.benchmarks.speed.timing_noise import noise_lines
from segdeploy.benchmarks.tune.fidelity import IMAGES, image_feeds, judged_by_output
from segdeploy.benchmarks.tune.run import DEVICE_FILE, state_beside, timed_here, tuned_file
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy import __version__
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import describe, load_model, metadata
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.qdq_placement import QdqPlacement
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.rewrites.channel_activity import channel_activity
from segdeploy.deploy.runtimes.base import Execution
from segdeploy.deploy.sensitivity.section import DebugSection
from segdeploy.deploy.stages.rewrite import rewrite
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.isa import processor, usable
from segdeploy.deploy.system.memory_limit import working_on
from segdeploy.deploy.system.progress import bar, share_bar
from segdeploy.deploy.targets.profiles import TargetProfile
from segdeploy.pipeline.debug_stage import debug_stage
from segdeploy.pipeline.measured import (
    BENCHMARK,
    DEBUG,
    LAYER_TIMES,
    PARITY,
    WORST_IMAGES,
    Measured,
    check_of,
)
from segdeploy.pipeline.run_config import RunConfig
from segdeploy.pipeline.source import Source
from segdeploy.pipeline.stage_check import CHECK_IMAGES, StageChecks
from segdeploy.pipeline.workspace import Workspace, key_of

log = logging.getLogger(__name__)

T = TypeVar("T")

NOT_JUDGING = frozenset(
    {"name", "output", "calibration", "evaluation", "method", "targets", "exclude", "runtimes"}
    | {"batch", "warmup", "duration_s", "time_limit_s", "overwrite", "command", "rerun"}
    | {"tune_s", "device_file"}
)
"""Of a run's configuration, what decides no verdict by itself: models, times and files."""


class StageRunner:
    """Runs or reuses stages, checks each against its parent, and keeps the rows of the report."""

    def __init__(self, config: RunConfig, source: Source) -> None:
        self.config = config
        self.source = source
        self.execution = Execution(threads=config.threads)
        self.counts = config.output / f"{config.name}.calib.partial.npz"
        figures = config.output / f"{config.name}.measured.json"
        if config.overwrite:  # before the manifest says that the folder is this run's
            self.counts.unlink(missing_ok=True)
            figures.unlink(missing_ok=True)
        self.workspace = Workspace.open(
            config.output, _inputs(config, source), overwrite=config.overwrite
        )
        self.measured = Measured(self.workspace, figures)
        self.setting = _setting(config)
        few = config.calibration.samples[:CHECK_IMAGES]
        self.check_images = np.stack([s.input(source.preprocess) for s in few])
        self.reference = source.reference(self.execution, config.time_limit_s)
        self.checks = StageChecks(
            self.reference,
            self.check_images,
            execution=self.execution,
            output=source.output,
            time_limit_s=config.time_limit_s,
        )
        self.rows: list[StageRow] = []
        self.number = 0
        self.total = 7 + len(config.targets) + bool(config.targets)

    def __enter__(self) -> StageRunner:
        return self

    def __exit__(self, *error: object) -> None:
        self.reference.__exit__(*error)

    def run(
        self,
        stage: str,
        suffix: str,
        build: Callable[[Path], Artifact],
        *,
        parent: Artifact | None,
        note: Callable[[Artifact], str] | None = None,
    ) -> Artifact:
        """Run one stage, or take its file from before, and compare it with its parent.

        ``note`` says in a few words what is special about the result.
        """
        _begin(suffix if stage == "int8" else stage)
        file = f"{self.config.name}.{suffix}"
        key = key_of(stage=stage, parent=parent.sha256 if parent else None)
        started = time.perf_counter()
        again = ("export" if parent is None else stage) in self.config.rerun
        reused = not again and self.workspace.finished(file, file=file, key=key)
        if reused:
            artifact = describe(self.workspace.path(file))
        else:
            artifact = build(self.workspace.path(file))
        seconds = time.perf_counter() - started
        check, unchecked = self._checked(stage, artifact, parent, again=not reused)
        if not reused:
            self.workspace.record(file, file=file, key=key)
        label = f"int8 {artifact.target}" if artifact.target else stage
        self._note(
            label,
            None if reused else seconds,
            artifact=artifact,
            check=check,
            note=", ".join(filter(None, [note(artifact) if note else None, unchecked])) or None,
        )
        return artifact

    def _checked(
        self, stage: str, artifact: Artifact, parent: Artifact | None, *, again: bool
    ) -> tuple[StageCheck | None, str | None]:
        """The comparison with the parent, made or taken from before, or why there is none."""
        name = check_of(artifact.path.name)
        key = key_of(
            stage=stage,
            files=[artifact.sha256, parent.sha256 if parent else None],
            setting=self.setting,
        )
        found = None if again else self.measured.take(name, key, StageCheck)
        if found is not None:
            return found, None
        check, unchecked = self.checks.check(stage, artifact, parent)
        if check is not None:
            self.measured.keep(name, key, check)
        return check, unchecked

    def _kept(
        self, name: str, kind: type[T], measure: Callable[[], T], **decides: object
    ) -> tuple[T, bool]:
        """What is measured, and whether it was taken from before.

        Where a runtime failed, the figures are shown and not kept: the next run tries again.
        """
        key = key_of(stage=name, setting=self.setting, **decides)
        found = None if name in self.config.rerun else self.measured.take(name, key, kind)
        if found is not None:
            return found, True
        section = measure()
        if not _failed(section):
            self.measured.keep(name, key, section)
        return section, False

    def rewrite(self, source: Artifact, output: Path) -> Artifact:
        """Rewrite the graph, with what the calibration images show of its channels."""
        activity = channel_activity(
            source.path,
            self.config.calibration.samples,
            preprocess=self.source.preprocess,
            threads=self.config.threads,
            progress=lambda samples: bar(samples, "rewrite", unit="image"),
        )
        return rewrite(source, output, activity=activity)

    def calibrate(self, source: Artifact) -> tuple[CalibrationTable, Path]:
        """Find every range, or take the table from before."""
        _begin("calibrate")
        file = f"{self.config.name}.calib.json"
        path = self.workspace.path(file)
        key = key_of(stage="calibrate", parent=source.sha256, method=self.config.method.value)
        started = time.perf_counter()
        reused = "calibrate" not in self.config.rerun and self.workspace.finished(
            "calibrate", file=file, key=key
        )
        if not reused:
            table = calibrate(
                source,
                self.config.calibration,
                preprocess=self.source.preprocess,
                method=self.config.method,
                state=self.counts,
                threads=self.config.threads,
                progress=lambda samples: bar(samples, "calibrate", unit="image"),
            )
            table.write(path)
            self.workspace.record("calibrate", file=file, key=key)
        self.counts.unlink(missing_ok=True)
        table = CalibrationTable.read(path)
        searched = sum(found.candidates for found in table.ranges.values())
        fallbacks = sum(found.fallback is not None for found in table.ranges.values())
        note = (
            f"{len(table.ranges)} tensors over {table.num_samples} images, "
            f"{searched} candidates searched, {fallbacks} fell back to min-max"
        )
        seconds = None if reused else time.perf_counter() - started
        self._note("calibrate", seconds, note=note)
        return table, path

    def quantize(
        self,
        source: Artifact,
        output: Path,
        *,
        table: CalibrationTable,
        path: Path,
        profile: TargetProfile,
    ) -> Artifact:
        """Write an int8 model, its placement tuned where that was asked for and can be timed here.

        Accuracy is judged by the output on calibration images: those of the report choose nothing.
        """
        config, digest = self.config, sha256_of(path)
        if config.tune_s is not None and timed_here(profile) is None:
            images = config.calibration.take(min(len(config.calibration), IMAGES), seed=config.seed)
            found = tuned_file(
                source,
                output,
                table=table,
                table_sha256=digest,
                profile=profile,
                exclude=config.exclude,
                judging=lambda untuned: judged_by_output(
                    source,
                    untuned,
                    image_feeds(source, images, batch=1),
                    what=f"{len(images)} calibration images",
                    decided_by=(images.sha256(),),
                    runtime=profile.runtime,
                    execution=self.execution,
                ),
                execution=self.execution,
                time_budget_s=config.tune_s,
                started=time.monotonic(),
                device_file=config.device_file or config.output / DEVICE_FILE,
            )
            output.with_name(state_beside(output)).unlink(missing_ok=True)  # the stage is done
            log.info("%s", found.words())
            return found.artifact
        if config.tune_s is not None:
            log.info("not tuned: %s", timed_here(profile))
        return to_int8(
            source,
            output,
            table=table,
            table_sha256=digest,
            profile=profile,
            exclude=config.exclude,
        )

    def tuning_note(self, artifact: Artifact) -> str:
        """How far an int8 model's placement departs from the rule, in a few words."""
        said = metadata(load_model(artifact.path)).get("placement", "{}")
        places = QdqPlacement.from_json(said).places
        return f"tuned at {places} places" if places else "as the target's rule says"

    def debug(self, reference: Artifact, int8: Artifact) -> DebugSection:
        """Say what int8 costs at each layer, on a few calibration images."""
        _begin("debug")
        started = time.perf_counter()
        section, reused = self._kept(
            DEBUG,
            DebugSection,
            lambda: debug_stage(reference, int8, self.check_images, threads=self.config.threads),
            files=[reference.sha256, int8.sha256],
        )
        layers = section.layers
        note = f"{len(layers)} layers over {section.images} images, worst {layers[0].name}"
        self._note("debug", None if reused else time.perf_counter() - started, note=note)
        return section

    def parity(self, entries: Sequence[Entry]) -> ParitySection:
        """Score everything on the evaluation images."""
        _begin("parity")
        config = self.config
        started = time.perf_counter()
        section, reused = self._kept(
            PARITY,
            ParitySection,
            lambda: parity_section(
                self.reference,
                self.source.reference_name,
                entries,
                images=config.evaluation,
                preprocess=self.source.preprocess,
                output=self.source.output,
                max_drop=config.max_drop,
                max_drop_class=config.max_drop_class,
                seed=config.seed,
                execution=self.execution,
                progress=lambda images, label: bar(images, label, unit="image"),
                time_limit_s=config.time_limit_s,
            ),
            entries=_identities(entries),
            judged=self._judged(),
        )
        note = f"{len(section.rows)} rows over {section.images} images"
        self._note("parity", None if reused else time.perf_counter() - started, note=note)
        return section

    def benchmark(self, entries: Sequence[Entry]) -> BenchmarkSection:
        """Time everything, interleaved, at batch 1 and at the configured batch."""
        _begin("benchmark")
        config = self.config
        started = time.perf_counter()

        def measure() -> BenchmarkSection:
            with share_bar("benchmark") as progress:
                return speed_section(
                    self.source.subject,
                    [FileSubject(entry=entry) for entry in entries],
                    images=self.check_images,
                    sweep=Sweep(
                        threads=(config.threads,), batches=tuple(sorted({1, config.batch}))
                    ),
                    warmup=config.warmup,
                    duration_s=config.duration_s,
                    progress=progress,
                    time_limit_s=config.time_limit_s,
                    most_bytes=MOST_BYTES,
                )

        section, reused = self._kept(
            BENCHMARK,
            BenchmarkSection,
            measure,
            entries=_identities(entries),
            timing=[config.batch, config.warmup, config.duration_s],
        )
        note = f"{len(section.rows)} rows, interleaved"
        self._note("benchmark", None if reused else time.perf_counter() - started, note=note)
        for line in () if reused else noise_lines(section):
            log.warning("%s", line)
        return section

    def layer_times(self, entries: Sequence[Entry]) -> tuple[LayerTimeRow, ...]:
        """Profile a few calls of everything that was timed."""
        _begin("layer times")
        kind = tuple[LayerTimeRow, ...]
        return self._kept(
            LAYER_TIMES,
            kind,
            lambda: layer_time_section(
                bar(entries, "layer times", unit="model"),
                images=self.check_images,
                execution=self.execution,
                time_limit_s=self.config.time_limit_s,
            ),
            entries=_identities(entries),
        )[0]

    def worst_images(
        self, parity: ParitySection, entries: Sequence[Entry]
    ) -> tuple[PicturedImage, ...]:
        """Draw the images that lost most."""
        _begin("worst images")
        kind = tuple[PicturedImage, ...]
        return self._kept(
            WORST_IMAGES,
            kind,
            lambda: worst_images(
                parity,
                self.reference,
                entries,
                self.config.evaluation,
                preprocess=self.source.preprocess,
                output=self.source.output,
                execution=self.execution,
                time_limit_s=self.config.time_limit_s,
            ),
            entries=_identities(entries),
            judged=self._judged(),
            lost=[row.worst_images for row in parity.rows],
        )[0]

    def _judged(self) -> dict[str, Any]:
        """What decides a verdict beside the models: the images, and what was asked of them."""
        given = {field.name: getattr(self.config, field.name) for field in fields(self.config)}
        asked = {name: value for name, value in given.items() if name not in NOT_JUDGING}
        return {"evaluation_sha256": self.config.evaluation.sha256()} | asked

    def _note(
        self,
        stage: str,
        seconds: float | None,
        *,
        artifact: Artifact | None = None,
        check: StageCheck | None = None,
        note: str | None = None,
    ) -> None:
        """Keep the row of the report and say the stage is done."""
        self.number += 1
        said = [f"[{self.number}/{self.total}] {stage}"]
        said.append("reused" if seconds is None else f"{seconds:.1f} s")
        described = None
        if artifact:
            size = artifact.path.stat().st_size
            said.append(f"{artifact.path.name} {size / 1e6:.1f} MB")
            described = StageArtifact(
                file=artifact.path.name,
                precision=artifact.precision,
                bytes=size,
                sha256=artifact.sha256,
                opset=artifact.opset,
            )
        if check:
            said.append(f"max |difference| {check.max_abs_difference:.1e}")
            said.append(f"{check.disagreement_percent:.3f} % of pixels change class")
        if note:
            said.append(note)
        log.info("%s", ", ".join(said))
        self.rows.append(
            StageRow(
                name=stage,
                status="reused" if seconds is None else "done",
                seconds=seconds,
                note=note,
                artifact=described,
                check=check,
            )
        )


def _setting(config: RunConfig) -> dict[str, Any]:
    """What decides figures beside the models: the machine, and how it is used."""
    machine = describe_environment()
    return {
        "machine": [machine.os, machine.cpu, machine.cores, machine.isa, usable(onednn=True)],
        "threads": config.threads,
        "runtimes": [runtime.value for runtime in config.runtimes or ()],
        "time_limit_s": config.time_limit_s,
    }


def _identities(entries: Sequence[Entry]) -> list[list[str | None]]:
    """What tells entries from others."""
    return [[e.label, e.artifact.sha256, e.runtime.value, e.skipped] for e in entries]


def _failed(section: object) -> bool:
    """Whether a runtime failed where it should have been measured."""
    rows = section if isinstance(section, tuple) else getattr(section, "rows", ())
    failed = any(getattr(row, "failed", False) for row in rows)
    return failed or any(isinstance(row, LayerTimeRow) and row.skipped for row in rows)


def _begin(stage: str) -> None:
    """Name the stage for a message about memory."""
    working_on(f"segdeploy run, stage {stage}")


def _inputs(config: RunConfig, source: Source) -> dict[str, Any]:
    """What decides the artefacts, for the manifest."""
    tuning: dict[str, Any] = {}
    if config.tune_s is not None:  # what was tuned elsewhere, or for other threads, is not reused
        model = processor()[0] or platform.machine()
        device = [model, *usable(onednn=True), f"{config.threads} threads"]
        tuning = {"tune_s": config.tune_s, "tuned_on": device}
    return (
        source.inputs
        | tuning
        | {
            "segdeploy": __version__,
            "versions": describe_environment().versions,
            "calibration_sha256": config.calibration.sha256(),
            "method": config.method.value,
            "targets": [profile.name for profile in config.targets],
            "exclude": sorted(config.exclude),
        }
    )
