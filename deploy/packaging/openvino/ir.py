"""OpenVINO IR (``.xml`` and ``.bin``) of an ONNX file: with its metadata, the same bytes again."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import TensorSpec
from segdeploy.deploy.packaging.openvino.preprocess import decide, embed
from segdeploy.deploy.runtimes.openvino_core import openvino_core
from segdeploy.deploy.system.errors import InputError, RunError

FACTS = "segdeploy"
"""Section of the IR's ``rt_info`` that holds the model's metadata."""

_CHECK = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
_DTYPES = {"f32": "float32", "f16": "float16", "u8": "uint8"}


@dataclass(frozen=True, kw_only=True)
class Ir:
    """An IR file, read back.

    Attributes:
        path: the ``.xml``.
        input: its one input; a dynamic axis is "?".
        output: its one output.
        facts: the metadata it carries.
    """

    path: Path
    input: TensorSpec
    output: TensorSpec
    facts: dict[str, str]


def write_ir(
    onnx_path: Path,
    xml: Path,
    *,
    facts: Mapping[str, str],
    batch: int | None,
    compress: bool = False,
    embedded: Preprocess | None = None,
    decided: bool = False,
    layouts: bool = True,
) -> None:
    """Convert an ONNX file.

    Args:
        onnx_path: the model; of any precision.
        xml: file to write, the weights beside it.
        facts: metadata for ``rt_info``.
        batch: to fix; ``None`` leaves it dynamic.
        compress: store float weights in fp16; they are expanded when the model is loaded.
        embedded: contract to build in, for a model that takes tensors.
        decided: the output becomes the class of each pixel.
        layouts: state which axis is which, as ``benchmark_app`` wants and Triton's configuration
            does not.

    Raises:
        InputError: OpenVINO does not accept the model.
        RunError: it cannot write the files.
    """
    try:
        model = openvino_core().read_model(onnx_path)
        _fix_batch(model, batch)
        named = _name_layers(model)
        if embedded is not None:
            model = embed(model, embedded)
            model = decide(model) if decided else model
            _name_layers(model, named=named)
    except RuntimeError as error:
        raise InputError(f"OpenVINO cannot convert {onnx_path}: {_reason(error)}") from error
    _set_layouts(model, layouts)
    for key in sorted(facts):
        model.set_rt_info(facts[key], [FACTS, key])
    xml.parent.mkdir(parents=True, exist_ok=True)
    try:
        openvino.save_model(model, xml, compress_to_fp16=compress)
    except RuntimeError as error:  # it does not say why
        free = shutil.disk_usage(xml.parent).free
        raise RunError(
            f"OpenVINO cannot write {xml.name} ({_reason(error)}), and {free / 1e6:.1f} MB are "
            "free there; free space there and run the same command again"
        ) from error


def read_ir(xml: Path) -> Ir:
    """Read an IR back with OpenVINO's own parser.

    Raises:
        InputError: no IR, or not one of one input, one output and our metadata.
    """
    try:
        model = openvino_core().read_model(xml)
        facts = {key: str(value) for key, value in model.get_rt_info([FACTS]).value.items()}
    except RuntimeError as error:
        raise InputError(f"{xml} is no IR of this tool: {_reason(error)}") from error
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InputError(
            f"{xml} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; expected one "
            "of each"
        )
    return Ir(path=xml, input=_spec(model.input(0)), output=_spec(model.output(0)), facts=facts)


def compile_model(path: Path, *, batch: int | None = None) -> openvino.CompiledModel:
    """Compile an IR or ONNX file for the CPU, in fp32 where it is not quantized.

    Args:
        path: the file.
        batch: to fix a dynamic batch to before compiling.

    Raises:
        InputError: OpenVINO does not accept it.
    """
    try:
        core = openvino_core()
        model = core.read_model(path)
        _fix_batch(model, batch)
        return core.compile_model(model, "CPU", _CHECK)
    except RuntimeError as error:
        raise InputError(f"OpenVINO cannot compile {path}: {_reason(error)}") from error


def infer(compiled: openvino.CompiledModel, feed: NDArray[Any]) -> NDArray[Any]:
    """The one output for one batch."""
    result: NDArray[Any] = np.array(compiled(feed)[0])
    return result


def _fix_batch(model: openvino.Model, batch: int | None) -> None:
    if batch is not None:
        shape = model.input(0).get_partial_shape()
        shape[0] = batch
        model.reshape({model.input(0): shape})


def _name_layers(model: openvino.Model, *, named: Collection[str] = ()) -> set[str]:
    """Name layers by their place in the graph, so that the same model gives the same bytes.

    OpenVINO numbers layers without a name of their own through the life of a process.

    Args:
        model: changed.
        named: names to keep, when what was built in afterwards is named; else every name that is
            not OpenVINO's own.

    Returns:
        The names of all layers.
    """
    prefix = "input/" if named else ""
    for index, node in enumerate(model.get_ordered_ops()):
        name = node.get_friendly_name()
        unnamed = name not in named if named else name == node.get_name()
        if unnamed:
            node.set_friendly_name(f"{prefix}{node.get_type_name()}@{index}")
    return {node.get_friendly_name() for node in model.get_ordered_ops()}


def _set_layouts(model: openvino.Model, stated: bool) -> None:
    """State the axes of images by rank and type, or take what the conversion stated away."""
    for end in (*model.get_parameters(), *model.get_results()):
        port = end.output(0)
        axes = {4: "NHWC" if port.get_element_type() == openvino.Type.u8 else "NCHW", 3: "NHW"}
        layout = axes[len(port.get_partial_shape())] if stated else "..."
        end.set_layout(openvino.Layout(layout))


def _spec(port: openvino.Output) -> TensorSpec:
    return TensorSpec(
        name=port.get_any_name(),
        shape=tuple(
            "?" if side.is_dynamic else side.get_length() for side in port.get_partial_shape()
        ),
        dtype=_DTYPES.get(port.get_element_type().get_type_name(), "other"),
    )


def _reason(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[-1]
