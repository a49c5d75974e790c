"""OpenVINO: IR in fp32, fp16-compressed and int8, with preprocessing inside, ready for its server.

OpenVINO is imported when a package is written or read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from segdeploy.calibration.json_text import parse_json
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.packaging.base import Contents, PackageTarget, Request, Step
from segdeploy.deploy.packaging.forms import IMAGE_ENDING, fixed_batch, images_words, insides
from segdeploy.deploy.packaging.masks import mask_check
from segdeploy.deploy.packaging.openvino.models import (
    INT8_NOTE,
    IR_FILE,
    IrModel,
    require_openvino,
    verify_ir,
    write_ir_model,
)
from segdeploy.deploy.packaging.readme import EXAMPLE, write_example
from segdeploy.deploy.system.errors import InputError
from segdeploy.deploy.targets.profiles import OPENVINO_CPU, OPENVINO_CPU_NO_VNNI

SERVER_CONFIG = "config.json"
MOUNT = "/models"
"""Where the serving command mounts the package."""


def write(request: Request, folder: Path) -> Contents:
    """Write every model of a request as IR, in the layout of a model repository.

    Raises:
        InputError: OpenVINO is missing, or a model that is neither fp32 nor int8 for it.
        UsageError: a flag this target has no use for.
    """
    require_openvino()
    request.takes("calibration", "evaluation", "preprocessing")
    half = request.of(Precision.FP16)
    if half is not None:
        raise InputError(
            f"{half.artifact.path} is fp16; give the fp32 model, which OpenVINO itself stores in "
            "fp16, too"
        )
    request.only(
        Precision.FP32, Precision.INT8, targets=(OPENVINO_CPU.name, OPENVINO_CPU_NO_VNNI.name)
    )
    batch = fixed_batch(request)
    models = list(_models(request))
    check = mask_check(request, batch=batch or 1)
    executed = [write_ir_model(model, folder / model.name, check, batch=batch) for model in models]
    (folder / SERVER_CONFIG).write_text(_server_config([m.name for m in models]), "utf-8")
    write_example(folder, request.sources[0].preprocess)
    return Contents(
        steps=_steps(models, batch or request.batches[1]),
        executed=tuple(executed),
        not_run=(
            "OpenVINO Model Server: no server was started",
            "a GPU or an NPU: what was run is OpenVINO's CPU plugin",
        ),
        notes=_notes(request, batch),
    )


def verify(folder: Path) -> None:
    """Read every IR and the server's configuration back.

    Raises:
        InputError: naming the first file that is not as it was written.
    """
    require_openvino()
    listed = _served(folder / SERVER_CONFIG)
    present = sorted(path.parent.parent.name for path in folder.glob(f"*/{IR_FILE}"))
    if sorted(listed) != present or not present:
        raise InputError(f"{folder / SERVER_CONFIG} lists {sorted(listed)}; there are {present}")
    for name in present:
        verify_ir(folder / name / IR_FILE)


def _models(request: Request) -> Iterator[IrModel]:
    """Every IR of the package: of fp32 two, of int8 one, each with and without its contract."""
    for source in request.sources:
        labels = [(source.artifact.precision.value, False)]
        if source.artifact.precision is Precision.FP32:
            labels.append((Precision.FP16.value, True))
        for label, compress in labels:
            for inside in insides(source, request.preprocessing, mask=False):
                yield IrModel(source=source, label=label, compress=compress, inside=inside)


def _server_config(names: list[str]) -> str:
    """Configuration of OpenVINO Model Server, for the package mounted at ``MOUNT``."""
    models = [
        {
            "config": {
                "name": name,
                "base_path": f"{MOUNT}/{name}",
                "plugin_config": {"INFERENCE_PRECISION_HINT": "f32"},
            }
        }
        for name in names
    ]
    return json.dumps({"model_config_list": models}, indent=2) + "\n"


def _served(path: Path) -> list[str]:
    """Names of a server configuration, each with its own folder."""
    try:
        models = parse_json(path.read_text(encoding="utf-8"))["model_config_list"]
        configs = [model["config"] for model in models]
        named = [(config["name"], config["base_path"]) for config in configs]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no configuration of a model server ({error!r})") from error
    for name, base in named:
        if base != f"{MOUNT}/{name}":
            raise InputError(f"{path}: {name!r} is served from {base!r}, not from its folder")
    return [name for name, _ in named]


def _steps(models: list[IrModel], batch: int) -> tuple[Step, ...]:
    """int8 is shown where there is one: it comes first by name of precision and of form."""
    order = ("int8", "fp32", "fp16")
    first = min(models, key=lambda model: (order.index(model.label), model.inside))
    image = min(models, key=lambda model: (order.index(model.label), not model.inside))
    height, width = first.source.preprocess.size
    channels = first.source.preprocess.channels
    axes = [batch, height, width, channels] if first.inside else [batch, channels, height, width]
    shape = f"{first.source.artifact.inputs[0].name}[{','.join(map(str, axes))}]"
    serve = (
        f'docker run --rm -p 8000:8000 -v "$PWD":{MOUNT}:ro openvino/model_server:latest '
        f"--rest_port 8000 --config_path {MOUNT}/{SERVER_CONFIG}"
    )
    return (
        Step(
            what="time a model (pip install openvino)",
            command=f"benchmark_app -m {first.name}/{IR_FILE} -d CPU -hint latency "
            f'-infer_precision f32 -shape "{shape}" -t 10',
        ),
        Step(
            what="segment an image (needs openvino, numpy, pillow)",
            command=f"python {EXAMPLE} {image.name}/{IR_FILE} image.png -o mask.png",
        ),
        Step(what="serve all of them with OpenVINO Model Server", command=serve),
    )


def _notes(request: Request, batch: int | None) -> tuple[str, ...]:
    notes = [
        "The batch is dynamic." if batch is None else f"The batch is fixed to {batch}.",
        "The model's metadata, its input contract too, is in each IR's `rt_info`, section "
        "`segdeploy`.",
        "On processors with bf16 or fp16 instructions OpenVINO computes float layers in these "
        "unless told; the commands here and the server's configuration pin fp32, as the check did.",
        f"Ask the server with `python {EXAMPLE} NAME image.png -o mask.png --server "
        "localhost:8000` (needs tritonclient[http], numpy, pillow).",
    ]
    if batch is None and request.of(Precision.INT8) is not None:
        notes.append(INT8_NOTE)
    if request.images_inside:
        contract = request.sources[0].preprocess
        whole, smooth = contract.plain_resize, contract.antialias
        takes = "of any size, as decoded" if whole else "resized to the contract's size"
        gives = "the same probabilities"
        if request.sources[0].output.exclusive:
            gives = "the class of each pixel, 8 bits (batch, height, width), of these probabilities"
        notes.append(
            f"`*{IMAGE_ENDING}` take {images_words(contract)} {takes} (batch, height, width, "
            f"{contract.channels}) and give "
            f"{gives}, bit for bit: tables stand in for arithmetic that a compiler "
            "could reorder."
            + (" Antialiasing is Pillow's filter and stays outside." if smooth else "")
        )
    return tuple(notes)


OPENVINO = PackageTarget(
    name="openvino",
    title="OpenVINO",
    document=(
        "OpenVINO documentation, 2025: Preprocessing API, OpenVINO IR format, Benchmark Tool; "
        "OpenVINO Model Server: Prepare a Model Repository, Starting the Server"
    ),
    write=write,
    verify=verify,
)
