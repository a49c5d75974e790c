"""Errors a user can act on. The command line turns each into one message and an exit code."""

from __future__ import annotations


class SegdeployError(Exception):
    """Base of every error this project raises on purpose; never shown with a traceback."""

    exit_code = 4


class UsageError(SegdeployError):
    """The command or its flags make no sense together."""

    exit_code = 2


class InputError(SegdeployError):
    """A file, folder, checkpoint or model could not be loaded or does not fit."""

    exit_code = 3


class RunError(SegdeployError):
    """A stage started and failed."""

    exit_code = 4
