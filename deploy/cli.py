"""The ``segdeploy`` command: parse, run one verb, print, exit.

Exit codes: 0 done; 1 the gate failed; 2 usage; 3 an input could not be loaded or compiled;
4 it failed while running. JSON goes to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Sequence

from calibration.errors import CalibrationError
from deploy.cli_config import with_config
from deploy.cli_parser import build_parser
from deploy.errors import InputError, RunError, SegdeployError

log = logging.getLogger("deploy")

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; ``None`` takes the process's.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)

    def run() -> int:
        parser = build_parser()
        options = parser.parse_args(with_config(arguments, parser))
        # Each verb imports what it needs: `segdeploy -h` must not wait for torch.
        from deploy import cli_verbs

        code, result = cli_verbs.VERBS[options.verb](options, arguments)
        if options.format == "json" and result:  # of several processes one has the result
            print_json(result)
        return code

    return guarded("segdeploy", run)


def guarded(program: str, run: Callable[[], int]) -> int:
    """Call what a command does; turn each error into one message and its exit code.

    Args:
        program: its name, for the message.
        run: returns the exit code.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    for package in ("benchmarks", "calibration", "deploy", "training", "__main__"):
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        return run()
    except CalibrationError as error:
        return _say(program, InputError(str(error)))
    except SegdeployError as error:
        return _say(program, error)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        return _say(program, RunError(f"the system refused{where}: {error.strerror or error}"))
    except KeyboardInterrupt:
        log.error("interrupted; what was finished is kept, run the same command to go on")
        return INTERRUPTED


def print_json(result: object) -> None:
    """Write a result to standard output."""
    json.dump(result, sys.stdout, indent=2, sort_keys=True, default=str)
    sys.stdout.write("\n")


def _say(program: str, error: SegdeployError) -> int:
    log.error("%s: error: %s", program, error)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
