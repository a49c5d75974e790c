"""Benchmark: models timed side by side, call by call or from image files to mask files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from segdeploy.api.choices import choice
from segdeploy.api.data import Data
from segdeploy.api.models import (
    AnyOnnx,
    artifacts_of,
    common_contract,
    in_pytorch,
    model_of,
    require_same_inputs,
    several,
)
from segdeploy.api.outputs import AnyPath
from segdeploy.api.runtimes import Runtimes, runtimes_of
from segdeploy.api.table import table_of
from segdeploy.benchmarks.speed.end_to_end import (
    Route,
    end_to_end_section,
    image_files,
    require_apart,
)
from segdeploy.benchmarks.speed.entries import Entry, entries_for
from segdeploy.benchmarks.speed.records import (
    BenchmarkRow,
    BenchmarkSection,
    EndToEndRow,
    EndToEndSection,
)
from segdeploy.benchmarks.speed.run import speed_section
from segdeploy.benchmarks.speed.subjects import CheckpointSubject, FileSubject, Subject
from segdeploy.benchmarks.speed.sweep import Sweep
from segdeploy.benchmarks.speed.timing_noise import noise_lines
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.onnx_model.file import contract_of
from segdeploy.deploy.runtimes.execution import Execution, Hint
from segdeploy.deploy.runtimes.isolated import TIME_LIMIT_S
from segdeploy.deploy.runtimes.registry import RuntimeName, usable_cores
from segdeploy.deploy.system.only_writer import require_new_in
from segdeploy.deploy.system.progress import share_bar

if TYPE_CHECKING:
    from segdeploy.api.models import AnyModel

IMAGES = 8
"""Images of the data that calls are timed on."""

WARMUP = 5
DURATION_S = 2.0

SAMPLES = ("latencies_s", "completions_s", "float_layers", "written_s")
"""Columns of a row that hold raw samples."""

Counts = int | Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Models timed in turns.

    Attributes:
        section: everything that was measured, as a report holds it.
    """

    section: BenchmarkSection

    @property
    def rows(self) -> tuple[BenchmarkRow, ...]:
        """One for each model and setting, the reference first."""
        return self.section.rows

    @property
    def failed(self) -> tuple[BenchmarkRow, ...]:
        """Those whose runtime crashed, hung or failed."""
        return tuple(row for row in self.rows if row.failed)

    @property
    def noise(self) -> tuple[str, ...]:
        """What to know of how quiet the machine was, in words."""
        return tuple(noise_lines(self.section))

    def table(self) -> Any:
        """The figures of each row: a DataFrame where pandas is installed, else dicts."""
        return table_of(self.rows, without=SAMPLES)


@dataclass(frozen=True, kw_only=True)
class EndToEnd:
    """Models timed from image files to mask files.

    Attributes:
        section: everything that was measured.
        masks: the folders that masks were written to; none where they were thrown away.
    """

    section: EndToEndSection
    masks: tuple[Path, ...] = ()

    @property
    def rows(self) -> tuple[EndToEndRow, ...]:
        """One for each model and setting, the reference first."""
        return self.section.rows

    @property
    def failed(self) -> tuple[EndToEndRow, ...]:
        """Those whose runtime crashed, hung or failed."""
        return tuple(row for row in self.rows if row.failed)

    def table(self) -> Any:
        """The figures of each row: a DataFrame where pandas is installed, else dicts."""
        return table_of(self.rows, without=SAMPLES)


def benchmark(
    models: AnyOnnx | Sequence[AnyOnnx],
    *,
    reference: AnyModel | None = None,
    data: Data | AnyPath | None = None,
    runtimes: Runtimes | None = None,
    batches: Counts = (1, 8),
    threads: Counts | None = None,
    streams: Counts | None = None,
    hint: Hint | str = Hint.LATENCY,
    precision: Precision | str = Precision.FP32,
    warmup: int = WARMUP,
    duration_s: float = DURATION_S,
    time_limit_s: float = TIME_LIMIT_S,
) -> Benchmark:
    """Time models side by side, interleaved in one run; every setting with every other.

    Args:
        models: ONNX files that expect the same inputs.
        reference: a checkpoint in PyTorch, or an ONNX file in ONNX Runtime, timed as 1x.
        data: images of its test split are timed on.
        runtimes: by name, or "auto"; ``None`` is what each file suits and is here.
        batches: images a call.
        threads: in all; ``None`` takes every processor of this process.
        streams: calls at once, for throughput; ``None`` is one for each thread.
        hint: latency (one call at a time), or throughput (every stream busy).
        precision: of the layers that are not quantized, fp32 or bf16.
        warmup: untimed calls.
        duration_s: seconds for each row.
        time_limit_s: longest time for loading a model, and for each call.

    Raises:
        InputError: a model cannot be read, or a runtime that was asked for is not here.
        UsageError: models that expect different inputs, or settings that contradict each other.
    """
    sweep = _sweep(threads, batches, streams, choice(Hint, hint, what="hint"), precision)
    artifacts = artifacts_of(several(models))
    preprocess = common_contract(artifacts)
    entries = entries_for(artifacts, _runtimes(runtimes, artifacts, sweep, time_limit_s))
    images = Data.of(data).test
    images = images.take(min(IMAGES, len(images)), seed=0)
    right = None if reference is None else _reference(reference, preprocess)
    with share_bar("benchmark") as progress:
        section = speed_section(
            right,
            [FileSubject(entry=entry) for entry in entries],
            images=images.inputs(preprocess),
            pixels=images.pixels(preprocess) if images.has_pixels(preprocess) else None,
            sweep=sweep,
            warmup=warmup,
            duration_s=float(duration_s),
            progress=progress,
            time_limit_s=time_limit_s,
        )
    return Benchmark(section=section)


def end_to_end(
    models: AnyOnnx | Sequence[AnyOnnx],
    images: AnyPath,
    out: AnyPath | None = None,
    *,
    reference: AnyModel | None = None,
    runtimes: Runtimes | None = None,
    batches: Counts = 1,
    threads: Counts | None = None,
    streams: Counts | None = None,
    hint: Hint | str = Hint.THROUGHPUT,
    precision: Precision | str = Precision.FP32,
    warmup: int = WARMUP,
    duration_s: float = DURATION_S,
    time_limit_s: float = TIME_LIMIT_S,
    overwrite: bool = False,
) -> EndToEnd:
    """Time image files in, mask files out; decoding, inference and encoding overlap.

    Args:
        models: ONNX files.
        images: a folder of images of any size.
        out: folder for the masks, with one for each model where there are several; ``None`` throws
            them away.
        reference: as for ``benchmark``; likewise the settings.
        runtimes: likewise.
        batches: likewise.
        threads: likewise.
        streams: likewise.
        hint: likewise.
        precision: likewise.
        warmup: likewise.
        duration_s: shortest measurement; the images are taken again until it has passed.
        time_limit_s: likewise.
        overwrite: replace the masks that the folder holds.

    Raises:
        InputError: a model or an image cannot be read, or a runtime is not here.
        UsageError: masks that would replace images or what the folder holds, or settings that
            contradict each other.
    """
    sweep = _sweep(threads, batches, streams, choice(Hint, hint, what="hint"), precision)
    paths = image_files(Path(images))
    if out is not None:
        require_apart(Path(images), Path(out))
        require_new_in(Path(out), overwrite=overwrite)
    artifacts = artifacts_of(several(models))
    with ExitStack() as stack:
        output = Path(stack.enter_context(TemporaryDirectory()) if out is None else out)
        routes = _routes(
            artifacts,
            output,
            runtimes=_runtimes(runtimes, artifacts, sweep, time_limit_s),
            reference=reference,
        )
        progress = stack.enter_context(share_bar("end to end"))
        section = end_to_end_section(
            routes,
            paths,
            sweep=sweep,
            warmup=warmup,
            duration_s=float(duration_s),
            progress=progress,
            time_limit_s=time_limit_s,
        )
    written = sorted({route.output for route in routes}) if out is not None else []
    return EndToEnd(section=section, masks=tuple(written))


def _routes(
    artifacts: dict[str, Artifact],
    output: Path,
    *,
    runtimes: tuple[RuntimeName, ...] | None,
    reference: AnyModel | None,
) -> list[Route]:
    """Each model with its contract; where there are several, with a folder of its own."""
    contracts = {label: contract_of(artifact) for label, artifact in artifacts.items()}
    found: list[tuple[str, Subject, Preprocess]] = [
        (f"{entry.label}.{entry.runtime.value}", FileSubject(entry=entry), contracts[entry.label])
        for entry in entries_for(artifacts, runtimes)
    ]
    if reference is not None:
        contract = common_contract(artifacts)
        found.insert(0, ("reference", _reference(reference, contract), contract))
    return [
        Route(subject=subject, preprocess=contract, output=output / name if found[1:] else output)
        for name, subject, contract in found
    ]


def _sweep(
    threads: Counts | None,
    batches: Counts,
    streams: Counts | None,
    hint: Hint,
    precision: Precision | str,
) -> Sweep:
    """The settings to go through."""
    return Sweep(
        threads=_numbers(threads if threads is not None else usable_cores()),
        batches=_numbers(batches),
        streams=None if streams is None else _numbers(streams),
        hint=hint,
        precision=choice(Precision, precision, what="precision"),
    )


def _numbers(given: Counts) -> tuple[int, ...]:
    return (given,) if isinstance(given, int) else tuple(given)


def _runtimes(
    asked: Runtimes | None, artifacts: dict[str, Artifact], sweep: Sweep, time_limit_s: float
) -> tuple[RuntimeName, ...] | None:
    execution = Execution(threads=sweep.threads[0], precision=sweep.precision)
    return runtimes_of(
        asked, list(artifacts.values()), execution=execution, time_limit_s=time_limit_s
    )


def _reference(reference: AnyModel, models: Preprocess) -> Subject:
    """The reference, which must expect the same inputs as the models."""
    found = model_of(reference)
    if in_pytorch(found):
        require_same_inputs(found.path, found.preprocess, models)
        return CheckpointSubject(name="PyTorch fp32", checkpoint=found)
    assert isinstance(found, Artifact)
    require_same_inputs(found.path, contract_of(found), models)
    name = found.path.name
    entry = Entry(label=name, artifact=found, runtime=RuntimeName.ONNXRUNTIME, skipped=None)
    return FileSubject(entry=entry)
