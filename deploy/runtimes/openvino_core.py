"""The one OpenVINO core of this process."""

from __future__ import annotations

from functools import cache

import openvino


@cache
def openvino_core() -> openvino.Core:
    """OpenVINO's entry, kept until the process ends.

    Each core's CPU plugin gives the thread that compiles first a stack for signals, and when it
    goes puts back the stack that was there before: of two cores that go in the order they came,
    memory that is free by then. The next signal, as Ctrl-C or the end of a child, ended the process
    with SIGSEGV.
    """
    return openvino.Core()
