"""The grammar of the command line: how words become flags, and what a slip of the finger is told.

A mistake is one line, which names the nearest word that would be right. Models may stand as words
of their own or behind ``-m``; both mean the same.
"""

from __future__ import annotations

import argparse
import difflib
import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from segdeploy.deploy.system.errors import one_line

USAGE = 2
"""Exit code of a command line that makes no sense."""

LONGEST = 800
"""Characters of a message; the choices of a flag have to fit."""

MODEL_SUFFIXES = (".onnx", ".pth", ".pt", ".pkl", ".ckpt", ".safetensors")
"""Of files that are models, whatever else is in them."""

_FOLDER = "the folder of a finished run"


@dataclass(frozen=True, kw_only=True)
class Models:
    """How a verb takes models.

    Attributes:
        many: more than one.
        required: at least one.
        before: destination of the positional words whose first is the model; empty where the
            models have positional words of their own.
    """

    many: bool
    required: bool
    before: str = ""


class Parser(argparse.ArgumentParser):
    """The flags of one command, in full: no prefix of a flag stands for it."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **given})
        self._models: Models | None = None
        self._from_run: list[argparse.Action] = []
        self._standing_in: dict[str, str] = {}

    def add_models(
        self,
        what: str,
        *,
        many: bool,
        required: bool = True,
        before: str = "",
        from_run: bool = True,
    ) -> None:
        """Take models as words of their own or behind ``-m``.

        Args:
            what: they are, for the help.
            many: more than one.
            required: at least one.
            before: see ``Models``.
            from_run: the folder of a finished run has some, too.
        """
        self._models = Models(many=many, required=required, before=before)
        alike = f"{what}, or {_FOLDER}" if from_run else what
        shown = "MODEL"
        if not before:
            self.add_argument(
                "models", type=Path, nargs="*" if many else "?", metavar=shown, help=alike
            )
        self.add_argument(
            "-m",
            "--model",
            type=Path,
            nargs="+" if many else None,
            default=() if many else None,
            metavar=shown,
            help="the same, behind a flag",
        )

    def add_needed(self, *flags: str, **given: Any) -> None:
        """A flag that has to be given, except where a model is the folder of a finished run."""
        self._from_run.append(self.add_argument(*flags, **given))

    def stand_in(self, missing: str, *, for_it: str) -> None:
        """Where one destination has no value, take that of another."""
        self._standing_in[missing] = for_it

    def parse_known_args(  # type: ignore[override]  # argparse's overloads
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse does; what is unknown is told with the flag that was probably meant."""
        found, extra = super().parse_known_args(args, namespace)
        if self._subparsers is not None:
            return found, extra
        unknown = [word for word in extra if word.startswith("-")]
        if self._models is not None and extra and not unknown:
            # argparse ends a list of words at the first flag; what follows belongs to it.
            self._take_words(found, self._models, extra)
            extra = []
        if extra:
            self.error(f"unrecognized arguments: {' '.join(extra)}{self._meant(unknown)}")
        if self._models is not None:
            self._settle_models(found, self._models)
        for missing, for_it in self._standing_in.items():
            if getattr(found, missing) is None:
                setattr(found, missing, getattr(found, for_it))
        return found, []

    def error(self, message: str) -> NoReturn:
        """One line, and exit code 2."""
        said = one_line(message, limit=LONGEST)
        shown = "lists them" if self._subparsers else "shows the flags"
        stop = "" if said.endswith("?") else ";"
        self.exit(USAGE, f"{self.prog}: error: {said}{stop} `{self.prog} -h` {shown}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a word that is no choice; with the nearest that is."""
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        near = nearest(str(value), choices)
        meant = f"; did you mean {near!r}?" if near else ""
        if isinstance(action, argparse._SubParsersAction):
            kind = str(action.metavar or "command").lower()
            listed = "" if near else f"; choose from {', '.join(choices)}"
            raise argparse.ArgumentError(None, f"{value!r} is no {kind}{meant}{listed}")
        listed = ", ".join(map(repr, action.choices))
        raise argparse.ArgumentError(
            action, f"invalid choice: {value!r} (choose from {listed}){meant}"
        )

    def _meant(self, unknown: Iterable[str]) -> str:
        """The flags that unknown ones are near to, in words."""
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        named = (word.partition("=")[0] for word in unknown)
        near = [found for word in named if (found := nearest(word, flags))]
        return f"; did you mean {' '.join(near)}?" if near else ""

    def _take_words(self, found: argparse.Namespace, models: Models, words: list[str]) -> None:
        """Add words behind a flag to the list they belong to."""
        if models.before:
            setattr(found, models.before, [*getattr(found, models.before), *words])
        elif models.many:
            found.models = [*found.models, *map(Path, words)]
        elif found.models is None and len(words) == 1:
            found.models = Path(words[0])
        else:
            every = [*([found.models] if found.models else ()), *words]
            self.error(f"one model, not {len(every)}: {' '.join(map(str, every))}")

    def _settle_models(self, found: argparse.Namespace, models: Models) -> None:
        """One list, or one file, however it was given."""
        behind_flag = found.model if models.many else [found.model] if found.model else []
        if models.before:
            given = getattr(found, models.before)
            if not behind_flag and len(given) > 1:
                self._require_model_first(given)
                behind_flag = [Path(given[0])]
                setattr(found, models.before, given[1:])
            words: list[Path] = []
        else:
            words = found.models if models.many else [found.models] if found.models else []
            del found.models
            if words and found.model is self.get_default("model"):  # of --config: a word wins
                behind_flag = []
        every = [*words, *behind_flag]
        if models.required and not every:
            behind = f", {models.before.upper()}" if models.before else ""
            self.error(f"the following arguments are required: MODEL (or -m MODEL){behind}")
        if not models.many and len(every) > 1:
            self.error(f"one model, not {len(every)}: {' '.join(map(str, every))}")
        found.model = every if models.many else next(iter(every), None)
        self._require_needed(found, every)

    def _require_model_first(self, given: Sequence[str]) -> None:
        """Refuse a model among the words that follow where the first word is none."""
        first, *rest = given
        models = [word for word in rest if word.lower().endswith(MODEL_SUFFIXES)]
        runs = (Path(first) / "manifest.json").exists()
        if models and not runs and not first.lower().endswith(MODEL_SUFFIXES):
            ordered = [models[0], *(word for word in given if word != models[0])]
            self.error(
                f"{first} is no model, and {models[0]} no image: the model comes first, as in "
                f"`{self.prog} {shlex.join(ordered)}`"
            )

    def _require_needed(self, found: argparse.Namespace, models: Sequence[Path]) -> None:
        missing = [
            "/".join(action.option_strings)
            for action in self._from_run
            if getattr(found, action.dest) is None
        ]
        if missing and not any(path.is_dir() for path in models):
            flags = ", ".join(missing)
            self.error(f"the following arguments are required: {flags} (or {_FOLDER} as MODEL)")


def nearest(word: str, names: Collection[str]) -> str | None:
    """The name that a misspelt word was probably meant to be.

    Example:
        >>> nearest("quantise", ["quantize", "package"])
        'quantize'
        >>> nearest("fly", ["quantize", "package"])
    """
    return next(iter(difflib.get_close_matches(word, names, n=1)), None)
