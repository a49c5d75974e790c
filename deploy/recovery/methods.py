"""The methods of recovery, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

from segdeploy.deploy.recovery.candidate import Candidate, Workshop
from segdeploy.deploy.recovery.equalise import equalised
from segdeploy.deploy.recovery.learning import learnt
from segdeploy.deploy.recovery.ranges import ranges_by_output


class Recovery(str, Enum):
    """What wins back what int8 lost, with every layer still in int8.

    16-bit activations are not among them: ONNX Runtime 1.31 and OpenVINO's CPU plugin compute a
    convolution between pairs of u16 in float, so no target here gains a kernel by them.
    """

    EQUALISE = "equalise"
    BIASES = "biases"
    ROUNDING = "rounding"
    RANGES = "ranges"


IN_ORDER = tuple(Recovery)


def applied(method: Recovery, candidate: Candidate, workshop: Workshop) -> Candidate:
    """A candidate after one more method; the same one where the method changes nothing.

    Raises:
        InputError: an image cannot be read, or ONNX Runtime does not accept the model.
        RunError: ONNX Runtime failed.
        OSError: a file cannot be written.
    """
    if method is Recovery.EQUALISE:
        found = equalised(candidate, workshop)
    elif method is Recovery.RANGES:
        found = ranges_by_output(candidate, workshop)
    else:
        corrects = method is Recovery.BIASES or Recovery.BIASES.value in candidate.steps
        rounding = method is Recovery.ROUNDING
        found = learnt(candidate, workshop, rounding=rounding, biases=corrects)
    if found is candidate:
        return candidate
    return replace(found, steps=(*candidate.steps, method.value))


def applied_all(methods: Sequence[Recovery], candidate: Candidate, workshop: Workshop) -> Candidate:
    """A candidate after some methods, in the order of ``IN_ORDER``; raises as ``applied``."""
    for method in IN_ORDER:
        if method in methods:
            candidate = applied(method, candidate, workshop)
    return candidate
