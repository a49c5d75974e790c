"""The ``segdeploy`` command: parse, run one verb, print, exit.

Exit codes: 0 done; 1 the gate failed; 2 usage; 3 an input could not be loaded or compiled;
4 it failed while running; 128 + n ended by signal n. Results go to standard output, in words or as
JSON; progress and notes to standard error.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Sequence

from segdeploy.cli.config import take_config
from segdeploy.cli.inputs import Options
from segdeploy.cli.parser import build_parser, run_verb
from segdeploy.deploy.system.command import answers_beside_json, guarded, print_json

OVERWRITE = "--overwrite"

AT_ONE_GO = ("benchmark",)
"""Verbs that write a folder bit by bit and do not go on with what an interrupted one left there."""

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
    parsed: list[Options] = []

    def run() -> int:
        parser = build_parser()
        words = _without_help(arguments)
        take_config(words, parser)
        options = parser.parse_args(words)
        parsed.append(options)
        if options.quiet or options.verbose:
            logging.getLogger("segdeploy").setLevel(
                logging.WARNING if options.quiet else logging.DEBUG
            )
        if options.format == "json":
            answers_beside_json()
        # What a verb needs is imported when it runs: `segdeploy -h` must not wait for torch.
        from segdeploy.deploy.system.memory_limit import memory_limited, working_on

        flags = vars(options)
        to_lower = [f"--{flag.replace('_', '-')}" for flag in MEMORY_FLAGS if flag in flags]
        working_on(f"segdeploy {options.verb}")
        with memory_limited(flags.get("max_memory"), to_lower=to_lower):
            code, result = run_verb(options, arguments)
        if options.format == "json" and result:  # of several processes one has the result
            print_json(result)
        return code

    def again(begun: bool) -> str:
        words = [word for word in arguments if not begun or word != OVERWRITE]
        if any(o.verb in AT_ONE_GO and o.output and not o.overwrite for o in parsed):
            words.append(OVERWRITE)
        return shlex.join(["segdeploy", *words])

    return guarded("segdeploy", run, again=again, to_the_end=argv is None)


def _without_help(arguments: Sequence[str]) -> list[str]:
    """``help VERB`` is ``VERB -h``."""
    if arguments[:1] == ["help"]:
        return [*arguments[1:], "-h"]
    return list(arguments)


if __name__ == "__main__":
    sys.exit(main())
