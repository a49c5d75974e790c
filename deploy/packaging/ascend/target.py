"""Ascend: what ``atc`` and ``amct_onnx`` read, with preprocessing on the processor."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from segdeploy.calibration.json_text import parse_json
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.name_order import counted
from segdeploy.deploy.data.preprocess import GEOMETRY, Preprocess
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.onnx_model.file import save_model
from segdeploy.deploy.packaging.argmax import ENDING as ARGMAX_ENDING
from segdeploy.deploy.packaging.argmax import verify_argmax, with_argmax
from segdeploy.deploy.packaging.ascend.aipp import Aipp, read_aipp
from segdeploy.deploy.packaging.ascend.amct import SCHEMA as AMCT_SCHEMA
from segdeploy.deploy.packaging.ascend.amct import long_form, short_form
from segdeploy.deploy.packaging.base import Contents, PackagedModel, PackageTarget, Request, Step
from segdeploy.deploy.packaging.classes import stated_output
from segdeploy.deploy.packaging.float_layers import FloatLayers, float_layers, shared_weights
from segdeploy.deploy.packaging.images import write_evaluation, write_tensors
from segdeploy.deploy.packaging.plain_model import only_model, plain_model
from segdeploy.deploy.packaging.readme import EXAMPLE, write_example
from segdeploy.deploy.packaging.text_protobuf import fields_of
from segdeploy.deploy.system.errors import InputError

AIPP, AMCT, AMCT_JSON = "aipp.cfg", "amct.cfg", "amct.json"
CONVERT, QUANTIZE, RUN = "convert.sh", "quantize.sh", "run.sh"
CALIBRATION, INPUTS, EVALUATION = "calibration", "inputs", "evaluation"
ORDER, RESULTS, PREDICTIONS = "outputs.txt", "amct", "predictions"

_SHAPE = re.compile(r'--input_shape="(?P<name>[^:"]+):(?P<shape>[\d,]+)"')


def write(request: Request, folder: Path) -> Contents:
    """Write model, preprocessing, quantization, command lines, calibration images and inputs.

    Raises:
        InputError: no fp32 model, an int8 one of another, or an image that cannot be decoded.
        UsageError: no calibration or evaluation images, or a name that is no layer.
    """
    request.takes("calibration", "evaluation", "exclude")
    request.one_image_a_call()
    request.only(Precision.FP32, Precision.INT8)
    source = request.needed(Precision.FP32, why="AMCT quantizes the float model by itself")
    source.preprocess.refuse_departures(
        what="AIPP, the preprocessing of an Ascend processor,",
        but=GEOMETRY,
        advice="it takes 8-bit RGB: deploy with the onnx package, or train on such images",
    )
    calibration, evaluation = request.images("calibration"), request.images("evaluation")
    layers = float_layers(request, source)
    model = plain_model(source, batch=1)
    save_model(model, folder / f"{source.name}.onnx")
    if source.output.exclusive:
        save_model(with_argmax(model), folder / f"{source.name}{ARGMAX_ENDING}")
    if stated_output(source.output):
        write_example(folder, source.preprocess)
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    aipp = Aipp.of(source.preprocess)
    (folder / AIPP).write_text(aipp.text(), encoding="utf-8")
    skip, batches = list(layers.convolutions), len(calibration)
    (folder / AMCT).write_text(short_form(skip, batches=batches), encoding="utf-8")
    content = long_form(convolutions, skip, batches=batches)
    (folder / AMCT_JSON).write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
    for name, lines in _scripts(source).items():
        (folder / name).write_text("\n".join(["#!/bin/sh", "set -e", *lines]) + "\n", "utf-8")
    write_tensors(calibration, source.preprocess, folder / CALIBRATION)
    write_evaluation(evaluation, folder / EVALUATION)
    _write_inputs(evaluation, source.preprocess, folder)
    return Contents(
        steps=_steps(source),
        executed=(
            f"{AIPP} and {AMCT} read back by protobuf's text parser, {AMCT_JSON} as JSON, each "
            "layer's name against the model",
            "AIPP's formula on all 256 pixel values: at most "
            f"{aipp_error(aipp, source.preprocess):.1e} from the contract's, before its output is "
            "rounded to fp16",
            "the model checked by onnx.checker in opset 11",
        ),
        not_run=("atc, amct_onnx, ais_bench and an Ascend processor: nothing was built or timed",),
        notes=(*_notes(layers, shared=shared_weights(model.graph)), *_class_notes(source)),
    )


def verify(folder: Path) -> None:
    """Read everything back: text protobuf, JSON, shapes, raw tensors, inputs.

    Raises:
        InputError: naming the file that does not fit the model's contract.
    """
    source = only_model(folder)
    if source.output.exclusive:
        verify_argmax(folder / f"{source.name}{ARGMAX_ENDING}", source.model())
    if read_aipp(_text(folder / AIPP), source=str(folder / AIPP)) != Aipp.of(source.preprocess):
        raise InputError(f"{folder / AIPP} does not say what the model says of itself")
    batches = _verify_tensors(folder / CALIBRATION, source.preprocess)
    _verify_amct(folder, source, batches)
    for name in (CONVERT, QUANTIZE):
        match = _SHAPE.search(_text(folder / name))
        shape = tuple(map(int, match["shape"].split(","))) if match else ()
        if match is None or (match["name"], shape) != (
            source.artifact.inputs[0].name,
            source.image_shape(1),
        ):
            raise InputError(f"{folder / name} gives another shape than the model takes")
    paths = sorted((folder / INPUTS).glob("*.npy"))
    for path in paths:
        found = np.load(path, allow_pickle=False)
        if found.shape != (1, *source.preprocess.size, 3) or found.dtype != np.uint8:
            raise InputError(f"{path} holds {found.shape} {found.dtype}; expected RGB, uint8")
    if _text(folder / ORDER) != _order([path.stem for path in paths]):
        raise InputError(f"{folder / ORDER} does not list {INPUTS}/ in the order of its outputs")


def aipp_error(aipp: Aipp, preprocess: Preprocess) -> float:
    """The largest difference of AIPP's numbers from the contract's, over all pixel values."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    return float(np.abs(aipp.apply(ramp) - preprocess.normalise(ramp)).max())


def _verify_amct(folder: Path, source: PackagedModel, batches: int) -> None:
    """Both forms of the configuration say the same, of layers that exist."""
    convolutions = [node.name for node in source.model().graph.node if node.op_type == "Conv"]
    short = fields_of(AMCT_SCHEMA.read(_text(folder / AMCT), source=str(folder / AMCT)))
    skip = short.get("skip_layers", [])
    unknown = sorted(set(skip) - set(convolutions))
    if unknown:
        raise InputError(f"{folder / AMCT} skips {unknown[0]!r}, which the model has not")
    if short.get("batch_num") != batches:
        raise InputError(f"{folder / AMCT} takes {short.get('batch_num')} of {batches} batches")
    long = _json(folder / AMCT_JSON)
    if long != long_form(convolutions, skip, batches=batches):
        raise InputError(f"{folder / AMCT_JSON} and {folder / AMCT} do not say the same")


def _verify_tensors(folder: Path, preprocess: Preprocess) -> int:
    paths = sorted(folder.glob("*.bin"))
    expected = 3 * preprocess.size[0] * preprocess.size[1] * np.dtype("<f4").itemsize
    for path in paths:
        if path.stat().st_size != expected:
            raise InputError(f"{path} has {path.stat().st_size} bytes; expected {expected}")
    if not paths:
        raise InputError(f"{folder} holds no tensor")
    return len(paths)


def _write_inputs(images: SegmentationSet, preprocess: Preprocess, folder: Path) -> None:
    """Every image as (1, height, width, 3) RGB, and their names in the order of the outputs."""
    (folder / INPUTS).mkdir()
    for sample, pixels in zip(images, images.pixels(preprocess), strict=True):
        np.save(folder / INPUTS / f"{sample.name}.npy", pixels[None])
    (folder / ORDER).write_text(_order([sample.name for sample in images]), "utf-8")


def _output(name: str) -> str:
    """What ais_bench calls the output of ``NAME.npy``."""
    return f"{name}_0.npy"


def _order(names: Iterable[str]) -> str:
    """One input a line; with outputs sorted by name, the n-th is of the n-th line."""
    ordered = sorted(names, key=lambda name: counted(_output(name)))
    return "".join(f"{INPUTS}/{name}.npy\n" for name in ordered)


def _scripts(source: PackagedModel) -> dict[str, list[str]]:
    """The three scripts, by name."""
    model, name = _on_device(source), source.artifact.inputs[0].name
    shape = f'--input_shape="{name}:{",".join(map(str, source.image_shape(1)))}"'
    quantized = f"{RESULTS}/{model}_deploy_model.onnx"
    atc = (
        f"atc --framework=5 --model={{model}} --output={{output}} {shape} --input_format=NCHW "
        f'--insert_op_conf={AIPP} --soc_version="$1" --log=error'
    )
    return {
        QUANTIZE: [
            f"mkdir -p {RESULTS}",
            f"amct_onnx calibration --model {model}.onnx --save_path "
            f"{RESULTS}/{model} {shape} --data_dir {CALIBRATION} --data_types float32 "
            f"--calibration_config {AMCT}",
        ],
        CONVERT: [
            'test -n "$1" || { echo "usage: sh '
            + CONVERT
            + ' SOC_VERSION (npu-smi info)"; exit 2; }',
            atc.format(model=f"{model}.onnx", output=f"{source.name}_fp16"),
            f"if [ -f {quantized} ]; then",
            "    " + atc.format(model=quantized, output=f"{source.name}_int8"),
            "fi",
        ],
        RUN: [
            f"python3 -m ais_bench --model {source.name}_int8.om --input {INPUTS} --output . "
            f"--output_dirname {PREDICTIONS} --outfmt NPY",
            f"segdeploy parity --reference {source.name}.onnx --data {EVALUATION} "
            f"--predictions {PREDICTIONS} --predictions-order {ORDER}",
        ],
    }


def _on_device(source: PackagedModel) -> str:
    """The name of the model that the device computes: where classes exclude each other, decided."""
    return source.name + (ARGMAX_ENDING.removesuffix(".onnx") if source.output.exclusive else "")


def _class_notes(source: PackagedModel) -> tuple[str, ...]:
    if not stated_output(source.output):
        return ()
    masks = f"`python {EXAMPLE} --outputs {PREDICTIONS} -o masks` writes"
    if not source.output.exclusive:
        return (f"{masks} a mask for each label of what the device returned.",)
    return (
        f"`{_on_device(source)}.onnx` is `{source.name}.onnx` with an ArgMax over the channels "
        "behind it (ArgMaxV2 on the processor): the device returns the class of each pixel, (1, "
        f"height, width). For probabilities put `{source.name}.onnx` in its place in the scripts.",
        f"{masks} them as palette images.",
    )


def _steps(source: PackagedModel) -> tuple[Step, ...]:
    return (
        Step(what="quantize to int8 with AMCT", command=f"sh {QUANTIZE}"),
        Step(
            what=f"compile {source.name}_fp16.om and _int8.om; npu-smi info names the processor",
            command=f"sh {CONVERT} Ascend310P3",
        ),
        Step(what="run the evaluation images and score them", command=f"sh {RUN}"),
    )


def _notes(layers: FloatLayers, *, shared: int) -> tuple[str, ...]:
    notes = [
        f"The compiled models take 8-bit RGB, (1, height, width, 3): `{AIPP}` swaps channels and "
        "normalises on the processor; resize images first.",
        f"`{AMCT_JSON}` is `{AMCT}` in the long form of AMCT's Python interface. AMCT searches "
        "ranges by itself (IFMR), with an offset for activations.",
    ]
    if shared:
        notes.append(
            f"{shared} convolutions share their weights with another, as recurrent steps do. AMCT "
            "for PyTorch quantizes no such layer; see in AMCT's log what it does with these."
        )
    if layers.convolutions:
        notes.append(f"In float (`skip_layers`): {', '.join(layers.convolutions)}.")
    if layers.others:
        notes.append(
            "Not carried over, because AMCT is told of convolutions only: "
            + ", ".join(layers.others)
        )
    return tuple(notes)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error


def _json(path: Path) -> Any:
    try:
        return parse_json(_text(path))
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error})") from error


ASCEND = PackageTarget(
    name="ascend",
    title="Ascend",
    document=(
        "CANN 8.0 documentation, hiascend.com: ATC Instructions (atlasatc_16_0020 to 0028: AIPP, "
        "command-line options) and AMCT Instructions (atlasamct_16_0163: simplified PTQ "
        "configuration, quantization configuration file)"
    ),
    write=write,
    verify=verify,
)
