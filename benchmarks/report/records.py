"""The report of a run, whole: what ``report.json`` holds, and every page is made from.

Units stand in the names; ``None`` means not measured. A field with a default was added later:
files of older versions lack it. ``report.schema.json`` beside this file is generated from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta

from segdeploy.benchmarks.parity.evidence import StageCheck
from segdeploy.benchmarks.parity.records import ParitySection, PicturedImage
from segdeploy.benchmarks.speed.environment import Environment
from segdeploy.benchmarks.speed.records import BenchmarkSection, LayerTimeRow
from segdeploy.calibration.json_record import Count, NotNegative, Positive, Sha256, Text
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.sensitivity.section import DebugSection

SCHEMA_VERSION: Literal[1] = 1


@dataclass(frozen=True, kw_only=True)
class Tool:
    """What wrote the report."""

    name: Text
    version: Text


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The network that was deployed.

    Attributes:
        family: public code base whose key layout the checkpoint has.
        checkpoint: name of the file.
        head: UNet++ head that was exported.
        recurrence: R2U-Net's t.
        preprocess: the input contract.
        output: the output contract.
        source: what was brought; of an ONNX file, ``checkpoint`` and its digest are the file's.
    """

    name: Text
    arch: Text
    family: Text | None
    checkpoint: Text | None
    checkpoint_sha256: Sha256 | None
    parameters: Count
    head: Annotated[int, Meta(ge=1, le=4)] | None
    recurrence: Count | None
    preprocess: dict[str, Any]
    output: dict[str, Any] | None = None
    source: Literal["checkpoint", "onnx", "module"] = "checkpoint"


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Images of one split.

    Attributes:
        root: name of the folder.
        sha256: over the names and bytes of all images, in name order.
    """

    root: Text
    split: Text
    images: Count
    sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class DataSets:
    """What calibrated the model, and what judged it."""

    calibration: DataSet | None
    evaluation: DataSet | None


@dataclass(frozen=True, kw_only=True)
class StageArtifact:
    """A file that a stage made.

    Attributes:
        file: name in the output folder.
        precision: that the file asks for.
    """

    file: Text
    precision: Precision
    bytes: Count
    sha256: Sha256
    opset: Count


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """One stage of the run.

    Attributes:
        note: what a reader should know; the reason of a skipped stage.
        check: the new artefact beside the one it was made from, on real inputs.
    """

    name: Text
    status: Literal["done", "reused", "skipped"]
    seconds: NotNegative | None
    note: Text | None
    artifact: StageArtifact | None
    check: StageCheck | None


@dataclass(frozen=True, kw_only=True)
class CalibrationFacts:
    """How the ranges of the activations were found.

    Attributes:
        fallbacks: tensors the method found no range for, so that min-max stands in.
    """

    method: Text
    num_bins: Count | None
    tensors: Count
    fallbacks: Count
    images: Count
    seconds: NotNegative | None


@dataclass(frozen=True, kw_only=True)
class CostLayer:
    """One application of a counted operator; 0 parameters where an earlier one shares them."""

    name: str
    op: Text
    macs: Count
    parameters: Count


@dataclass(frozen=True, kw_only=True)
class CostSection:
    """What one image costs.

    Attributes:
        macs: multiply-adds of convolutions and matrix products.
        flops: 2 x macs.
        elementwise: operator to output elements; not part of flops.
        not_counted: operators without a counting rule.
        published_gflops: the figure of the source tables, a calculator's count.
        published_gflops_reproduced: the same count, made from this network's layers.
    """

    input_shape: tuple[Positive, ...]
    macs: Count
    flops: Count
    parameters: Count
    elementwise: dict[str, Count]
    not_counted: tuple[Text, ...]
    published_gflops: NotNegative | None
    published_gflops_reproduced: NotNegative | None
    layers: tuple[CostLayer, ...]


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What to deploy, with which runtime, and why."""

    file: Text
    runtime: Text
    reason: Text


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one run made, kept and gained. Units stand in the names; ``None`` is not measured.

    Attributes:
        command: the command line that reproduces the run.
        definitions: what each score's name means.
        stages: in the order they ran.
        debug: what int8 costs layer by layer, on calibration images.
        layer_times: where each runtime spends the time of a call, from its own profiler.
        worst_images: evaluation images that lost most, largest loss first.
        passed: every compared candidate passed; ``None`` when nothing was compared.

    Raises:
        ValueError: a picture of an image that is not among the worst of its candidate.
    """

    schema_version: Literal[1]
    tool: Tool
    created_utc: Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$")]
    command: Text
    model: ModelFacts
    data: DataSets
    definitions: dict[str, Text]
    stages: tuple[StageRow, ...]
    calibration: CalibrationFacts | None
    debug: DebugSection | None = None
    parity: ParitySection | None
    cost: CostSection | None
    benchmark: BenchmarkSection | None
    layer_times: tuple[LayerTimeRow, ...] | None = None
    worst_images: tuple[PicturedImage, ...] | None = None
    environment: Environment
    recommendation: Recommendation | None
    passed: bool | None

    @property
    def baseline(self) -> str:
        """What speeds are so many times of: PyTorch, or the file that was brought."""
        brought = self.model.source == "onnx" and self.model.checkpoint
        return brought or "PyTorch"

    @property
    def unexported_parameters(self) -> int:
        """Those of the network that the file whose cost was counted does not hold.

        BatchNorm's, which is folded into convolutions, and of heads that are left out; 0 where
        there are none or nothing was counted.
        """
        return max(self.model.parameters - self.cost.parameters, 0) if self.cost else 0

    def __post_init__(self) -> None:
        rows = self.parity.rows if self.parity else ()
        scored = {(row.name, image.name) for row in rows for image in row.worst_images}
        for image in self.worst_images or ():
            if (image.candidate, image.name) not in scored:
                raise ValueError(
                    f"worst_images has {image.name!r:.60} of {image.candidate!r:.60}; expected "
                    "images that the row of that candidate names as its worst"
                )
