"""NVIDIA Triton: a model repository for its ONNX Runtime and OpenVINO backends on a processor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.onnx_model.file import describe, save_model
from segdeploy.deploy.onnx_model.interface import Interface
from segdeploy.deploy.packaging.base import Contents, PackagedModel, PackageTarget, Request, Step
from segdeploy.deploy.packaging.classes import stated_output
from segdeploy.deploy.packaging.forms import (
    IMAGE_ENDING,
    fixed_batch,
    images_words,
    insides,
    require_unique,
    served_name,
)
from segdeploy.deploy.packaging.masks import MaskCheck, mask_check
from segdeploy.deploy.packaging.onnx.target import onnx_model
from segdeploy.deploy.packaging.openvino.models import (
    INT8_NOTE,
    IrModel,
    require_openvino,
    write_ir_model,
)
from segdeploy.deploy.packaging.readme import EXAMPLE, write_example
from segdeploy.deploy.packaging.text_protobuf import text_of
from segdeploy.deploy.packaging.triton.model import (
    CONFIG,
    MODEL_FILES,
    ONNXRUNTIME,
    OPENVINO,
    OUTPUT,
    described,
    model_config,
    verify_entry,
    warmup_feed,
    write_warmups,
)
from segdeploy.deploy.runtimes.registry import RuntimeName, availability
from segdeploy.deploy.system.errors import InputError
from segdeploy.deploy.targets.profiles import PROFILES, TENSORRT

REPOSITORY = "models"
IMAGE_OF_SERVER = "nvcr.io/nvidia/tritonserver:25.08-py3"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of the repository.

    Attributes:
        source: the model.
        backend: which of Triton's executes it.
        inside: whether it takes images.
    """

    source: PackagedModel
    backend: str
    inside: bool

    @property
    def name(self) -> str:
        """Its folder, and what clients ask for."""
        return served_name(
            self.source, self.source.artifact.precision.value, self.backend, inside=self.inside
        )


def write(request: Request, folder: Path) -> Contents:
    """Write a model repository and an example client.

    Raises:
        InputError: an int8 model for a device that neither backend serves, an int8 model for
            OpenVINO where OpenVINO is missing, or two models of one name.
        UsageError: a flag this target has no use for.
    """
    request.takes("calibration", "evaluation", "preprocessing")
    batch = fixed_batch(request)
    entries = list(_entries(request))
    require_unique([entry.name for entry in entries])
    check = mask_check(request, batch=batch or 1)
    executed = [
        _write_entry(entry, folder / REPOSITORY / entry.name, request, check, batch)
        for entry in entries
    ]
    write_example(folder, request.sources[0].preprocess)
    return Contents(
        steps=_steps(entries),
        executed=(
            *executed,
            "every `config.pbtxt` through protobuf's parser; names, types and shapes against the "
            "model, warm-up data against both",
        ),
        not_run=("tritonserver and its ONNX Runtime and OpenVINO backends: none was started",),
        notes=_notes(request, entries, batch),
    )


def verify(folder: Path) -> None:
    """Read every model and its configuration back, and hold them against each other.

    Raises:
        InputError: naming the first file that does not fit.
    """
    paths = sorted((folder / REPOSITORY).glob(f"*/{CONFIG}"))
    if not paths:
        raise InputError(f"{folder / REPOSITORY} holds no model; package the model again")
    for path in paths:
        verify_entry(path)


def _entries(request: Request) -> Iterator[Entry]:
    for source in request.sources:
        for backend in _backends(source):
            mask = backend == ONNXRUNTIME
            for inside in insides(source, request.preprocessing, mask=mask):
                yield Entry(source=source, backend=backend, inside=inside)


def _backends(source: PackagedModel) -> tuple[str, ...]:
    """Those that serve a model: int8 the one it was made for, fp32 both where both are here.

    Raises:
        InputError: an int8 model for another device.
    """
    artifact = source.artifact
    if source.interface is Interface.IMAGE or artifact.precision is Precision.FP16:
        return (ONNXRUNTIME,)
    if artifact.precision is Precision.FP32:
        ready = availability(RuntimeName.OPENVINO).ready
        return (ONNXRUNTIME, OPENVINO) if ready else (ONNXRUNTIME,)
    profile = PROFILES.get(artifact.target or "")
    if profile is not None and profile.runtime is RuntimeName.OPENVINO:
        require_openvino()
        return (OPENVINO,)
    if profile is not None and profile is not TENSORRT:
        return (ONNXRUNTIME,)
    served = [name for name in PROFILES if name != TENSORRT.name]
    raise InputError(
        f"{artifact.path} is int8 for {artifact.target or 'an unnamed target'}; Triton's backends "
        f"here take int8 for {', '.join(served)}"
    )


def _write_entry(
    entry: Entry, folder: Path, request: Request, check: MaskCheck, batch: int | None
) -> str:
    """Write one model, its warm-up data and its configuration; what was run, a sentence."""
    source = entry.source
    if entry.backend == OPENVINO:
        ir = IrModel(source=source, label="", compress=False, inside=entry.inside)
        said = write_ir_model(ir, folder, check, batch=batch, layouts=False)
        max_batch = 0
    else:
        path = folder / "1" / MODEL_FILES[ONNXRUNTIME]
        save_model(onnx_model(source, batch, inside=entry.inside), path)
        on = RuntimeName.ONNXRUNTIME
        found = check.masks_of_file(describe(path), source, on)
        said = check.require_same(source, found, on, what=entry.name)
        max_batch = request.batches[2] if batch is None else 0
    ends, _ = described(folder, entry.backend)
    sizes = sorted({request.batches[0], request.batches[2]}) if batch is None else [batch]
    warmups = write_warmups(
        folder,
        warmup_feed(check.images[0], entry.source.preprocess, ends[0]),
        sizes,
        max_batch=max_batch,
    )
    config = model_config(
        entry.name,
        entry.backend,
        ends,
        warmups,
        max_batch=max_batch,
        stated=stated_output(source.output),
    )
    (folder / CONFIG).write_text(text_of(config), encoding="utf-8")
    return said


def _steps(entries: list[Entry]) -> tuple[Step, ...]:
    int8 = [e for e in entries if e.source.artifact.precision is Precision.INT8]
    shown = (int8 or entries)[0]
    return (
        Step(
            what="serve every model",
            command=f'docker run --rm -p 8000:8000 -v "$PWD/{REPOSITORY}":/models:ro '
            f"{IMAGE_OF_SERVER} tritonserver --model-repository=/models "
            "--disable-auto-complete-config",
        ),
        Step(
            what="is it ready?",
            command=f"curl -f localhost:8000/v2/models/{shown.name}/ready",
        ),
        Step(
            what="segment an image (needs tritonclient[http], numpy, pillow)",
            command=f"python {EXAMPLE} {shown.name} image.png -o mask.png --server localhost:8000",
        ),
    )


def _notes(request: Request, entries: list[Entry], batch: int | None) -> tuple[str, ...]:
    notes = [
        "To serve one model alone, add `--model-control-mode=explicit --load-model=NAME`.",
        "The server answers when every instance has run its warm-up requests, on a real image.",
    ]
    if batch is None:
        notes.append(f"`*-{ONNXRUNTIME}*`: Triton forms batches up to {request.batches[2]}.")
    else:
        notes.append(f"The batch is fixed to {batch}; Triton forms none.")
    served = [entry.source for entry in entries if entry.backend == OPENVINO]
    if batch is None and any(s.artifact.precision is Precision.INT8 for s in served):
        notes.append(INT8_NOTE)
    if served:
        notes.append(
            f"`*-{OPENVINO}*` state their own batch axis: this backend would fix the model to "
            "`max_batch_size`. Requests run one by one; raise `count` and the parameter "
            "`NUM_STREAMS` together for throughput. Auto-completion has to be off, or the server "
            "gives these models a batch size of its own."
        )
        notes.append(
            "This backend cannot be told to compute float layers in fp32: on processors with bf16 "
            "instructions it uses these, and a probability near 0.5 may fall on the other side."
        )
    else:
        state = availability(RuntimeName.OPENVINO)
        notes.append(f"The OpenVINO backend was left out: {state.reason or 'no model for it'}.")
    output = request.sources[0].output
    contract = request.sources[0].preprocess
    if request.images_inside:
        gives = {ONNXRUNTIME: "mask of 0 and 1", OPENVINO: "probability"}
        if output.exclusive:
            gives = dict.fromkeys(gives, "class of each pixel, 8 bits")
        whole = contract.plain_resize
        size = "of any size" if whole or contract.antialias else "resized"
        kind = ", without antialiasing" if whole or contract.antialias else ""
        forms = f"resized for the {gives[ONNXRUNTIME]} ({ONNXRUNTIME}), "
        notes.append(
            f"`*{IMAGE_ENDING}` take {images_words(contract)}: "
            f"{'' if output.overlapping else forms}{size} for the {gives[OPENVINO]} ({OPENVINO}"
            f"{kind})."
        )
    if stated_output(output):
        notes.append(
            f"Each `{CONFIG}` states the classes in the parameter `{OUTPUT}`, which clients read "
            "from `/v2/models/NAME/config`."
        )
    return tuple(notes)


TRITON = PackageTarget(
    name="triton",
    title="NVIDIA Triton Inference Server",
    document=(
        "model_config.proto of triton-inference-server/common; Triton user guide: Model "
        "Repository, Model Configuration; READMEs of onnxruntime_backend and openvino_backend"
    ),
    write=write,
    verify=verify,
)
