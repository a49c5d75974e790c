"""Where images are worked on."""

from __future__ import annotations

from enum import Enum

RAY_WORKERS = 2
"""Processes of a cluster where nothing is said."""


class Engine(str, Enum):
    """Where images are worked on: in this process, or by the processes of a Ray cluster."""

    LOCAL = "local"
    RAY = "ray"
