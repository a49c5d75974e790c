"""The ``segdeploy`` command: parse, run one verb, print, exit.

Exit codes: 0 done; 1 the gate failed; 2 usage; 3 an input could not be loaded or compiled;
4 it failed while running; 128 + n ended by signal n. JSON goes to standard output, everything
else to standard error.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from calibration.errors import CalibrationError
from calibration.files import naming
from deploy.cli_config import with_config
from deploy.cli_parser import build_parser
from deploy.errors import InputError, RunError, SegdeployError, one_line
from deploy.system_refusals import refusal

log = logging.getLogger("deploy")

OVERWRITE = "--overwrite"

MESSAGE_LIMIT = 1200
"""Characters of an error message at most."""


class _Terminated(KeyboardInterrupt):
    """The system asks this process to end."""


MESSAGE_LIMIT = 1200
"""Characters of an error message at most."""

MEMORY_FLAGS = ("batch", "num_samples", "threads", "streams", "workers")
"""With a smaller value of these a verb needs less memory."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; ``None`` takes the process's.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    words = ["segdeploy", *(word for word in arguments if word != OVERWRITE)]

    def run() -> int:
        parser = build_parser()
        options = parser.parse_args(with_config(arguments, parser))
        # Each verb imports what it needs: `segdeploy -h` must not wait for torch.
        from deploy import cli_verbs
        from deploy.memory_limit import memory_limited, working_on

        flags = vars(options)
        to_lower = [f"--{flag.replace('_', '-')}" for flag in MEMORY_FLAGS if flag in flags]
        working_on(f"segdeploy {options.verb}")
        with memory_limited(flags.get("max_memory"), to_lower=to_lower):
            code, result = cli_verbs.VERBS[options.verb](options, arguments)
        if options.format == "json" and result:  # of several processes one has the result
            print_json(result)
        return code

    return guarded("segdeploy", run, again=shlex.join(words))


def guarded(program: str, run: Callable[[], int], *, again: str = "the same command") -> int:
    """Call what a command does; turn each error into one message and its exit code.

    Args:
        program: its name, for the message.
        run: returns the exit code.
        again: the command that goes on after an interruption, for the message.
    """
    open_standard_streams()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    for package in ("benchmarks", "calibration", "deploy", "training", "__main__"):
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        with _ended_like_interrupted(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters is said by us
            return run()
    except CalibrationError as error:
        return _say(program, InputError(str(error)))
    except SegdeployError as error:
        return _say(program, error)
    except BrokenPipeError:  # whoever read our output has gone; so does the rest of it
        _drop_output()
        return RunError.exit_code
    except OSError as error:
        return _say(program, refusal(error))
    except MemoryError as error:
        from deploy.memory_limit import out_of_memory

        return _say(program, out_of_memory(error))
    except KeyboardInterrupt as error:
        log.error("interrupted; what was finished is kept. To go on: %s", again)
        return 128 + (signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT)
    except Exception as error:
        return _say(program, _our_fault(error))


def print_json(result: object) -> None:
    """Write a result to standard output.

    Raises:
        OSError: it cannot be written; what is left of it goes nowhere.
    """
    try:
        with naming(Path("standard output")):
            json.dump(result, sys.stdout, indent=2, sort_keys=True, default=str)
            sys.stdout.write("\n")
            sys.stdout.flush()
    except OSError:
        _drop_output()
        raise


def open_standard_streams() -> None:
    """Give a process whose standard streams are closed ones that lead nowhere.

    Else the next file that is opened would take their place, and get what is written to them.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # kept


def _drop_output() -> None:
    """What is still to be written to standard output goes nowhere."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file has nothing to drop
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(program: str, error: SegdeployError) -> int:
    log.error("%s: error: %s", program, one_line(error, limit=MESSAGE_LIMIT))
    return error.exit_code


@contextmanager
def _ended_like_interrupted() -> Iterator[None]:
    """SIGTERM leaves as clean a state as Ctrl-C does."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield  # handlers belong to the main thread
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _our_fault(error: Exception) -> RunError:
    """A message for what nobody foresaw; the traceback goes to a file, for the report."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", prefix="segdeploy-", suffix=".txt", delete=False
        ) as stream:
            traceback.print_exception(error, file=stream)
        report = f"please report it with {stream.name}"
    except OSError as refused:
        report = f"please report it (its traceback could not be written: {refused.strerror})"
    return RunError(
        f"internal error ({words:.200}): a fault of this program, not of your input; {report}"
    )


if __name__ == "__main__":
    sys.exit(main())
