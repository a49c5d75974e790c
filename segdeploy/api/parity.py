"""Parity: what models lose against a reference on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
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
from segdeploy.api.table import kept_figures, table_of
from segdeploy.benchmarks.parity.predictions import Predictions, Values, read_predictions
from segdeploy.benchmarks.parity.records import ParityRow, ParitySection
from segdeploy.benchmarks.parity.run import Opener, parity_section
from segdeploy.benchmarks.speed.entries import Entry, entries_everywhere, entries_for
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.distributed.engine import RAY_WORKERS, Engine
from segdeploy.deploy.distributed.ray_workers import RayWorkers
from segdeploy.deploy.distributed.shard import Shard, shard_from_environment
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import contract_of, output_of
from segdeploy.deploy.runtimes.base import Execution, Runtime
from segdeploy.deploy.runtimes.isolated import TIME_LIMIT_S, open_isolated
from segdeploy.deploy.runtimes.registry import RuntimeName, usable_cores
from segdeploy.deploy.system.errors import InputError, RunError, UsageError, one_line
from segdeploy.deploy.system.progress import bar

if TYPE_CHECKING:
    from segdeploy.api.models import AnyModel

MAX_DROP = 0.2
"""Loss of IoU that passes where nothing else is said, percentage points."""


@dataclass(frozen=True, kw_only=True)
class DeviceOutputs:
    """What a device returned for the test split: a file for each image.

    Attributes:
        folder: ``NAME.npz`` or ``NAME.npy`` (one float array, the network's output, or the class of
            each pixel in whole numbers) or ``NAME.png`` (a mask of the network's size).
        name: of the device, for the table; ``None`` is the folder's.
        values: what the arrays hold, probability or logits.
        order: file with the inputs in the order the device took them, for one that numbers its
            outputs.
    """

    folder: AnyPath
    name: str | None = None
    values: Values | str = Values.PROBABILITY
    order: AnyPath | None = None

    @property
    def shown(self) -> str:
        """Its name in the table."""
        return self.name or Path(self.folder).resolve().name

    def read(
        self, images: SegmentationSet, preprocess: Preprocess, output: OutputContract | None = None
    ) -> Predictions:
        """The outputs in the order of the images, by the contracts of the reference.

        Raises:
            InputError: one is missing, or has another size.
        """
        return read_predictions(
            Path(self.folder),
            [sample.name for sample in images],
            size=preprocess.size,
            output=output,
            values=choice(Values, self.values, what="values"),
            order=None if self.order is None else Path(self.order),
            name=self.name,
        )


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Candidates beside their reference, over the same images.

    Attributes:
        section: everything that was measured, as a report holds it.
    """

    section: ParitySection

    @property
    def kept(self) -> bool:
        """Whether every candidate that was compared is proven to keep the budget."""
        return self.section.passed

    @property
    def rows(self) -> tuple[ParityRow, ...]:
        """The reference first, then the candidates."""
        return self.section.rows

    def table(self) -> Any:
        """A row for each candidate: a DataFrame where pandas is installed, else dicts."""
        return table_of([kept_figures(row) for row in self.rows])

    def __repr__(self) -> str:
        told = ", ".join(
            f"{row.name}: {row.verdict.value if row.verdict else 'skipped'}"
            for row in self.rows[1:]
        )
        return f"<Parity {'kept' if self.kept else 'NOT KEPT'} over {self.section.images}: {told}>"


def parity(
    models: AnyOnnx | Sequence[AnyOnnx] = (),
    *,
    reference: AnyModel,
    data: Data | AnyPath | None = None,
    outputs: Sequence[DeviceOutputs | AnyPath] = (),
    max_drop: float = MAX_DROP,
    max_drop_class: float | None = None,
    runtimes: Runtimes | None = None,
    seed: int = 0,
    threads: int | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    engine: Engine | str = Engine.LOCAL,
    workers: int | None = None,
) -> Parity:
    """Compare models, and outputs that devices returned, with a reference on the test split.

    Every image is scored by itself and the scores are joined in the order of the images: with as
    many ``threads`` each, one process and several give the same bytes. Started by ``torchrun``
    each process scores a share of the images and every one returns the same; with Ray a process
    that dies is started again, and its images are given to another.

    Args:
        models: ONNX files.
        reference: a checkpoint, run in PyTorch, or an ONNX file, run in ONNX Runtime.
        data: its test split judges.
        outputs: of devices, for the same images.
        max_drop: largest loss that passes, percentage points; the whole 95 % interval of the
            change must be within it. Of IoU with one label, of mIoU with several classes.
        max_drop_class: with several classes, the same for the IoU of each of them; ``None`` asks
            only that none is lost altogether.
        runtimes: by name; ``None`` is every runtime that is here and takes the file.
        seed: of the bootstrap.
        threads: of each runtime; ``None`` takes every processor of this process, its share of them
            under ``torchrun``, and one with Ray.
        time_limit_s: longest time for loading a model, and for each call.
        engine: local, or ray: the cluster in ``RAY_ADDRESS``, else a new one here.
        workers: with Ray, processes that each hold a model; ``None`` is two.

    Raises:
        InputError: nothing could be compared, a model cannot be read, or a runtime that was asked
            for is not here.
        UsageError: nothing to compare, two of one name, a reference that expects other inputs,
            workers without Ray, or Ray under ``torchrun``.
        RunError: the reference failed, or a process or the cluster was lost.
    """
    given = [
        each if isinstance(each, DeviceOutputs) else DeviceOutputs(folder=each) for each in outputs
    ]
    artifacts = artifacts_of(several(models))
    _require_candidates(artifacts, given, runtimes)
    images = Data.of(data).test
    right = model_of(reference)
    with shard_from_environment() as shard, ExitStack() as stack:
        crew = _crew(engine, workers, threads, shard)
        alone = usable_cores() // shard.size if crew is None else 1
        execution = Execution(threads=threads or max(1, alone))
        opener, name, preprocess, output = _reference(right, execution, time_limit_s)
        runtime = stack.enter_context(shard.together(opener))
        if artifacts:
            require_same_inputs(right.path, preprocess, common_contract(artifacts))
            _require_same_classes(right.path, output, artifacts)
        section = parity_section(
            runtime,
            name,
            _entries(artifacts, runtimes, execution, time_limit_s),
            images=images,
            preprocess=preprocess,
            output=output,
            max_drop=float(max_drop),
            max_drop_class=None if max_drop_class is None else float(max_drop_class),
            seed=seed,
            execution=execution,
            progress=lambda items, label: (
                bar(items, label, unit="image") if shard.is_first else items
            ),
            predictions=[each.read(images, preprocess, output) for each in given],
            time_limit_s=time_limit_s,
            shard=shard,
            workers=None if crew is None else stack.enter_context(crew),
            reference_opener=None if crew is None else opener,
        )
    _require_compared(section)
    return Parity(section=section)


def _require_candidates(
    artifacts: dict[str, Artifact], outputs: Sequence[DeviceOutputs], runtimes: Runtimes | None
) -> None:
    """Refuse what leaves nothing to compare, or what nothing reads."""
    if not artifacts and not outputs:
        raise UsageError("nothing to compare; give -m FILE, --predictions DIR, or both")
    if runtimes and not artifacts:
        raise UsageError("--runtime is for the files of -m, and there are none")
    shown = [each.shown for each in outputs]
    if len(set(shown)) != len(shown):
        raise UsageError(
            f"two of the predictions are called {shown}; tell them apart with --predictions-name"
        )


def _require_same_classes(
    path: Path, reference: OutputContract, artifacts: dict[str, Artifact]
) -> None:
    """Refuse models whose channels mean something else than the reference's.

    Raises:
        UsageError: with both.
    """
    for label, artifact in artifacts.items():
        found = output_of(artifact)
        same = found.channels == reference.channels if reference.binary else found == reference
        if found.activation is not reference.activation or not same:
            raise UsageError(
                f"--reference {path} gives {_told(reference)}, {label} {_told(found)}; compare "
                "models of the same classes"
            )


def _told(output: OutputContract) -> str:
    return f"{output.activation.value} of {one_line(', '.join(output.classes), limit=80)}"


def _require_compared(section: ParitySection) -> None:
    """Refuse a table of nothing but skipped rows."""
    candidates = section.rows[1:]
    if all(row.skipped and not row.failed for row in candidates):
        reasons = "; ".join(f"{row.name}: {row.skipped}" for row in candidates)
        raise InputError(f"nothing could be compared: {reasons}")


def _entries(
    artifacts: dict[str, Artifact],
    runtimes: Runtimes | None,
    execution: Execution,
    time_limit_s: float,
) -> tuple[Entry, ...]:
    """Every file on the runtimes asked for; without such, on every one that takes it."""
    chosen = runtimes_of(
        runtimes, list(artifacts.values()), execution=execution, time_limit_s=time_limit_s
    )
    return entries_everywhere(artifacts) if chosen is None else entries_for(artifacts, chosen)


def _crew(
    engine: Engine | str, workers: int | None, threads: int | None, shard: Shard
) -> RayWorkers | None:
    """The processes of a Ray cluster, where they are asked for."""
    if choice(Engine, engine, what="engine") is Engine.LOCAL:
        if workers is not None:
            raise UsageError("--workers is the number of Ray's processes; add --engine ray")
        return None
    if shard.size > 1:
        raise UsageError("--engine ray under torchrun shares the images twice; take one of them")
    return RayWorkers(workers=workers or RAY_WORKERS, threads=threads or 1)


def _reference(
    reference: Any, execution: Execution, time_limit_s: float
) -> tuple[Opener, str, Preprocess, OutputContract]:
    """What opens the reference, its name, and its contracts."""
    if in_pytorch(reference):
        from segdeploy.deploy.runtimes.pytorch import PyTorchRuntime

        loaded = partial(PyTorchRuntime, reference, execution=execution)
        return loaded, "PyTorch fp32", reference.preprocess, reference.output
    name = f"{reference.path.name} on ONNX Runtime"
    opener = partial(_isolated, name, reference, execution, time_limit_s)
    return opener, name, contract_of(reference), output_of(reference)


def _isolated(name: str, reference: Artifact, execution: Execution, time_limit_s: float) -> Runtime:
    try:
        return open_isolated(
            RuntimeName.ONNXRUNTIME, reference, execution=execution, time_limit_s=time_limit_s
        )
    except RunError as error:
        raise RunError(f"the reference, {name}: {error}") from error
