"""Vastai VACC: what ``vamc compile`` and ``vamp`` read, and the images to calibrate and score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segdeploy.calibration.estimate import Method
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import GEOMETRY, Preprocess
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.onnx_model.file import save_model
from segdeploy.deploy.packaging.base import Contents, PackagedModel, PackageTarget, Request, Step
from segdeploy.deploy.packaging.classes import stated_output
from segdeploy.deploy.packaging.float_layers import FloatLayers, float_layers, indices
from segdeploy.deploy.packaging.images import verify_pixels, write_evaluation, write_pixels
from segdeploy.deploy.packaging.plain_model import only_model, plain_model
from segdeploy.deploy.packaging.readme import EXAMPLE, write_example
from segdeploy.deploy.packaging.vacc.vdsp import older_operator_json, operator_json, unit_range
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.system.yaml_text import read_yaml

MODES = {
    Method.ENTROPY: "kl_divergence",
    Method.PERCENTILE: "percentile",
    Method.MSE: "mse",
    Method.MINMAX: "max",
}
"""Our range searches by the names of ``backend.quantize.calibrate_mode``."""

BUILD_INT8, BUILD_FP16 = "build_int8.yaml", "build_fp16.yaml"
VDSP, OLDER_VDSP = "vdsp_params.json", "vdsp_params_older.json"
CALIBRATION, INPUTS, EVALUATION = "calibration", "inputs", "evaluation"
DATALIST, SKIPPED, WEIGHTS = "npz_datalist.txt", "float_layers.json", "deploy_weights"
PREDICTIONS = "predictions"
ARRAY = "input_0"
"""The name of the array in each npz, as ``vamp`` wants it."""


def write(request: Request, folder: Path) -> Contents:
    """Write model, build files, preprocessing, calibration images and inputs to score.

    Raises:
        InputError: no fp32 model, an int8 one of another, or an image that cannot be decoded.
        UsageError: no calibration or evaluation images, or a name that is no layer.
    """
    request.takes("calibration", "evaluation", "table", "method", "exclude")
    request.one_image_a_call()
    request.only(Precision.FP32, Precision.INT8)
    source = request.needed(Precision.FP32, why="vamc quantizes the float model by itself")
    source.preprocess.refuse_departures(
        what="the image unit of a Vastai card",
        but=GEOMETRY,
        advice="it takes 8-bit RGB: deploy with the onnx package, or train on such images",
    )
    calibration, evaluation = request.images("calibration"), request.images("evaluation")
    layers = float_layers(request, source)
    model = plain_model(source, batch=1)
    skipped = {name: indices(model.graph, [name])[0] for name in layers.convolutions}
    mode = MODES[_method(request)]
    save_model(model, folder / f"{source.name}.onnx")
    for file, dtype in ((BUILD_INT8, "int8"), (BUILD_FP16, "fp16")):
        build = build_file(
            source, dtype=dtype, mode=mode, samples=len(calibration), skip=sorted(skipped.values())
        )
        text = yaml.safe_dump(build, sort_keys=False, default_flow_style=None)
        (folder / file).write_text(text, encoding="utf-8")
    if stated_output(source.output):
        write_example(folder, source.preprocess)
    _write_json(folder / VDSP, operator_json(source.preprocess))
    older = older_operator_json(source.preprocess)
    if older is not None:
        _write_json(folder / OLDER_VDSP, older)
    if skipped:
        _write_json(folder / SKIPPED, skipped)
    write_pixels(calibration, source.preprocess, folder / CALIBRATION)
    write_evaluation(evaluation, folder / EVALUATION)
    _write_inputs(evaluation, source.preprocess, folder)
    return Contents(
        steps=_steps(source),
        executed=(
            "build files read back as YAML and the preprocessing as JSON, against the contract",
            f"every PNG in {CALIBRATION}/ and every npz in {INPUTS}/ read back: RGB, uint8, the "
            "contract's size",
            "the model checked by onnx.checker in opset 11",
        ),
        not_run=("vamc, vamp and a VACC card: nothing was compiled and nothing was timed",),
        notes=(*_notes(layers, skipped, older is None), *_class_notes(source.output)),
    )


def build_file(
    source: PackagedModel, *, dtype: str, mode: str, samples: int, skip: list[int]
) -> dict[str, Any]:
    """What ``vamc compile`` reads.

    Args:
        source: the float model.
        dtype: "int8" or "fp16"; fp16 needs neither images nor ranges.
        mode: how ranges are searched.
        samples: calibration images.
        skip: convolutions to keep in float, by index.
    """
    backend: dict[str, Any] = {
        "type": "tvm_vacc",
        "dtype": dtype,
        "compile": {"data_transport_mode": 1},
    }
    build: dict[str, Any] = {
        "name": run_name(source, dtype),
        "frontend": {
            "shape": {source.artifact.inputs[0].name: list(source.image_shape(1))},
            "type": "onnx",
            "checkpoint": f"./{source.name}.onnx",
            "dtype": "fp32",
        },
        "backend": backend,
    }
    if dtype == "int8":
        backend["quantize"] = {"calibrate_mode": mode, "quantize_per_channel": True}
        if skip:
            backend["quantize"]["skip_conv_layers"] = skip
        build["dataset"] = {
            "type": "tvm",
            "path": f"./{CALIBRATION}",
            "sampler": {"suffix": "png", "get_data_num": samples},
            "process_ops": process_operators(source.preprocess),
        }
    return build | {"workspace": {"path": f"./{WEIGHTS}/"}}


def process_operators(preprocess: Preprocess) -> list[dict[str, Any]]:
    """From an image file to the network's tensor, as a list of vamc's operators.

    Decoding gives RGB, so only a BGR contract converts; ``Normalize`` divides by 255 first.
    """
    mean, std = unit_range(preprocess)
    swap = {"type": "CvtColor", "code": "COLOR_RGB2BGR"}
    return [
        {"type": "DecodeImage"},
        *([swap] if preprocess.channel_order == "BGR" else []),
        {"type": "Resize", "size": list(preprocess.size)},
        {"type": "Normalize", "mean": mean, "std": std},
        {"type": "ToTensor"},
    ]


def run_name(source: PackagedModel, dtype: str) -> str:
    """What vamc calls the compiled model; its folder below the workspace."""
    return f"{source.name.replace('.', '_')}_{dtype}"


def verify(folder: Path) -> None:
    """Read everything back: YAML, JSON, PNG, npz, the list.

    Raises:
        InputError: naming the file that does not fit the model's contract.
    """
    source = only_model(folder)
    path = source.artifact.path
    size, count = (
        source.preprocess.size,
        verify_pixels(folder / CALIBRATION, source.preprocess.size),
    )
    for file in (BUILD_INT8, BUILD_FP16):
        build = _read_yaml(folder / file)
        backend = build.get("backend", {})
        quantize = backend.get("quantize", {})
        expected = build_file(
            source,
            dtype=str(backend.get("dtype")),
            mode=str(quantize.get("calibrate_mode")),
            samples=count,
            skip=quantize.get("skip_conv_layers", []),
        )
        if build != expected:
            raise InputError(f"{folder / file} does not say what {path.name} says of itself")
    if json.loads((folder / VDSP).read_text("utf-8")) != operator_json(source.preprocess):
        raise InputError(f"{folder / VDSP} does not say what {path.name} says of itself")
    for line in (folder / DATALIST).read_text("utf-8").splitlines():
        if line != f"{INPUTS}/{Path(line).name}":
            raise InputError(f"{folder / DATALIST} names {line!r:.80}, which is not in {INPUTS}/")
        _verify_input(folder / line, size)


def _verify_input(path: Path, size: tuple[int, int]) -> None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = arrays[ARRAY]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is no npz with an array {ARRAY!r} ({error})") from error
    if found.shape != (3, *size) or found.dtype != np.uint8:
        raise InputError(f"{path} holds {found.shape} {found.dtype}; expected {(3, *size)} uint8")


def _read_yaml(path: Path) -> dict[str, Any]:
    build = read_yaml(path, what="build file")
    if not isinstance(build, dict):
        raise InputError(f"{path} holds a {type(build).__name__}; expected keys and values")
    return build


def _method(request: Request) -> Method:
    """How ranges are searched: as said, else as the table or the int8 model was made."""
    stored = [s.metadata.get("calibration_method") for s in request.sources]
    named = [Method(name) for name in stored if name in {m.value for m in Method}]
    of_table = [request.table.method] if request.table else []
    found = [*([request.method] if request.method else []), *of_table, *named, Method.ENTROPY][0]
    if found not in MODES:
        raise UsageError(
            f"the ranges were {found.value}; vamc searches its own. Say how with --method"
        )
    return found


def _write_inputs(images: SegmentationSet, preprocess: Preprocess, folder: Path) -> None:
    """Every image as an npz of RGB planes, and the list of them in name order."""
    (folder / INPUTS).mkdir()
    for sample, pixels in zip(images, images.pixels(preprocess), strict=True):
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        np.savez(folder / INPUTS / f"{sample.name}.npz", input_0=planes)
    lines = [f"{INPUTS}/{sample.name}.npz\n" for sample in images]
    (folder / DATALIST).write_text("".join(lines), encoding="utf-8")


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")


def _steps(source: PackagedModel) -> tuple[Step, ...]:
    shape = ",".join(map(str, source.image_shape(1)[1:]))
    return (
        Step(
            what=f"compile; {BUILD_FP16} gives the fp16 model",
            command=f"vamc compile {BUILD_INT8}",
        ),
        Step(
            what="run the evaluation images on the card",
            command=f"vamp -m {WEIGHTS}/{run_name(source, 'int8')}/mod --vdsp_params {VDSP} "
            f"-i 1 -p 1 -b 1 -s [{shape}] --datalist {DATALIST} --path_output {PREDICTIONS}",
        ),
        Step(
            what="score what came back",
            command=f"segdeploy parity --reference {source.name}.onnx --data {EVALUATION} "
            f"--predictions {PREDICTIONS} --predictions-order {DATALIST}",
        ),
    )


def _notes(layers: FloatLayers, skipped: dict[str, int], no_older: bool) -> tuple[str, ...]:
    notes = [
        f"`{OLDER_VDSP}` is `{VDSP}` in the form of earlier `vamp` releases."
        if not no_older
        else f"`{VDSP}` has no older form here: it names its numbers after red, green and blue, "
        "and this contract's differ between channels of a BGR input."
    ]
    if skipped:
        notes.append(
            f"In float (`skip_conv_layers`): {', '.join(skipped)}. Indices count convolutions as "
            f"TVM visits them, which vamc builds on; `{SKIPPED}` has both."
        )
    if layers.others:
        notes.append(
            "Not carried over, because vamc skips convolutions only: " + ", ".join(layers.others)
        )
    return tuple(notes)


def _class_notes(output: OutputContract) -> tuple[str, ...]:
    if not stated_output(output):
        return ()
    masks = f"`python {EXAMPLE} --outputs {PREDICTIONS} -o masks`"
    if output.exclusive:
        return (
            f"The card returns {output.channels} channels, background among them, and the argmax "
            f"over them is the post-processing, as of the published models: {masks} writes palette "
            "images of it.",
        )
    return (f"The card returns {output.channels} channels; {masks} writes a mask for each label.",)


VACC = PackageTarget(
    name="vacc",
    title="Vastai VACC",
    document=(
        "Vastai/VastModelZOO, cv/segmentation/r2u_net and unetpp: build files, VDSP parameters, "
        "image2npz.py and vamp_eval.py, as of 2025"
    ),
    write=write,
    verify=verify,
)
