"""ONNX files: read, write whole or not at all, describe, and carry metadata."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from segdeploy.calibration.files import naming, write_atomic
from segdeploy.deploy import __version__
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision, TensorSpec
from segdeploy.deploy.onnx_model.guard import MOST_BYTES, require_inference, require_plain
from segdeploy.deploy.onnx_model.interface import Interface, interface_of
from segdeploy.deploy.onnx_model.normalise import normalise
from segdeploy.deploy.onnx_model.output_check import require_output_of
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.errors import InputError, one_line
from segdeploy.deploy.system.regular_file import require_regular_file


def load_model(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file, in the one form that ``deploy.onnx_model.normalise`` gives it.

    Raises:
        InputError: missing, truncated, not ONNX, or with what ``deploy.onnx_model.guard`` refuses,
            as weights outside the file and operators that train.
    """
    size = require_regular_file(path, what="model", expected="an ONNX file").st_size
    if size > MOST_BYTES:
        raise InputError(
            f"model {path} has {size / 2**30:.1f} GiB; an ONNX file has less than 2: give the file "
            "that `segdeploy export` wrote"
        )
    try:
        # The format is stated, or the suffix would choose it: a .json file is no JSON model here.
        model = onnx.load(path, format="protobuf", load_external_data=False)
        require_plain(model, path)
        onnx.checker.check_model(model)
        normalise(model)
        require_inference(model, path)
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        raise InputError(
            f"model {path} is not a valid ONNX file ({one_line(error, limit=160)}); export it again"
        ) from error
    return model


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Write deterministically, whole or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, model.SerializeToString(deterministic=True))


def copy_returning(
    source: Path, output: Path, tensors: Mapping[str, int], *, nodes: Sequence[onnx.NodeProto] = ()
) -> None:
    """Write a copy of a file whose graph returns more tensors.

    They are appended, because two serialised protobuf messages behind each other are read as one
    merged message: the weights are never parsed here.

    Args:
        source: an ONNX file that ``load_model`` accepts.
        output: where to write.
        tensors: that the graph does not return yet, and their ONNX element types.
        nodes: behind the graph's own, in topological order.

    Raises:
        OSError: a file cannot be read or written.
    """
    values = [onnx.helper.make_tensor_value_info(*each, None) for each in tensors.items()]
    more = onnx.ModelProto(graph=onnx.GraphProto(node=nodes, output=values))
    with naming(output):
        shutil.copyfile(source, output)
        with output.open("ab") as stream:
            stream.write(more.SerializeToString())


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """The model's ``metadata_props`` as a dict."""
    return {entry.key: entry.value for entry in model.metadata_props}


def set_metadata(model: onnx.ModelProto, entries: Mapping[str, str]) -> None:
    """Replace a model's ``metadata_props``, sorted by key."""
    del model.metadata_props[:]
    for key in sorted(entries):
        model.metadata_props.add(key=key, value=entries[key])


def strip_debug_info(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes for its own debugging: source paths, stack traces, hashes."""
    model.producer_name, model.producer_version, model.doc_string = "segdeploy", __version__, ""
    model.graph.name, model.graph.doc_string = "segdeploy", ""
    for holder in [
        *model.graph.node,
        *model.graph.initializer,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
    ]:
        holder.doc_string = ""
        del holder.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.functions[:]


def describe(path: Path, *, model: onnx.ModelProto | None = None) -> Artifact:
    """Describe a file this project wrote.

    Args:
        path: the file.
        model: its content, when the caller already has it.

    Raises:
        InputError: not a valid ONNX file.
    """
    model = model or load_model(path)
    props = metadata(model)
    return Artifact(
        path=path,
        precision=_precision(model),
        opset=next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
        inputs=specs_of(model.graph.input),
        outputs=specs_of(model.graph.output),
        sha256=sha256_of(path),
        parent=props.get("parent_sha256"),
        target=props.get("target"),
    )


def opened(path: Path) -> Artifact:
    """Describe a file that somebody gives; one that carries contracts must keep them.

    Raises:
        InputError: not a valid ONNX file, or its ends are not what its contracts say.
    """
    model = load_model(path)
    artifact = describe(path, model=model)
    if "preprocess" in metadata(model):
        require_contracts(artifact, model)
    return artifact


def contract_of(artifact: Artifact) -> Preprocess:
    """The input contract a model file carries.

    Raises:
        InputError: it carries none, or its ends are not what its contracts say.
    """
    return require_contracts(artifact, load_model(artifact.path))


def require_contracts(artifact: Artifact, model: onnx.ModelProto) -> Preprocess:
    """Refuse a model whose ends are not what its contracts say.

    Args:
        artifact: the file.
        model: its content.

    Returns:
        Its input contract.

    Raises:
        InputError: it carries none, its input is not what that makes of an image, or its output
            not what its output contract says (``deploy.onnx_model.output_check``).
    """
    contract = contract_in(model, source=str(artifact.path))
    require_input_of(contract, artifact)
    require_output_of(output_in(model, source=str(artifact.path)), artifact, model)
    return contract


def require_input_of(contract: Preprocess, artifact: Artifact) -> None:
    """Refuse a model whose input is not what its contract makes of an image.

    Raises:
        InputError: other ends than ``interface_of`` knows, another size, or other channels.
    """
    try:
        image = interface_of(artifact.inputs, artifact.outputs) is Interface.IMAGE
    except InputError as error:
        raise InputError(f"{artifact.path}: {error}") from error
    height, width = contract.size
    channels = contract.channels
    expected = (height, width, channels) if image else (channels, height, width)
    found = artifact.inputs[0].shape[1:]
    if any(
        isinstance(there, int) and there != here
        for there, here in zip(found, expected, strict=True)
    ):
        raise InputError(
            f"{artifact.path} takes images of {found}, its input contract says {expected}; export "
            "the model again with that contract"
        )


def contract_in(model: onnx.ModelProto, *, source: str) -> Preprocess:
    """The input contract a loaded model carries.

    Args:
        model: the model.
        source: what to call it in an error.

    Raises:
        InputError: it carries none.
    """
    entries = metadata(model)
    if "preprocess" not in entries:
        raise InputError(
            f"{source} carries no preprocessing contract; export it with `segdeploy export`"
        )
    return Preprocess.from_json(entries["preprocess"], source=source)


def output_entries(contract: OutputContract) -> dict[str, str]:
    """The entries of a file's metadata that state its output contract.

    The names of the classes stand under ``classes``, for people and other tools; the contract is
    added where it says more than names.
    """
    entries = {"classes": ",".join(contract.classes)}
    if contract != OutputContract(classes=contract.classes):
        entries["output"] = contract.to_json()
    return entries


def output_in(model: onnx.ModelProto, *, source: str) -> OutputContract:
    """The output contract a loaded model carries; labels of their own where it states names only.

    Args:
        model: the model.
        source: what to call it in an error.

    Raises:
        InputError: what it states is no contract.
    """
    return output_stated(metadata(model), source=source)


def output_stated(entries: Mapping[str, str], *, source: str) -> OutputContract:
    """The output contract that metadata of any file format states.

    Args:
        entries: as ``output_entries`` gives them, among others.
        source: what to call the file in an error.

    Raises:
        InputError: what they state is no contract.
    """
    if "output" in entries:
        return OutputContract.from_json(entries["output"], source=source)
    if "classes" not in entries:
        return OutputContract()
    try:
        return OutputContract(classes=tuple(entries["classes"].split(",")))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def output_of(artifact: Artifact) -> OutputContract:
    """The output contract a model file carries.

    Raises:
        InputError: no valid file, or what it states is no contract.
    """
    return output_in(load_model(artifact.path), source=str(artifact.path))


def require_fp32(source: Artifact, purpose: str) -> None:
    """Refuse a model that is not float32.

    Args:
        source: the model.
        purpose: what float32 is needed for, as ``int8 is made``.

    Raises:
        InputError: it is not.
    """
    if source.precision is not Precision.FP32:
        raise InputError(
            f"{source.path} is {source.precision.value}; {purpose} from fp32, give the file that "
            "`segdeploy export` or `segdeploy simplify` wrote"
        )
    if any(spec.dtype == "uint8" for spec in source.inputs):
        raise InputError(
            f"{source.path} takes 8-bit images; {purpose} from the file it was made from, and the "
            "image interface is added last"
        )


def _precision(model: onnx.ModelProto) -> Precision:
    """What the file says it is, unless it says float32 and its graph is not.

    Other tools keep our metadata in what they make of a float32 file.
    """
    found, stated = _infer(model), metadata(model).get("precision")
    known = {each.value for each in Precision} - {Precision.FP32.value}
    return Precision(stated) if stated in known else found


def _infer(model: onnx.ModelProto) -> Precision:
    """Precision of a file without our metadata, from its graph."""
    if any(node.op_type in ("QuantizeLinear", "QLinearConv") for node in model.graph.node):
        return Precision.INT8
    types = {tensor.data_type for tensor in model.graph.initializer}
    return Precision.FP16 if onnx.TensorProto.FLOAT16 in types else Precision.FP32


def specs_of(values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """The inputs or outputs of a graph, described."""
    return tuple(
        TensorSpec(
            name=value.name,
            shape=tuple(
                dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?")
                for dim in value.type.tensor_type.shape.dim
            ),
            dtype=str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
        )
        for value in values
    )
