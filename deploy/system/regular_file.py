"""Only regular files are read: a pipe or a device may never end, or never begin."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from segdeploy.deploy.system.errors import InputError


def require_regular_file(
    path: Path, *, what: str, expected: str, shown: str | None = None
) -> os.stat_result:
    """Refuse what cannot be read to an end.

    Args:
        path: may be a symbolic link to a file.
        what: what it is to be, for the error message: ``checkpoint``.
        expected: what to give instead: ``an ONNX file``.
        shown: what the message calls it; ``None`` takes the path.

    Returns:
        What the system knows about the file.

    Raises:
        InputError: missing, a folder, a link that leads nowhere, a pipe, a device, or not readable
            for this user.
    """
    name = path if shown is None else shown
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise InputError(f"{what} {name} does not exist; expected {expected}") from error
    except (OSError, ValueError) as error:  # a loop of links; a name no system can have
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{what} {name} cannot be reached ({reason}); expected {expected}"
        ) from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{what} {name} is a folder; expected {expected}")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{what} {name} is a pipe or a device; expected {expected} on disk")
    if not os.access(path, os.R_OK):
        raise InputError(f"{what} {name} may not be read by this user; change its permissions")
    return status
