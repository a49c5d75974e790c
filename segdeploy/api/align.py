"""Align: check that two implementations compute the same, layer by layer or step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from segdeploy.api.choices import choices
from segdeploy.api.data import Data
from segdeploy.api.models import AnyOnnx, artifact_of, checkpoint_of, model_of
from segdeploy.api.outputs import AnyPath
from segdeploy.api.runtimes import Runtimes
from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import contract_of
from segdeploy.deploy.runtimes.base import Execution
from segdeploy.deploy.runtimes.registry import CPU_RUNTIMES, RuntimeName, availability, usable_cores
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.only_writer import require_new, require_new_in
from segdeploy.deploy.system.progress import bar
from segdeploy.training.align.compare import TOLERANCES, StepRow, compare_dumps
from segdeploy.training.align.curves import (
    MAX_ABSOLUTE,
    MAX_RELATIVE,
    CurveAlignment,
    align_curves,
)
from segdeploy.training.align.dump import INDEX, Dump, Step, read_dump, write_dump
from segdeploy.training.align.history import read_curve
from segdeploy.training.align.layers import (
    DEFAULT_TOLERANCE,
    LayerAlignment,
    Reference,
    align_layers,
)
from segdeploy.training.align.onnx import OnnxValues, perturb
from segdeploy.training.align.plot import require_plots, write_plot
from segdeploy.training.align.tolerance import Tolerance

if TYPE_CHECKING:
    from segdeploy.api.models import AnyCheckpoint, AnyModel

DEFAULT_SAMPLES = 4
DEFAULT_ARCH = "unet_plus_plus"
"""Of the bundled checkpoint that stands in where none is given."""


@dataclass(frozen=True, kw_only=True)
class LayersAlignment:
    """A model file in each runtime beside its reference.

    Attributes:
        alignments: one for each runtime.
        skipped: why the other runtimes for the CPU did not run.
    """

    alignments: tuple[LayerAlignment, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no layer departs in any runtime."""
        return all(alignment.passed for alignment in self.alignments)


@dataclass(frozen=True, kw_only=True)
class StepsAlignment:
    """Two dumps, step by step.

    Attributes:
        reference: taken as right.
        candidate: compared with it.
        steps: in the order they are computed.
    """

    reference: Dump
    candidate: Dump
    steps: tuple[StepRow, ...]

    @property
    def first_departure(self) -> StepRow | None:
        """The first step that departs: what follows may only repeat it."""
        return next((row for row in self.steps if not row.passed), None)

    @property
    def passed(self) -> bool:
        """Whether every step agrees."""
        return self.first_departure is None


def layers(
    reference: AnyModel | None = None,
    model: AnyOnnx | None = None,
    *,
    data: Data | AnyPath | None = None,
    num_samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    runtimes: Runtimes | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
    threads: int | None = None,
    perturbed: str | None = None,
) -> LayersAlignment:
    """Compare a network with its ONNX file in each runtime, or two ONNX files, layer by layer.

    Args:
        reference: what is taken as right; ``None`` is the bundled UNet++ checkpoint.
        model: the file to check; ``None`` exports the reference, which then is a checkpoint.
        data: its test split is run.
        num_samples: images, drawn by seed.
        seed: which.
        runtimes: by name; ``None`` takes those for the CPU that are here.
        tolerance: share of a layer's largest magnitude.
        threads: ``None`` takes every processor of this process.
        perturbed: a layer whose weights are scaled first, to see the check name it.

    Raises:
        InputError: a model or image cannot be read.
        UsageError: the two expect different inputs, or nothing to check is given.
        RunError: a runtime failed.
    """
    execution = Execution(threads=threads or usable_cores())
    chosen, skipped = _runtimes(runtimes)
    images = Data.of(data).test.take(num_samples, seed=seed)
    with (
        TemporaryDirectory(prefix="segdeploy-") as folder,
        _sides(reference, model, Path(folder), execution) as (right, candidate, preprocess),
    ):
        if perturbed is not None:
            faulty = Path(folder) / f"perturbed-{candidate.path.name}"
            candidate = perturb(candidate, faulty, layer=perturbed)
        found = align_layers(
            right,
            candidate,
            chosen,
            list(images.inputs(preprocess)),
            tolerance=tolerance,
            execution=execution,
            progress=lambda items: bar(items, "align", unit="image"),
        )
    return LayersAlignment(alignments=found, skipped=skipped)


def dump(
    checkpoint: AnyCheckpoint | None = None,
    data: Data | AnyPath | None = None,
    *,
    out: AnyPath | None = None,
    steps: int = 5,
    batch: int = 4,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: str = "cpu",
    plain_kernels: bool = False,
    threads: int | None = None,
    overwrite: bool = False,
) -> Dump:
    """What a checkpoint's training computes, step by step, from the inputs to the first losses.

    Args:
        checkpoint: left as it is; ``None`` is the bundled UNet++.
        data: its train split is trained on.
        out: folder to write it to; ``None`` writes nothing.
        steps: of the short training, one batch each.
        batch: images of a step.
        learning_rate: of AdamW.
        seed: which images, in which order.
        device: ``cpu``, or PyTorch's ``cuda`` (not run on hardware).
        plain_kernels: PyTorch's own CPU kernels, not oneDNN's: another implementation.
        threads: ``None`` takes every processor of this process.
        overwrite: replace the dump that the folder holds.

    Raises:
        InputError: an image or mask cannot be read.
        UsageError: a count below 1, the device is not there, or the folder holds a dump.
        OSError: the folder cannot be written.
    """
    from segdeploy.training.align.steps import StepsRecipe, checkpoint_dump

    if out is not None:
        require_new_in(Path(out), INDEX, overwrite=overwrite)
    with _torch_threads(threads or usable_cores()):
        found = checkpoint_dump(
            checkpoint_of(bundled.checkpoint(DEFAULT_ARCH) if checkpoint is None else checkpoint),
            Data.of(data).train,
            StepsRecipe(steps=steps, batch=batch, learning_rate=learning_rate, seed=seed),
            device=device,
            plain_kernels=plain_kernels,
        )
    if out is not None:
        write_dump(found, Path(out))
    return found


def compare(
    reference: Dump | AnyPath,
    candidate: Dump | AnyPath,
    *,
    tolerances: Mapping[Step, Tolerance] = TOLERANCES,
) -> StepsAlignment:
    """Compare two dumps step by step.

    Args:
        reference: taken as right.
        candidate: of another implementation, with the same settings.
        tolerances: of each step.

    Raises:
        InputError: a dump cannot be read, or they are of different settings or tensors.
    """
    right = reference if isinstance(reference, Dump) else read_dump(Path(reference))
    other = candidate if isinstance(candidate, Dump) else read_dump(Path(candidate))
    rows = compare_dumps(right, other, tolerances=tolerances)
    return StepsAlignment(reference=right, candidate=other, steps=tuple(rows))


def curves(
    reference: AnyPath,
    candidate: AnyPath,
    *,
    column: str = "train_loss",
    common: bool = False,
    max_relative: float = MAX_RELATIVE,
    max_absolute: float = MAX_ABSOLUTE,
    plot: AnyPath | None = None,
    overwrite: bool = False,
) -> CurveAlignment:
    """Compare a column of two training histories.

    Args:
        reference: ``history.csv`` of the run taken as right.
        candidate: of the other.
        column: what is compared.
        common: compare what both have; otherwise other lengths are refused.
        max_relative: mean relative error that passes.
        max_absolute: mean absolute error that passes; either is enough.
        plot: file to draw both curves in, .png or .svg.
        overwrite: replace the plot that is there.

    Raises:
        InputError: a history cannot be read, or they do not fit.
        UsageError: a plot that is neither .png nor .svg, or that is there.
        OSError: the plot cannot be written.
    """
    if plot is not None:
        require_plots(Path(plot))
        require_new(Path(plot), overwrite=overwrite)
    right, other = (read_curve(Path(path), column) for path in (reference, candidate))
    found = align_curves(
        right, other, max_relative=max_relative, max_absolute=max_absolute, common=common
    )
    if plot is not None:
        write_plot(found, Path(plot))
    return found


@contextmanager
def _sides(
    reference: AnyModel | None,
    model: AnyOnnx | None,
    folder: Path,
    execution: Execution,
) -> Iterator[tuple[Reference, Artifact, Preprocess]]:
    """The reference, the file to check, and the input contract they share.

    Raises:
        UsageError: no two sides, or sides that expect different inputs.
    """
    right = model_of(bundled.checkpoint(DEFAULT_ARCH) if reference is None else reference)
    if isinstance(right, Artifact):
        if model is None:
            raise UsageError(
                f"{right.path} is an ONNX file and would be compared with itself; give the model "
                "to check, too"
            )
        candidate = artifact_of(model)
        preprocess = contract_of(candidate)
        _require_same_inputs(candidate, preprocess, right.path, contract_of(right))
        with OnnxValues(right, RuntimeName.ONNXRUNTIME, execution=execution) as values:
            yield values, candidate, preprocess
        return
    from segdeploy.deploy.stages.export import export
    from segdeploy.training.align.pytorch import PyTorchValues

    if model is None:
        candidate = export(right, folder / f"{right.path.stem}.onnx")
    else:
        candidate = artifact_of(model)
        _require_same_inputs(candidate, contract_of(candidate), right.path, right.preprocess)
    with _torch_threads(execution.threads):
        yield PyTorchValues(right), candidate, right.preprocess


def _require_same_inputs(
    model: Artifact, its: Preprocess, reference: Path, other: Preprocess
) -> None:
    if its != other:
        raise UsageError(
            f"{model.path} expects {its.to_json()}, {reference} {other.to_json()}; for a "
            "checkpoint give --preprocess as at the export"
        )


def _runtimes(asked: Runtimes | None) -> tuple[tuple[RuntimeName, ...], dict[str, str]]:
    """Those asked for; else those for the CPU that are here, and why the others are not."""
    if asked:
        return choices(RuntimeName, asked, what="runtime"), {}
    states = {name: availability(name) for name in CPU_RUNTIMES}
    ready = tuple(name for name, state in states.items() if state.ready)
    return ready, {n.value: s.reason for n, s in states.items() if s.reason is not None}


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """PyTorch works with this many threads inside, and with as many as before again outside."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
