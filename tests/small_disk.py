"""Run commands on a disk of its own, small or read-only; for a process of its own.

``unshare -m python small_disk.py FOLDER`` mounts ``FOLDER/disk``, where no other process sees it,
runs each command that standard input lists, and writes what became of them to standard output.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bad_input import run_command, snapshot

DISK = Path("disk")


def outcome_of(case: dict[str, object]) -> dict[str, object]:
    """Mount, run, look, unmount.

    Args:
        case: ``argv``; ``size`` of the disk in KiB, 0 for one that is read-only.
    """
    size = int(str(case["size"]))
    DISK.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size or 64}k", "x", DISK], check=True)
    if not size:
        subprocess.run(["mount", "-o", "remount,ro", DISK], check=True)
    with contextlib.redirect_stdout(io.StringIO()):  # answers; ours is for what became of them
        found = run_command(case["argv"], DISK)  # type: ignore[arg-type]  # a list of words
    left = {name: kind for name, (kind, _, _) in snapshot(DISK).items()}
    subprocess.run(["umount", DISK], check=True)
    return {"code": found.code, "lines": found.lines, "left": sorted(left)}


def main() -> None:
    """Every case on standard input."""
    os.chdir(sys.argv[1])
    cases = json.load(sys.stdin)
    logging.disable(logging.DEBUG)
    json.dump([outcome_of(case) for case in cases], sys.stdout)
    shutil.rmtree(DISK)


if __name__ == "__main__":
    main()
