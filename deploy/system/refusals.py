"""What to do where the system refuses to write or read, in the words of one line."""

from __future__ import annotations

import errno

from segdeploy.deploy.system.errors import RunError

AGAIN = "and run the same command again: what was finished is kept"

WAYS_OUT = {
    errno.ENOSPC: f"free space there {AGAIN}",
    errno.EDQUOT: f"free space within your quota {AGAIN}",
    errno.EFBIG: "the file system or a limit of the shell (ulimit -f) allows no larger file",
    errno.EROFS: "it cannot be written to; choose another -o, or mount it for writing",
    errno.EACCES: "change its permissions, or choose another path",
    errno.EPERM: "change its permissions or attributes, or choose another path",
    errno.EEXIST: "a file or a link stands where a folder is expected; choose another path",
    errno.ENOTDIR: "a file stands where a folder is expected; choose another path",
    errno.EISDIR: "a folder stands where a file is expected; choose another path",
    errno.ENOENT: "its folder is missing or was removed; make it, or choose another path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its symbolic links lead in a circle; choose another path",
    errno.EMFILE: "close other files, or raise the limit (ulimit -n)",
    errno.EIO: "the disk or the network behind it has a fault",
    errno.ESTALE: f"the network folder is gone; mount it again {AGAIN}",
}

NO_TEMPORARY_FOLDER = "No usable temporary directory"


def refusal(error: OSError) -> RunError:
    """The system's error with the file it is about, and a way out.

    Example:
        >>> print(refusal(OSError(errno.EROFS, "Read-only file system", "/cd/net.onnx")))
        the system refused /cd/net.onnx: Read-only file system; it cannot be written to; choose \
another -o, or mount it for writing
    """
    reason = str(error.strerror or error)
    if reason.startswith(NO_TEMPORARY_FOLDER):
        return RunError(f"{reason}; make one, or set TMPDIR to a folder that can be written to")
    shown = _paths(error)
    where = f" {shown}" if shown else ""
    way_out = WAYS_OUT.get(error.errno or 0)
    if not shown and error.errno in (errno.ENOSPC, errno.EDQUOT):
        way_out = f"free space where -o and the temporary folder (TMPDIR) lie {AGAIN}"
    return RunError(f"the system refused{where}: {reason}{f'; {way_out}' if way_out else ''}")


def _paths(error: OSError) -> str:
    """The files that an error names."""
    named = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return " and ".join(dict.fromkeys(named))
