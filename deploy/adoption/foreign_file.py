"""Read an ONNX file of any exporter: weights beside it come in, local functions are inlined."""

from __future__ import annotations

import os
from itertools import chain
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, inliner

from segdeploy.deploy.onnx_model.guard import (
    BYTES_OF_TYPE,
    MOST_BYTES,
    require_inference,
    require_plain,
    require_plain_node,
    stored_tensors,
)
from segdeploy.deploy.onnx_model.normalise import normalise
from segdeploy.deploy.system.errors import InputError, one_line
from segdeploy.deploy.system.regular_file import require_regular_file

MOST_NODES = 100_000
"""Of a graph once its functions are inlined; functions that call each other double with each."""


def load_foreign(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file of any exporter, in the one form of ``normalise``.

    Weights that it keeps in files of its own folder are taken in. Functions of its own, as the
    exporter of PyTorch writes them, are replaced by what they compute.

    Args:
        path: the file.

    Raises:
        InputError: missing, truncated, not ONNX; weights outside its folder, missing or of another
            length; functions that call themselves or grow without end; or with what
            ``deploy.onnx_model.guard`` refuses, as control flow and operators that train.
    """
    size = require_regular_file(path, what="model", expected="an ONNX file").st_size
    if size > MOST_BYTES:
        raise InputError(
            f"model {path} has {size / 2**30:.1f} GiB; an ONNX file has less than 2: export it "
            "with its weights in a file beside it"
        )
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
        _take_in_weights(model, path)
        if model.functions:
            _require_finite(model, path)
            onnx.checker.check_model(model)
            model = inliner.inline_local_functions(model)
        require_plain(model, path)
        onnx.checker.check_model(model)
        normalise(model)
        require_inference(model, path)
    except (DecodeError, onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise InputError(
            f"model {path} is not a valid ONNX file ({one_line(error, limit=160)}); export it again"
        ) from error
    return model


def _take_in_weights(model: onnx.ModelProto, path: Path) -> None:
    """Put the bytes of every tensor outside the file into it, in place."""
    total = 0
    bodies = (model.graph.node, *(function.node for function in model.functions))
    nodes = chain.from_iterable(bodies)
    for tensor in stored_tensors(model.graph.initializer, nodes):
        if tensor.data_location != TensorProto.EXTERNAL and not tensor.external_data:
            continue
        content = _outside(tensor, path)
        total += len(content)
        if total > MOST_BYTES:
            raise InputError(
                f"model {path} has more than 2 GiB of weights; expected less, which is what one "
                "ONNX file holds: export it in fp16"
            )
        tensor.raw_data = content
        tensor.ClearField("data_location")
        del tensor.external_data[:]


def _outside(tensor: TensorProto, path: Path) -> bytes:
    """The bytes of one tensor, from a file in the model's folder.

    Raises:
        InputError: another folder, no such file, or too few bytes in it.
    """
    name = one_line(repr(tensor.name), limit=100)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = os.fsdecode(entries.get("location", ""))  # protobuf gives bytes where it is no text
    shown = one_line(repr(location), limit=100)
    folder = path.parent.resolve()
    try:
        file = (folder / location).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a loop; a NUL
        raise InputError(
            f"model {path} keeps {name} in {shown}, which cannot be reached ({one_line(error)}); "
            "put the file with the weights beside the model"
        ) from error
    if not location or Path(location).is_absolute() or not file.is_relative_to(folder):
        raise InputError(
            f"model {path} keeps {name} outside its own folder, in {shown}; expected a file of "
            f"{folder}: move it there, or save the model as one file"
        )
    there = require_regular_file(
        file, what=f"file of the weights of {path},", expected="it beside the model"
    ).st_size
    if tensor.data_type not in BYTES_OF_TYPE or min(tensor.dims, default=1) < 0:
        raise InputError(
            f"model {path} keeps {name} of type {tensor.data_type} and shape "
            f"{one_line(list(tensor.dims), limit=60)} in another file; expected numbers of whole "
            "bytes: save the model as one file"
        )
    expected = prod(tensor.dims) * BYTES_OF_TYPE[tensor.data_type]
    offset = _whole(entries.get("offset", "0"), path, name)
    length = _whole(entries.get("length", str(expected)), path, name)
    if length != expected or offset + length > there:
        raise InputError(
            f"model {path} wants {expected} bytes of {name} at {offset} of {shown}, which states "
            f"{length} and has {there}; is one of the two files of another export? Export both "
            "again"
        )
    with file.open("rb") as stream:
        stream.seek(offset)
        content: bytes = stream.read(length)
    return content


def _whole(text: str, path: Path, name: str) -> int:
    """A place or a length as ONNX writes it."""
    if text.isascii() and text.isdigit() and len(text) <= 19:
        return int(text)
    raise InputError(
        f"model {path} says that {name} begins at or has {one_line(repr(text), limit=60)} bytes; "
        "expected a whole number: export it again"
    )


def _require_finite(model: onnx.ModelProto, path: Path) -> None:
    """Refuse functions that call themselves, or make too many nodes once they are inlined.

    Raises:
        InputError: naming the function, or a node of one that decides what is computed.
    """
    for node in chain(model.graph.node, *(function.node for function in model.functions)):
        require_plain_node(node, path)
    bodies = {(each.domain, each.name, each.overload): each for each in model.functions}
    sizes: dict[tuple[str, str, str], int] = {}
    begun: set[tuple[str, str, str]] = set()
    waiting = [(key, False) for key in bodies]
    while waiting:
        key, complete = waiting.pop()
        called = [
            call
            for node in bodies[key].node
            if (call := (node.domain, node.op_type, node.overload)) in bodies
        ]
        if complete:
            plain = len(bodies[key].node) - len(called)
            sizes[key] = plain + sum(sizes[call] for call in called)
            if sizes[key] > MOST_NODES:
                raise _unbounded(path, key[1], f"makes more than {MOST_NODES} nodes")
        elif key not in sizes:
            if key in begun:
                raise _unbounded(path, key[1], "calls itself")
            begun.add(key)
            waiting.append((key, True))
            waiting += [(call, False) for call in called if call not in sizes]
    uses = [(node.domain, node.op_type, node.overload) for node in model.graph.node]
    if sum(sizes.get(use, 1) for use in uses) > MOST_NODES:
        raise _unbounded(path, model.functions[0].name, f"makes more than {MOST_NODES} nodes")


def _unbounded(path: Path, name: str, found: str) -> InputError:
    return InputError(
        f"model {path}: its function {one_line(repr(name), limit=100)} {found}; expected functions "
        "that end: export it again"
    )
