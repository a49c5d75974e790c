"""What a run starts from: a checkpoint, an ONNX file, or a module; what each gives the stages."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdeploy.benchmarks.literature.gflops import PUBLISHED_INPUT
from segdeploy.benchmarks.report.records import ModelFacts
from segdeploy.benchmarks.speed.entries import DISPLAY_NAMES, Entry
from segdeploy.benchmarks.speed.subjects import CheckpointSubject, FileSubject, Subject
from segdeploy.calibration.files import write_atomic
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.checkpoint import Checkpoint
from segdeploy.deploy.models.module import LoadedModule
from segdeploy.deploy.models.networks import build_network
from segdeploy.deploy.models.unet_plus_plus import DEPTH
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.cost import onnx_cost
from segdeploy.deploy.onnx_model.file import describe, load_model, metadata
from segdeploy.deploy.runtimes.base import Execution, Runtime
from segdeploy.deploy.runtimes.isolated import open_isolated
from segdeploy.deploy.runtimes.pytorch import PyTorchRuntime
from segdeploy.deploy.runtimes.registry import RuntimeName
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.system.errors import RunError

PYTORCH = "PyTorch fp32"
ORT = RuntimeName.ONNXRUNTIME

PUBLISHED_PARAMETERS = {Architecture.R2U_NET: 39_091_393, Architecture.UNET_PLUS_PLUS: 9_163_329}
"""Parameters of the published networks, by which they are told from other widths."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A trained network as it was brought, and what the stages need of it.

    Attributes:
        preprocess: the input contract.
        output: the output contract.
        stage: what makes the first artefact, a key of ``stage_check.STAGE_LIMITS``.
        label: of the first artefact, in tables.
        note: what is special about the first artefact, in a few words.
        reference_name: of what the artefacts are compared with, in tables.
        reference: opens that; takes how it runs, and the longest time of a call.
        subject: the same, to be timed.
        write: makes the first artefact, float32.
        inputs: what of it decides the artefacts, for the manifest.
        facts: what the report says of it.
        what: which network it is, for the plan.
        origin: where its contracts are from, for the plan.
        published: which published network it is, at the published size; ``None`` for any other.
    """

    preprocess: Preprocess
    output: OutputContract
    stage: str
    label: str
    note: str = ""
    reference_name: str
    reference: Callable[[Execution, float], Runtime]
    subject: Subject
    write: Callable[[Path], Artifact]
    inputs: dict[str, Any]
    facts: ModelFacts
    what: str
    origin: str
    published: Architecture | None = None


def of_checkpoint(net: Checkpoint, *, name: str) -> Source:
    """A checkpoint of a known family: PyTorch is the reference, and it is exported.

    Args:
        net: the checkpoint.
        name: stem of the artefacts.
    """
    chosen = {"weights": net.weights} if net.weights else {}
    if net.output != OutputContract():
        chosen["output"] = net.output.to_json()
    details = [f"{net.parameters:,} parameters", _size(net.preprocess)]
    details += [f"head {net.head}"] if net.head else []
    details += [f"t = {net.recurrence}"] if net.recurrence else []
    details += [f"weights {net.weights}"] if net.weights else []
    trained = "logits" if net.logits else "probabilities"
    return Source(
        preprocess=net.preprocess,
        output=net.output,
        stage="export",
        label="fp32 exported",
        reference_name=PYTORCH,
        reference=lambda execution, _: PyTorchRuntime(net, execution=execution),
        subject=CheckpointSubject(name=PYTORCH, checkpoint=net),
        write=lambda output: export(net, output),
        inputs=chosen
        | {
            "checkpoint_sha256": net.sha256,
            "arch": net.arch.value,
            "head": net.head,
            "recurrence": net.recurrence,
            "preprocess": net.preprocess.to_json(),
        },
        facts=ModelFacts(
            name=name,
            arch=net.arch.value,
            family=net.detected.family.value,
            checkpoint=net.path.name,
            checkpoint_sha256=net.sha256,
            parameters=net.parameters,
            head=net.head,
            recurrence=net.recurrence,
            preprocess=json.loads(net.preprocess.to_json()),
            output=json.loads(net.output.to_json()),
        ),
        what=f"{net.path.name}: {net.arch.value}, {', '.join(details)}",
        origin=f"({net.contract_origin}; --preprocess states another); the network it was trained "
        f"as returned {trained} ({net.detected.family.value})",
        published=_published(net),
    )


def of_module(net: LoadedModule) -> Source:
    """A module: PyTorch is the reference, and it is exported.

    Args:
        net: the module.
    """
    returned = "logits" if net.logits else "probabilities"
    return Source(
        preprocess=net.preprocess,
        output=net.output,
        stage="export",
        label="fp32 exported",
        reference_name=PYTORCH,
        reference=lambda execution, _: PyTorchRuntime(net, execution=execution),
        subject=CheckpointSubject(name=PYTORCH, checkpoint=net),
        write=lambda output: export(net, output),
        inputs={
            "module": net.name,
            "module_sha256": net.sha256,
            "preprocess": net.preprocess.to_json(),
            "output": net.output.to_json(),
            "returns": returned,
        },
        facts=ModelFacts(
            name=net.name,
            arch=net.name,
            family=None,
            checkpoint=None if net.weights is None else net.weights.name,
            checkpoint_sha256=net.sha256,
            parameters=net.parameters,
            head=None,
            recurrence=None,
            preprocess=json.loads(net.preprocess.to_json()),
            output=json.loads(net.output.to_json()),
            source="module",
        ),
        what=f"{net.name}: {net.origin}, {net.parameters:,} parameters, {_size(net.preprocess)}",
        origin=f"(as given); it returns {returned}",
    )


def of_onnx(
    path: Path,
    form: Artifact,
    *,
    name: str,
    sha256: str,
    preprocess: Preprocess,
    output: OutputContract,
    adopted: Sequence[str] = (),
) -> Source:
    """An ONNX file: in ONNX Runtime it is the reference, in our form it is the first artefact.

    Args:
        path: as it was brought.
        form: it in our form; itself where it is in our form already.
        name: stem of the artefacts.
        sha256: of the bytes that were brought.
        preprocess: the input contract.
        output: the output contract.
        adopted: what was changed and how its results compare, in words; none where nothing was.
    """
    reference_name = f"{path.name} on {DISPLAY_NAMES[ORT]}"

    def reference(execution: Execution, time_limit_s: float) -> Runtime:
        try:
            return open_isolated(ORT, form, execution=execution, time_limit_s=time_limit_s)
        except RunError as error:
            raise RunError(f"the reference, {reference_name}: {error}") from error

    def write(output: Path) -> Artifact:
        write_atomic(output, form.path.read_bytes())
        return describe(output)

    parameters = onnx_cost(form.path).parameters
    return Source(
        preprocess=preprocess,
        output=output,
        stage="adopt" if adopted else "take",
        label="fp32 adopted" if adopted else "fp32 given",
        note="; ".join(adopted),
        reference_name=reference_name,
        reference=reference,
        subject=FileSubject(entry=Entry(label=path.name, artifact=form, runtime=ORT, skipped=None)),
        write=write,
        inputs=({"adopted_sha256": form.sha256} if adopted else {})  # of weights beside it, too
        | {
            "model_sha256": sha256,
            "preprocess": preprocess.to_json(),
            "output": output.to_json(),
        },
        facts=ModelFacts(
            name=name,
            arch=metadata(load_model(form.path)).get("arch") or "ONNX",
            family=None,
            checkpoint=path.name,
            checkpoint_sha256=sha256,
            parameters=parameters,
            head=None,
            recurrence=None,
            preprocess=json.loads(preprocess.to_json()),
            output=json.loads(output.to_json()),
            source="onnx",
        ),
        what=f"{path.name}: ONNX, {parameters:,} parameters, {_size(preprocess)}; "
        + ("; ".join(adopted) or "in our form already, taken as it is"),
        origin="(as given)" if adopted else "(its own; --preprocess states another)",
    )


def _size(preprocess: Preprocess) -> str:
    return "x".join(map(str, preprocess.size))


def _published(net: Checkpoint) -> Architecture | None:
    """Told by the parameters, the size, the head and t."""
    parameters = build_network(
        net.arch,
        in_channels=net.detected.in_channels,
        num_classes=net.detected.num_classes,
        width=net.detected.width,
        deep_supervision=False,
    ).parameters()
    found = (
        net.preprocess.size == PUBLISHED_INPUT[2:]
        and net.head in (None, DEPTH)
        and net.recurrence in (None, 2)
        and sum(p.numel() for p in parameters) == PUBLISHED_PARAMETERS.get(net.arch)
    )
    return net.arch if found else None
