"""What every command does at its edges: signals, errors, exit codes, and what it prints.

Exit codes: 0 done; 1 the gate failed; 2 usage; 3 an input could not be loaded or compiled;
4 it failed while running; 128 + n ended by signal n.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from itertools import islice
from pathlib import Path

from segdeploy.calibration.files import naming
from segdeploy.deploy.system.errors import MemoryLimitError, RunError, SegdeployError
from segdeploy.deploy.system.interruption import Interrupted, interruptible
from segdeploy.deploy.system.refusals import refusal

log = logging.getLogger("segdeploy")
answers = logging.getLogger("segdeploy.cli")
"""What the modules of the command line say at level INFO is the answer to a command, in words.

Everything else is a note: progress of the library, warnings, errors.
"""


WRITTEN_AT_ONCE = 10_000
"""Pieces of JSON: a result with figures of many images is never held as one text."""


class Terminal(logging.Handler):
    """Answers on standard output, everything else on standard error.

    Attributes:
        json: standard output is for JSON; answers in words go to standard error, too.
    """

    json = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line.

        Raises:
            OSError: an answer cannot be written. What cannot be written to standard error is lost.
        """
        line = self.format(record) + "\n"
        answer = record.levelno == logging.INFO and record.name.startswith(f"{answers.name}.")
        if answer and not self.json:
            write_out(line)
            return
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(line)
            sys.stderr.flush()


def answers_beside_json() -> None:
    """Keep standard output free for JSON."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Terminal):
            handler.json = True


def guarded(
    program: str,
    run: Callable[[], int],
    *,
    again: Callable[[bool], str] = lambda begun: "the same command",
    to_the_end: bool = False,
) -> int:
    """Call what a command does; turn each error into one message and its exit code.

    Args:
        program: its name, for the message.
        run: returns the exit code.
        again: the command that goes on after an interruption, for the message; told whether the
            output is this command's own already.
        to_the_end: this process ends with the command.
    """
    open_standard_streams()
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[Terminal()], force=True
    )
    answers.setLevel(logging.INFO)  # however quiet the rest is
    for package in ("segdeploy", "__main__"):
        logging.getLogger(package).setLevel(logging.INFO)
    with interruptible(to_the_end=to_the_end) as interruption, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters is said by us
        try:
            return run()
        except MemoryLimitError as error:  # it interrupts the command by a signal, too
            return _told(program, error)
        except (Exception, KeyboardInterrupt) as error:
            if not isinstance(error, KeyboardInterrupt) and interruption.number is None:
                return _told(program, error)
            # Interrupted native code may raise something else.
            begun = isinstance(error, Interrupted) and error.begun
            log.error("interrupted; what was finished is kept. To go on: %s", again(begun))
            return 128 + (interruption.number or signal.SIGINT)


def _told(program: str, error: BaseException) -> int:
    """One message for what went wrong, and its exit code."""
    if isinstance(error, SegdeployError):
        return _say(program, error)
    if isinstance(error, BrokenPipeError):  # whoever read our output has gone; so does the rest
        _drop_output()
        return RunError.exit_code
    if isinstance(error, OSError):
        return _say(program, refusal(error))
    if isinstance(error, MemoryError):
        from segdeploy.deploy.system.memory_limit import out_of_memory

        return _say(program, out_of_memory(error))
    return _say(program, _our_fault(error))


def print_json(result: object) -> None:
    """Write a result to standard output.

    Args:
        result: what JSON has; of a dataclass its fields, of anything else what it says of itself.

    Raises:
        OSError: it cannot be written; what is left of it goes nowhere.
    """
    words = json.JSONEncoder(indent=2, sort_keys=True, default=_plain).iterencode(result)
    while several := "".join(islice(words, WRITTEN_AT_ONCE)):
        write_out(several)
    write_out("\n")


def write_out(text: str) -> None:
    """Write to standard output; letters that its encoding lacks appear as escapes.

    Raises:
        OSError: it cannot be written; what is left of it goes nowhere.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        with naming(Path("standard output")):
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
            sys.stdout.flush()
    except OSError:
        _drop_output()
        raise


def _plain(value: object) -> object:
    """For a value that JSON does not have; what a record holds is asked for when it is written."""
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, Sequence) else str(value)


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
    trace = error if log.isEnabledFor(logging.DEBUG) else None
    log.error("%s: error: %s", program, error, exc_info=trace)
    return error.exit_code


def _our_fault(error: BaseException) -> RunError:
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
