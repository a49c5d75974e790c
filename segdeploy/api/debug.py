"""Debug: which layers int8 hurts and why."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from segdeploy.api.calibration_tables import calibration_table_of, file_of
from segdeploy.api.data import Data
from segdeploy.api.models import AnyOnnx, artifact_of
from segdeploy.api.outputs import AnyPath, output_file
from segdeploy.api.table import table_of
from segdeploy.api.targets import profile_of
from segdeploy.calibration.files import write_atomic
from segdeploy.calibration.json_record import json_of
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.onnx_model.file import contract_of
from segdeploy.deploy.recovery.equalise import scaled_like
from segdeploy.deploy.sensitivity.layer_errors import LayerError, compare_layers, layer_errors
from segdeploy.deploy.sensitivity.section import DebugSection, debug_section
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.progress import bar
from segdeploy.deploy.targets.profiles import ORT_X86, TargetProfile

T = TypeVar("T")

DEFAULT_SAMPLES = 16
"""Images that are run where nothing is said, or all where there are fewer."""

HISTOGRAMS = ("histogram", "roundings")
"""Columns of a layer that hold more than a figure."""


@dataclass(frozen=True, kw_only=True)
class LayerErrors:
    """What int8 costs at each layer.

    Attributes:
        section: everything that was measured, as a report holds it.
    """

    section: DebugSection

    @property
    def layers(self) -> tuple[LayerError, ...]:
        """The quantized convolutions, worst first."""
        return self.section.layers

    @property
    def exclude(self) -> tuple[str, ...]:
        """Layers to keep in float first, as ``segdeploy.quantize`` takes them."""
        return self.section.exclude

    def table(self) -> Any:
        """A row for each layer: a DataFrame where pandas is installed, else dicts."""
        return table_of(self.layers, without=HISTOGRAMS)


def debug(
    model: AnyOnnx,
    *,
    table: CalibrationTable | AnyPath | None = None,
    reference: AnyOnnx | None = None,
    target: TargetProfile | str | None = None,
    exclude: Sequence[str] = (),
    data: Data | AnyPath | None = None,
    threads: int | None = None,
    out: AnyPath | None = None,
    overwrite: bool = False,
) -> LayerErrors:
    """Rank the layers of an int8 model by what they do to its output.

    Args:
        model: an int8 file in QDQ form, with ``reference``; or the float file that was calibrated,
            with ``table``.
        table: its ranges, or the file that holds them.
        reference: the float file that the int8 file was made from.
        target: with ``table``: what int8 is made for; ``None`` is ort-x86.
        exclude: with ``table``: layers that stay in float.
        data: images of its train split are run: ``num_samples``, or 16.
        threads: images worked on at once; ``None`` takes every processor of this process.
        out: JSON file to write, histograms and all.
        overwrite: replace the file that is there.

    Raises:
        InputError: a file cannot be read, or the two do not belong together.
        UsageError: neither ``table`` nor ``reference``, both, or a file of the wrong precision.
        RunError: ONNX Runtime failed.
        OSError: ``out`` cannot be written.
    """
    found = artifact_of(model)
    _require_one_question(found, table, reference, target, exclude)
    right = found if reference is None else artifact_of(reference)
    output = None
    if out is not None:
        given = [] if table is None else file_of(table)
        output = output_file(Path(out), found.path, right.path, *given, overwrite=overwrite)
    images = _images(data)
    inputs = list(images.inputs(contract_of(right)))
    if table is None:
        name, made_for = found.path.name, found.target
        with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
            beside = scaled_like(right, found, Path(folder) / "float.onnx")
            layers = compare_layers(beside, found, inputs, threads=threads, progress=_progress)
    else:
        profile = profile_of(target or ORT_X86)
        name, made_for = f"{found.path.name} in int8", profile.name
        layers = layer_errors(
            found,
            table=calibration_table_of(table),
            profile=profile,
            images=inputs,
            exclude=exclude,
            threads=threads,
            progress=_progress,
        )
    section = debug_section(
        layers, file=name, reference=right.path.name, target=made_for, images=len(images)
    )
    if output is not None:
        text = json.dumps(json_of(section), indent=1, allow_nan=False) + "\n"
        write_atomic(output, text.encode())
    return LayerErrors(section=section)


def _require_one_question(
    model: Artifact,
    table: CalibrationTable | AnyPath | None,
    reference: AnyOnnx | None,
    target: TargetProfile | str | None,
    exclude: Sequence[str],
) -> None:
    """Refuse what states no int8 model, or two.

    Raises:
        UsageError: naming them and what to give.
    """
    if (table is None) == (reference is None):
        raise UsageError(
            "give -m FLOAT.onnx --calibration TABLE.json, or -m INT8.onnx --reference FLOAT.onnx"
        )
    if reference is not None and (target or exclude):
        raise UsageError("--target and --exclude go with --calibration; an int8 file has its own")
    if reference is not None and model.precision is not Precision.INT8:
        raise UsageError(
            f"-m {model.path} is {model.precision.value}; with --reference give an int8 file in "
            "QDQ form, as `segdeploy quantize` writes it"
        )
    if table is not None and model.precision is Precision.INT8:
        raise UsageError(
            f"-m {model.path} is int8 already; give the float file it was made from as "
            "--reference, not --calibration"
        )


def _images(data: Data | AnyPath | None) -> SegmentationSet:
    """Of the train split only: the test split is for reports."""
    given = Data.of(data)
    images = given.calibration_images
    if given.num_samples is not None:
        return images
    return images.take(min(DEFAULT_SAMPLES, len(images)), seed=given.seed)


def _progress(work: Iterable[T]) -> Iterable[T]:
    return bar(work, "debug", unit="step")
