"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys


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
