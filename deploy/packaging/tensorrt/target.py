"""TensorRT: strongly typed ONNX in int8 and fp16, a calibration cache, build and check commands."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np

from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.exchange import from_tensorrt
from segdeploy.calibration.files import read_text
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.onnx_model.file import describe, load_model, save_model
from segdeploy.deploy.packaging.argmax import ENDING as ARGMAX_ENDING
from segdeploy.deploy.packaging.argmax import verify_argmax, with_argmax
from segdeploy.deploy.packaging.base import Contents, PackagedModel, PackageTarget, Request, Step
from segdeploy.deploy.packaging.tensorrt.commands import (
    BUILD,
    BUILD_IMPLICIT,
    CACHE,
    COMPARE,
    INPUTS,
    polygraphy,
    shapes_of,
    trtexec,
    trtexec_with_cache,
    write_loader,
)
from segdeploy.deploy.quantize.exchange import ExchangeFormat, export_table
from segdeploy.deploy.quantize.to_int8 import require_table_of, to_int8
from segdeploy.deploy.stages.to_fp16 import to_fp16
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.targets.profiles import TENSORRT as PROFILE
from segdeploy.deploy.targets.tensorrt_rules import WHY, Finding, check_qdq, rejected

_SHAPE = re.compile(r"--(?:min|opt|max)Shapes=(?P<name>[^:\s]+):(?P<shape>\d+(?:x\d+)*)")


def write(request: Request, folder: Path) -> Contents:
    """Write models, cache, command lines and, where evaluation images are given, those as inputs.

    Of an fp32 model the fp16 one is made, and with its table the int8 one and the cache.

    Raises:
        InputError: a model TensorRT would reject (naming node, rule and fix), int8 of another
            target, or a table of another model.
        UsageError: neither an int8 nor an fp32 or fp16 model, or a table without its model.
    """
    request.takes("evaluation", "table", "exclude")
    request.only(Precision.FP32, Precision.FP16, Precision.INT8, targets=(PROFILE.name,))
    models = _models(request, folder)
    advice = []
    for source in models:
        findings = check_qdq(source.model())
        _require_accepted(source, findings)
        advice += [f"`{source.artifact.path.name}`: {finding}" for finding in findings]
    cache = _write_cache(request, folder)
    decided = [_write_decided(source, folder) for source in models if source.output.exclusive]
    _script(
        folder / BUILD,
        [trtexec(source, request.batches) for source in models]
        + [
            trtexec(source, request.batches, name=name)
            for source, name in zip(models, decided, strict=False)
        ],
    )
    if request.evaluation is not None:
        write_loader(request.evaluation, models[0], folder, batch=request.batches[1])
    real = request.evaluation is not None
    _script(folder / COMPARE, [polygraphy(source, request.batches, real=real) for source in models])
    if cache is not None:
        _script(folder / BUILD_IMPLICIT, [trtexec_with_cache(cache, request.batches)])
    return Contents(
        steps=_steps(models, request.batches),
        executed=(
            f"{len(WHY)} rules of TensorRT for QDQ graphs, on every model here: none is broken",
            "onnx.checker on every model; shapes in the scripts against the models"
            + ("; the calibration cache read back" if cache else ""),
        ),
        not_run=("TensorRT, trtexec and Polygraphy: no engine was built and none was timed",),
        notes=_notes(cache, advice, decided),
    )


def verify(folder: Path) -> None:
    """Read every model, script and the cache back.

    Raises:
        InputError: a model TensorRT would reject, a script that names a file that is not there or
            a shape the model does not take, or a cache with a tensor the model lacks.
    """
    sources = _opened(folder)
    for source in sources:
        _require_accepted(source, check_qdq(source.model()))
        if source.output.exclusive:
            verify_argmax(folder / f"{source.name}{ARGMAX_ENDING}", source.model())
    for name in (BUILD, COMPARE, BUILD_IMPLICIT):
        if (folder / name).is_file():
            _verify_script(folder / name)
    if (folder / CACHE).is_file():
        _verify_cache(folder)
    for path in sorted((folder / INPUTS).glob("*.npy")):
        found = np.load(path, allow_pickle=False)
        if (
            found.shape != (1, sources[0].preprocess.channels, *sources[0].preprocess.size)
            or found.dtype != np.float32
        ):
            raise InputError(f"{path} holds {found.shape} {found.dtype}; the model takes another")


def _models(request: Request, folder: Path) -> list[PackagedModel]:
    """The models of the package, in order: copied, or made from fp32."""
    sources = {source.artifact.precision: source for source in request.sources}
    for source in sources.values():
        shutil.copyfile(source.artifact.path, folder / source.artifact.path.name)
    fp32, table = sources.get(Precision.FP32), request.table
    if table is not None and fp32 is None:
        raise UsageError("--calibration belongs to an fp32 model; name that with -m, too")
    if fp32 is not None and Precision.FP16 not in sources:
        to_fp16(fp32.artifact, folder / f"{fp32.name}.fp16.onnx")
    if fp32 is not None and table is not None and Precision.INT8 not in sources:
        to_int8(
            fp32.artifact,
            folder / f"{fp32.name}.int8.{PROFILE.name}.onnx",
            table=table,
            table_sha256=request.table_sha256 or "",
            profile=PROFILE,
            exclude=request.exclude,
        )
    elif request.exclude:
        raise UsageError("--exclude is for an int8 model made here: give -m fp32 and --calibration")
    return _opened(folder)


def _opened(folder: Path) -> list[PackagedModel]:
    """The models of a package that give probabilities, in the order of their names."""
    paths = [path for path in folder.glob("*.onnx") if not path.name.endswith(ARGMAX_ENDING)]
    return [PackagedModel.open(path) for path in sorted(paths)]


def _write_decided(source: PackagedModel, folder: Path) -> str:
    """Write a model with its decision behind it; the name without ``.onnx``."""
    path = folder / f"{source.name}{ARGMAX_ENDING}"
    save_model(with_argmax(source.model()), path)
    return path.name.removesuffix(".onnx")


def _require_accepted(source: PackagedModel, findings: tuple[Finding, ...]) -> None:
    broken = rejected(findings)
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise InputError(f"TensorRT rejects {source.artifact.path.name}: {broken[0]}{more}")


def _write_cache(request: Request, folder: Path) -> PackagedModel | None:
    """The calibration cache of the fp32 model, which is returned; ``None`` without a table."""
    table = request.table
    if table is None:
        return None
    source = request.needed(Precision.FP32, why="the calibration table belongs to it")
    require_table_of(table, source.artifact)
    written = export_table(
        table, source.artifact, folder / "calibration.json", ExchangeFormat.TENSORRT
    )
    written.rename(folder / CACHE)
    return source


def _steps(models: list[PackagedModel], batches: tuple[int, int, int]) -> tuple[Step, ...]:
    first = min(
        models,
        key=lambda s: (Precision.INT8, Precision.FP16, Precision.FP32).index(s.artifact.precision),
    )
    shape = shapes_of(first, batches)
    at = f" --shapes={shape[1][1]}" if shape else ""
    return (
        Step(what="build the engines", command=f"sh {BUILD}"),
        Step(what="compare every engine with ONNX Runtime", command=f"sh {COMPARE}"),
        Step(what="time one", command=f"trtexec --loadEngine={first.name}.plan{at}"),
    )


def _notes(cache: PackagedModel | None, advice: list[str], decided: list[str]) -> tuple[str, ...]:
    notes = [
        "Engines are bound to the GPU and the TensorRT release that built them. They are strongly "
        "typed: what an int8 model does not quantize runs in fp32."
    ]
    if cache is not None:
        notes.append(
            f"`sh {BUILD_IMPLICIT}` builds int8 from `{cache.artifact.path.name}` and `{CACHE}` "
            "instead, with TensorRT up to 10: implicit quantization left in 11. The first line of "
            "the cache names release 8.6.1; put yours there if TensorRT ignores the file."
        )
    if decided:
        notes.append(
            f"`*{ARGMAX_ENDING}` have an ArgMax over the channels behind them (TensorRT's TopK): "
            f"engines of these, `*.argmax.plan`, give the class of each pixel, int64 (batch, "
            "height, width)."
        )
    return (*notes, *advice)


def _script(path: Path, lines: list[str]) -> None:
    path.write_text("#!/bin/sh\nset -e\n" + "".join(f"{line}\n" for line in lines), "utf-8")


def _verify_script(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for line in text.splitlines()[2:]:
        named = re.search(r"(?:--onnx=|run )(\S+\.onnx)", line)
        if named is None or "/" in named[1] or not (path.parent / named[1]).is_file():
            raise InputError(f"{path} runs on a model that is not here: {line!r:.80}")
        artifact = describe(path.parent / named[1])
        for match in _SHAPE.finditer(line):
            shape = tuple(int(side) for side in match["shape"].split("x"))
            if (
                match["name"] != artifact.inputs[0].name
                or shape[1:] != artifact.inputs[0].shape[1:]
            ):
                raise InputError(f"{path}: {match[0]} does not fit {named[1]}")


def _verify_cache(folder: Path) -> None:
    named = re.search(r"--onnx=(\S+)", (folder / BUILD_IMPLICIT).read_text(encoding="utf-8"))
    if named is None or "/" in named[1]:
        raise InputError(f"{folder / BUILD_IMPLICIT} names no model of the package")
    graph = load_model(folder / named[1]).graph
    tensors = {name for node in graph.node for name in (*node.input, *node.output)}
    try:
        ranges = from_tensorrt(read_text(folder / CACHE), source=str(folder / CACHE))
    except CalibrationError as error:
        raise InputError(str(error)) from error
    unknown = sorted(ranges.keys() - tensors)
    if unknown:
        raise InputError(f"{folder / CACHE} has scales for {unknown[:3]}, which {named[1]} lacks")


TENSORRT = PackageTarget(
    name="tensorrt",
    title="NVIDIA TensorRT",
    document=(
        "NVIDIA TensorRT documentation: Working with Quantized Types; Migrating trtexec Usage from "
        "TensorRT 10.x to 11.x (--stronglyTyped is the default in 11, --int8 and --calib left); "
        "`polygraphy run` of Polygraphy 0.53.6; onnx-tensorrt's operator table"
    ),
    write=write,
    verify=verify,
    check=check_qdq,
)
