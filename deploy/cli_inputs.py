"""From flags to what the verbs work on: checkpoints, runtimes, output files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.errors import InputError, UsageError
from deploy.preprocess import Preprocess
from deploy.runtimes.registry import RuntimeName

if TYPE_CHECKING:  # importing torch takes seconds; only the verbs that need it do
    from deploy.models.checkpoint import Checkpoint

Options = argparse.Namespace
Result = tuple[int, dict[str, Any]]
"""Exit code, and what ``--format json`` prints."""

GATE_FAILED = 1


def checkpoint_of(options: Options, path: Path) -> Checkpoint:
    """Load a checkpoint with what the flags state about it."""
    from deploy.models.checkpoint import load_checkpoint
    from deploy.models.families import Architecture

    preprocess = None
    if options.preprocess:
        try:
            text = options.preprocess.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"--preprocess {options.preprocess} cannot be read ({error})"
            ) from error
        preprocess = Preprocess.from_json(text, source=str(options.preprocess))
    return load_checkpoint(
        path,
        arch=Architecture(options.arch) if options.arch else None,
        recurrence=options.recurrence,
        head=options.head,
        logits=options.logits,
        preprocess=preprocess,
    )


def output_file(options: Options, *inputs: Path) -> Path:
    """Where to write, refused before the work and not after it."""
    output: Path = options.output
    if output.is_dir():
        raise UsageError(f"-o {output} is a folder; give the name of the file to write")
    if any(output.resolve() == path.resolve() for path in inputs):
        raise UsageError(f"-o {output} would replace its own input; choose another name")
    return output


def runtimes_of(options: Options) -> tuple[RuntimeName, ...] | None:
    """The runtimes asked for; ``None`` when none was."""
    return tuple(RuntimeName(name) for name in options.runtime) if options.runtime else None
