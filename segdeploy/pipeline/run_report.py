"""Assemble ``report.json`` from what the stages measured."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from segdeploy.benchmarks.literature.file import PUBLISHED
from segdeploy.benchmarks.literature.gflops import published_gflops
from segdeploy.benchmarks.parity.records import ParitySection, PicturedImage
from segdeploy.benchmarks.report.records import (
    SCHEMA_VERSION,
    CalibrationFacts,
    CostLayer,
    CostSection,
    DataSet,
    DataSets,
    Recommendation,
    Report,
    StageRow,
    Tool,
)
from segdeploy.benchmarks.scores.definitions import CLASSES, DEFINITIONS
from segdeploy.benchmarks.speed.environment import describe
from segdeploy.benchmarks.speed.records import BenchmarkSection, LayerTimeRow
from segdeploy.benchmarks.speed.timing_noise import within_noise
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy import __version__
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.models.networks import build_network
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.cost import onnx_cost
from segdeploy.deploy.sensitivity.section import DebugSection
from segdeploy.pipeline.run_config import RunConfig
from segdeploy.pipeline.source import Source


def assemble(
    *,
    config: RunConfig,
    source: Source,
    model: Artifact,
    table: CalibrationTable,
    stages: Sequence[StageRow],
    debug: DebugSection | None,
    parity: ParitySection,
    benchmark: BenchmarkSection,
    layer_times: tuple[LayerTimeRow, ...],
    worst: tuple[PicturedImage, ...],
) -> Report:
    """Put the report together.

    Args:
        config: what was asked for.
        source: what was brought.
        model: the float32 model whose cost is counted.
        table: the calibration.
        stages: in the order they ran.
        debug: what int8 costs at each layer; ``None`` where no int8 model was made.
        parity: the candidates beside the reference, and with that the verdict.
        benchmark: their speed.
        layer_times: where each runtime spends its time.
        worst: the images that lost most, as pictures.
    """
    now = datetime.now(timezone.utc)
    return Report(
        schema_version=SCHEMA_VERSION,
        tool=Tool(name="segdeploy", version=__version__),
        created_utc=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        command=config.command,
        model=source.facts,
        data=DataSets(
            calibration=_data_set(config.calibration), evaluation=_data_set(config.evaluation)
        ),
        definitions=dict(DEFINITIONS if source.output.binary else CLASSES),
        stages=tuple(stages),
        calibration=CalibrationFacts(
            method=table.method.value,
            num_bins=table.num_bins,
            tensors=len(table.ranges),
            fallbacks=sum(found.fallback is not None for found in table.ranges.values()),
            images=table.num_samples,
            seconds=next(row.seconds for row in stages if row.name == "calibrate"),
        ),
        debug=debug,
        parity=parity,
        cost=cost_section(model, source),
        benchmark=benchmark,
        layer_times=layer_times,
        worst_images=worst,
        environment=describe(),
        recommendation=recommend(parity, benchmark),
        passed=parity.passed,
    )


def cost_section(model: Artifact, source: Source) -> CostSection:
    """Count the first model; add the published figure when it is a published network."""
    cost = onnx_cost(model.path)
    published = source.published
    reproduced = None
    if published is not None:
        network = build_network(published, deep_supervision=False)
        reproduced = published_gflops(network, published.value)
    return CostSection(
        input_shape=cost.input_shape,
        macs=cost.macs,
        flops=cost.flops,
        parameters=cost.parameters,
        elementwise=cost.elementwise,
        not_counted=cost.not_counted,
        published_gflops=PUBLISHED[published.value].gflops if published else None,
        published_gflops_reproduced=reproduced,
        layers=tuple(
            CostLayer(name=layer.name, op=layer.op, macs=layer.macs, parameters=layer.parameters)
            for layer in cost.layers
        ),
    )


def recommend(parity: ParitySection, benchmark: BenchmarkSection) -> Recommendation | None:
    """The fastest file at batch 1 among those that passed the gate; ``None`` if none did.

    Those that the timing cannot tell from it are named.
    """
    passed = {(row.file, row.runtime) for row in parity.rows if row.passed}
    timed = [
        (row.p50_ms, row.file, row)
        for row in benchmark.rows
        if (row.file, row.runtime) in passed and row.batch == 1 and row.p50_ms and row.file
    ]
    if not timed:
        return None
    _, file, best = min(timed, key=lambda found: found[0])
    reason = f"the fastest at batch 1 of the {len(timed)} that passed and were timed"
    alike = within_noise(best, [row for _, _, row in timed if row is not best])
    if alike:
        reason += f", within noise of {', '.join(alike)}"
    return Recommendation(file=file, runtime=best.runtime, reason=reason)


def _data_set(images: SegmentationSet) -> DataSet:
    return DataSet(
        root=images.root.resolve().name,
        split=images.split,
        images=len(images),
        sha256=images.sha256(),
    )
