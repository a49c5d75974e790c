"""The memory of this process: its peak, and handing back what was freed."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

from segdeploy.deploy.system.errors import RunError

STATUS = Path("/proc/self/status")


def return_freed_memory() -> None:
    """Hand freed memory back before something large is allocated.

    glibc keeps what a parsed model occupied, in pieces too small for the next one. Where the C
    library is another one, only Python's own garbage is collected.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def peak_bytes() -> int:
    """The largest resident memory of this process so far.

    On Linux ``ru_maxrss`` starts at the peak of the process that started this one, so the kernel's
    own high-water mark of this program's memory is read instead.

    Raises:
        RunError: the system does not tell.
    """
    if STATUS.is_file():
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key == "VmHWM":
                return int(value.split()[0]) * 1024
    try:
        import resource
    except ImportError as error:
        raise RunError("this system does not tell a process's peak memory") from error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
