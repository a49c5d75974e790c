"""The package for anything that runs ONNX: checked models, and a program that runs them."""

from __future__ import annotations

from pathlib import Path

import onnx

from segdeploy.deploy.onnx_model.file import (
    contract_of,
    describe,
    load_model,
    metadata,
    save_model,
    set_metadata,
)
from segdeploy.deploy.onnx_model.interface import Interface, interface_of
from segdeploy.deploy.packaging.base import Contents, PackagedModel, PackageTarget, Request, Step
from segdeploy.deploy.packaging.forms import (
    fixed_batch,
    images_words,
    insides,
    require_unique,
    with_batch,
)
from segdeploy.deploy.packaging.masks import mask_check
from segdeploy.deploy.packaging.readme import EXAMPLE, write_example
from segdeploy.deploy.rewrites.image_interface import image_interface
from segdeploy.deploy.runtimes.registry import RuntimeName
from segdeploy.deploy.system.errors import InputError

ON = RuntimeName.ONNXRUNTIME
IMAGE_ENDING = ".image.onnx"
CHECK = "python -c \"import onnx; onnx.checker.check_model(onnx.load('{}'), full_check=True)\""


def write(request: Request, folder: Path) -> Contents:
    """Write the models of a request as ONNX files, of any precision.

    Raises:
        InputError: a model whose batch is fixed to another, two of one name, or one that takes
            images where only such that take tensors were asked for.
        UsageError: a flag this target has no use for.
    """
    request.takes("calibration", "evaluation", "preprocessing")
    batch = fixed_batch(request)
    planned = [
        (source, inside)
        for source in request.sources
        for inside in insides(source, request.preprocessing, mask=True)
    ]
    names = [_name(source, inside) for source, inside in planned]
    require_unique(names)
    executed = ["onnx.checker with shape inference, on every file"]
    check = mask_check(request, batch=batch or 1)
    for (source, inside), name in zip(planned, names, strict=True):
        save_model(onnx_model(source, batch, inside=inside), folder / name)
        written = describe(folder / name)
        found = check.masks_of_file(written, source, ON)
        executed.append(check.require_same(source, found, ON, what=name))
    write_example(folder, request.sources[0].preprocess)
    first = names[0]
    return Contents(
        steps=(
            Step(what="check a file's graph and shapes", command=CHECK.format(first)),
            Step(
                what="segment an image (needs onnxruntime, numpy, pillow)",
                command=f"python {EXAMPLE} {first} image.png -o mask.png",
            ),
            Step(what="time it (needs segdeploy)", command=f"segdeploy benchmark -m {first}"),
        ),
        executed=tuple(executed),
        not_run=("any device but the processor this package was written on",),
        notes=_notes(request, batch),
    )


def verify(folder: Path) -> None:
    """Read every ONNX file back and check it in full.

    Raises:
        InputError: naming the first file that is damaged, keeps weights outside, contradicts its
            own shapes or its contract.
    """
    paths = sorted(folder.glob("*.onnx"))
    if not paths:
        raise InputError(f"{folder} holds no .onnx file; package the model again")
    for path in paths:
        verify_model(path)


def verify_model(path: Path) -> None:
    """Read one ONNX file of a package back.

    Raises:
        InputError: as ``verify``.
    """
    model = load_model(path)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InputError(f"{path} contradicts itself ({error})") from error
    artifact = describe(path, model=model)
    form = interface_of(artifact.inputs, artifact.outputs)
    shape = artifact.inputs[0].shape
    found = shape[1:3] if form is Interface.IMAGE else shape[2:]
    if found != contract_of(artifact).size:
        raise InputError(f"{path} takes images of {found}; its contract says otherwise")


def onnx_model(source: PackagedModel, batch: int | None, *, inside: bool) -> onnx.ModelProto:
    """A model with the package's batch; with ``inside`` one that takes 8-bit images, resized.

    Of a dynamic batch and preprocessing outside this is the file's own model, unchanged.
    """
    model = with_batch(source.model(), batch)
    if inside and source.interface is Interface.TENSOR:
        model = image_interface(model, source.preprocess).model
        set_metadata(model, metadata(model) | {"parent_sha256": source.artifact.sha256})
    return model


def _name(source: PackagedModel, inside: bool) -> str:
    return f"{source.name}{IMAGE_ENDING if inside else '.onnx'}"


def _notes(request: Request, batch: int | None) -> tuple[str, ...]:
    notes = [
        "The batch is dynamic." if batch is None else f"The batch is fixed to {batch}.",
        "Every file holds its weights, and in `metadata_props` its input contract.",
    ]
    output = request.sources[0].output
    contract = request.sources[0].preprocess
    if request.images_inside and not output.overlapping:
        gives = "the class of each pixel, 8 bits" if output.exclusive else "masks of 0 and 1"
        notes.append(
            f"`*.image.onnx` take resized {images_words(contract)} (batch, height, width, "
            f"{contract.channels}) and give "
            f"{gives} (batch, height, width); only decoding and resizing are left outside."
        )
    return tuple(notes)


ONNX = PackageTarget(
    name="onnx",
    title="ONNX",
    document="the ONNX specification (github.com/onnx/onnx, docs/IR.md, docs/MetadataProps.md)",
    write=write,
    verify=verify,
)
