"""Raise the opset of a foreign graph to the first that int8 can be written in."""

from __future__ import annotations

import onnx
from onnx import version_converter

from segdeploy.deploy.onnx_model.normalise import normalise
from segdeploy.deploy.system.errors import InputError, one_line

OLDEST = 7
"""ONNX Runtime runs no older operators; the converter knows how to raise these."""

INT8_OPSET = 13
"""The first whose QuantizeLinear and DequantizeLinear take one scale for each channel."""

INT8_IR = 7
"""The IR version that came with it."""


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model is written in."""
    return int(next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")))


def require_known_opset(model: onnx.ModelProto) -> None:
    """Refuse operators that are older than ONNX Runtime runs.

    Raises:
        InputError: with the opset to export in.
    """
    opset = opset_of(model)
    if opset < OLDEST:
        raise InputError(
            f"the model is written in opset {opset}; expected {OLDEST} or newer: export it again "
            f"with opset {INT8_OPSET} or newer"
        )


def raised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in an opset that int8 can be written in; itself where it is new enough.

    Args:
        model: in the one form of ``normalise``, of ``OLDEST`` or newer; changed at most in its IR
            version.

    Raises:
        InputError: an operator the converter does not know how to raise.
    """
    opset = opset_of(model)
    model.ir_version = max(model.ir_version, INT8_IR)
    if opset >= INT8_OPSET:
        return model
    try:
        newer = version_converter.convert_version(model, INT8_OPSET)
        normalise(newer)
        onnx.checker.check_model(newer)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise InputError(
            f"the model is written in opset {opset}, which cannot be raised to {INT8_OPSET} "
            f"({one_line(error, limit=200)}); export it again with opset {INT8_OPSET} or newer"
        ) from error
    return newer
