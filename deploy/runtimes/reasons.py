"""What a runtime says about a file it does not take: the sentence that helps, in one line."""

from __future__ import annotations

import re

from segdeploy.deploy.system.errors import one_line

_ORT_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : "
    r"|Load model (from .*? )?failed:"
    r"|Exception during initialization: "
    r"|This is an invalid model\. "
    r"|\S*\.(cc|h):\d+ (.*?\) (\S+ was false\. )?)?"
)
_OPENVINO_NOISE = re.compile(
    r"Exception from|Check '|While validating|FrontEnd API|Model wasn't|Summary:|Loading input"
    r"|Shape inference input|-- .* with a message:|-- Conversion is failed|$"
)


def ort_reason(error: Exception) -> str:
    """ONNX Runtime's reason, without its codes and its own source files.

    Example:
        >>> ort_reason(ValueError("[ONNXRuntimeError] : 1 : FAIL : Load model from x.onnx failed:"
        ...                       "Node (high) Op (Conv) Attribute kernel_shape is wrong"))
        'Node (high) Op (Conv) Attribute kernel_shape is wrong'
    """
    return one_line(_ORT_NOISE.sub("", str(error)).strip() or type(error).__name__)


def openvino_reason(error: Exception) -> str:
    r"""OpenVINO's reason: the first of its lines that is about the file.

    Example:
        >>> openvino_reason(RuntimeError("Exception from core.cpp:84:\nCheck 'false' failed\n"
        ...                              "Data batch and filters rank do not match"))
        'Data batch and filters rank do not match'
    """
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if not _OPENVINO_NOISE.match(line)]
    return one_line((telling or lines or [type(error).__name__])[0].removeprefix("-- "))
