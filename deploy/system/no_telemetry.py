"""Keep the runtimes from reporting this machine's use of them to their makers.

ONNX Runtime (from 1.29, on Linux too) and OpenVINO send usage events over the network unless told
not to, and keep an identifier of the machine in the home folder. Both are told before they load.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final

VARIABLES: Final[Mapping[str, str]] = {
    "ORT_DISABLE_TELEMETRY": "1",
    "NNCF_CI": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What ONNX Runtime, NNCF and Ray read; processes that are started inherit them."""

REPORTERS: Final = ("openvino_telemetry",)
"""Packages that only report. OpenVINO sends an event when it is imported, whatever the variables
say, and does without this package where it is not installed."""


def refuse_telemetry() -> None:
    """Refuse it for this process and those it starts.

    A variable that is set keeps its value, and a package that is loaded stays.
    """
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    for package in REPORTERS:
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # as if not installed
