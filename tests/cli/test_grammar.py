"""One grammar for every verb: where models stand, what a slip is told, what replaces nothing."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from segdeploy.cli.config import take_config
from segdeploy.cli.grammar import Parser, nearest
from segdeploy.cli.main import main
from segdeploy.cli.parser import VERBS, VerbParser, build_parser, subparsers_of


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """How a verb is called.

    Attributes:
        rest: what it needs besides models.
        models: how many it takes: 0, 1, or 2 for any number.
        words: positional words of its own.
        writes: whether it takes ``--overwrite``.
    """

    rest: str = ""
    models: int = 0
    words: str = ""
    writes: bool = False

    def command(self, verb: str, *more: str) -> list[str]:
        """A command line that parses."""
        return [*verb.split(), *self.words.split(), *shlex.split(self.rest), *more]


GRAMMAR = {
    "doctor": Grammar(),
    "data": Grammar(words="prepare raw", rest="-o set", writes=True),
    "train": Grammar(rest="--data set -o out", writes=True),
    "export": Grammar(rest="-c net.pth -o net.onnx", writes=True),
    "adopt": Grammar(models=1, rest="--preprocess imagenet -o out.onnx", writes=True),
    "simplify": Grammar(models=1, rest="-o out.onnx", writes=True),
    "convert": Grammar(models=1, rest="-o out.onnx", writes=True),
    "rewrite": Grammar(models=1, rest="-o out.onnx", writes=True),
    "calibrate": Grammar(models=1, rest="-o table.json", writes=True),
    "quantize": Grammar(models=1, rest="--calibration t.json -o out.onnx", writes=True),
    "parity": Grammar(models=2, rest="--reference net.pth"),
    "debug": Grammar(models=1, rest="--calibration t.json", writes=True),
    "align layers": Grammar(models=1, rest="-c net.pth"),
    "align dump": Grammar(rest="-o out", writes=True),
    "align compare": Grammar(words="a b"),
    "align curves": Grammar(words="a.csv b.csv", writes=True),
    "benchmark": Grammar(models=2, writes=True),
    "package": Grammar(models=2, rest="--target onnx -o out", writes=True),
    "predict": Grammar(models=1, words="photos", rest="-o out", writes=True),
    "report": Grammar(words="out", writes=True),
    "verify": Grammar(words="out"),
    "run": Grammar(writes=True),
}
WITH_MODELS = [verb for verb, grammar in GRAMMAR.items() if grammar.models]
Write = Callable[[str], str]
LIGHT = ("torch", "onnx", "onnxruntime", "openvino", "numpy", "PIL", "matplotlib")
"""What no help waits for."""


def parse(*words: str) -> dict[str, object]:
    """What a command line says; that it names no ``--config`` is its own matter."""
    parser = build_parser()
    take_config(words, parser)
    return vars(parser.parse_args(words))


def leaf(verb: str) -> argparse.ArgumentParser:
    """The parser of a verb, or of one of its checks."""
    found: argparse.ArgumentParser = build_parser()
    for word in verb.split():
        found = subparsers_of(found)[word]
    subparsers_of(found)
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command line without sense is told."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


def test_the_table_lists_every_verb_and_check() -> None:
    named = {verb.split()[0] for verb in GRAMMAR}
    assert named == set(VERBS)
    assert {verb for verb in GRAMMAR if " " in verb} == {
        f"align {check}" for check in subparsers_of(subparsers_of(build_parser())["align"])
    }


@pytest.mark.parametrize("verb", GRAMMAR)
def test_a_whole_command_parses_and_names_its_verb(verb: str) -> None:
    grammar = GRAMMAR[verb]
    models = ["-m", "net.onnx"] if grammar.models else []
    assert parse(*grammar.command(verb, *models))["verb"] == verb.split()[0]


class TestModels:
    @pytest.mark.parametrize("verb", WITH_MODELS)
    def test_a_word_and_the_flag_mean_the_same_wherever_they_stand(self, verb: str) -> None:
        grammar = GRAMMAR[verb]
        words, rest = grammar.words.split(), shlex.split(grammar.rest)
        files = ["a.onnx", "b.onnx"][: grammar.models]
        name = verb.split()
        flag = parse(*name, *words, *rest, "-m", *files)
        assert flag == parse(*name, *files, *words, *rest)
        assert flag == parse(*name, *rest, *files, *words)
        assert flag == parse(*name, "-m", *files, *rest, *words)
        expected = [Path(file) for file in files]
        assert flag["model"] == (expected if grammar.models > 1 else expected[0])

    @pytest.mark.parametrize("verb", [v for v in WITH_MODELS if GRAMMAR[v].models > 1])
    def test_many_models_may_stand_in_both_places(self, verb: str) -> None:
        grammar = GRAMMAR[verb]
        found = parse(verb, "a.onnx", *shlex.split(grammar.rest), "-m", "b.onnx", "c.onnx")
        assert found["model"] == [Path("a.onnx"), Path("b.onnx"), Path("c.onnx")]

    @pytest.mark.parametrize(
        "verb", [v for v in WITH_MODELS if GRAMMAR[v].models == 1 and v != "predict"]
    )
    def test_one_model_is_one(self, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
        for words in (["a.onnx", "b.onnx"], ["a.onnx", "-m", "b.onnx"]):
            line = refused(capsys, *GRAMMAR[verb].command(verb, *words))
            assert "one model, not 2: a.onnx b.onnx" in line

    @pytest.mark.parametrize(
        "verb", [v for v in WITH_MODELS if v not in ("parity", "align layers")]
    )
    def test_a_model_is_needed(self, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
        line = refused(capsys, *GRAMMAR[verb].command(verb))
        assert "the following arguments are required: MODEL (or -m MODEL)" in line

    def test_predict_takes_its_first_word_for_the_model_unless_it_is_behind_the_flag(self) -> None:
        found = parse("predict", "net.onnx", "a.png", "b.png", "-o", "out")
        assert (found["model"], found["images"]) == (Path("net.onnx"), ["a.png", "b.png"])
        found = parse("predict", "a.png", "-o", "out", "b.png", "-m", "net.onnx")
        assert (found["model"], found["images"]) == (Path("net.onnx"), ["a.png", "b.png"])

    @pytest.mark.parametrize(
        ("verb", "needed"), [("quantize", "--calibration"), ("parity", "--reference")]
    )
    def test_what_belongs_to_a_model_comes_from_a_run_or_is_needed(
        self, verb: str, needed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = ["-o", "out.onnx"] if GRAMMAR[verb].writes else []
        line = refused(capsys, verb, "net.onnx", *output)
        assert f"required: {needed} (or the folder of a finished run as MODEL)" in line
        assert parse(verb, str(tmp_path), *output)[needed.removeprefix("--")] is None


class TestMistakes:
    @pytest.mark.parametrize("verb", GRAMMAR)
    def test_an_unknown_flag_is_one_line_with_the_flag_that_was_meant(
        self, verb: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        models = ["-m", "net.onnx"] if GRAMMAR[verb].models else []
        line = refused(capsys, *GRAMMAR[verb].command(verb, *models, "--fromat=json"))
        assert line == (
            f"segdeploy {verb}: error: unrecognized arguments: --fromat=json; did you mean "
            f"--format? `segdeploy {verb} -h` shows the flags"
        )

    @pytest.mark.parametrize("verb", GRAMMAR)
    def test_no_prefix_stands_for_a_flag(
        self, verb: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        models = ["-m", "net.onnx"] if GRAMMAR[verb].models else []
        for flag in leaf(verb)._option_string_actions:
            if flag.startswith("--") and flag[:-1] not in leaf(verb)._option_string_actions:
                line = refused(capsys, *GRAMMAR[verb].command(verb, *models, flag[:-1]))
                assert f"unrecognized arguments: {flag[:-1]}" in line

    @pytest.mark.parametrize(
        ("words", "meant"),
        [
            ("quantise", "'quantise' is no verb; did you mean 'quantize'?"),
            ("fly", "'fly' is no verb; choose from doctor, data, train"),
            ("align layer", "'layer' is no check; did you mean 'layers'?"),
            ("data prepare raw -o set --layout dsb-2018", "did you mean 'dsb2018'?"),
            ("quantize -m a --calibration t -o b --target ort_x86", "did you mean 'ort-x86'?"),
            ("benchmark a.onnx --runtime onnxruntim", "did you mean 'onnxruntime'?"),
            ("run --treads=2", "unrecognized arguments: --treads=2; did you mean --threads?"),
            ("", "the following arguments are required: VERB; `segdeploy -h` lists them"),
            ("align", "the following arguments are required: CHECK; `segdeploy align -h` lists"),
        ],
    )
    def test_the_nearest_name_is_told(
        self, words: str, meant: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert meant in refused(capsys, *words.split())

    def test_a_message_is_one_line_whatever_was_typed(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = refused(capsys, "verify", "out", "--a\n\x1b[2J")
        assert "--a ?[2J" in line

    def test_nearest_is_symmetric_in_nothing_but_equality(self) -> None:
        names = list(VERBS)
        assert all(nearest(name, names) == name for name in names)
        assert nearest("zzzzzz", names) is None


class TestOverwrite:
    @pytest.mark.parametrize("verb", GRAMMAR)
    def test_every_writer_knows_the_flag_and_no_other_verb(self, verb: str) -> None:
        assert ("--overwrite" in leaf(verb)._option_string_actions) == GRAMMAR[verb].writes
        if GRAMMAR[verb].writes:
            assert leaf(verb).get_default("overwrite") is False


class TestCommon:
    @pytest.mark.parametrize("verb", GRAMMAR)
    def test_every_verb_can_be_quiet_or_verbose_and_prints_json(self, verb: str) -> None:
        models = ["-m", "net.onnx"] if GRAMMAR[verb].models else []
        for flag, name in (("-q", "quiet"), ("--verbose", "verbose")):
            assert parse(*GRAMMAR[verb].command(verb, *models, flag))[name] is True
        assert parse(*GRAMMAR[verb].command(verb, *models, "--format", "json"))["format"] == "json"

    @pytest.mark.parametrize("verb", VERBS)
    def test_help_verb_is_its_own_help(self, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
        shown = []
        for words in (["help", verb], [verb, "-h"]):
            with pytest.raises(SystemExit) as caught:
                main(words)
            assert caught.value.code == 0
            shown.append(capsys.readouterr().out)
        assert shown[0] == shown[1] != ""

    @pytest.mark.parametrize("verb", GRAMMAR)
    def test_a_prepared_folder_means_the_same_on_every_verb(self, verb: str) -> None:
        actions = leaf(verb)._option_string_actions
        if "--calib-data" in actions and verb != "package":
            assert actions["--calib-data"].help == (
                "prepared folder, its train split (default: that of --data, else bundled sample)"
            )
        if "--calib-data" in actions:
            assert "--data" in actions

    @pytest.mark.parametrize("verb", ["calibrate", "rewrite", "debug"])
    def test_without_calib_data_the_train_split_is_that_of_data(self, verb: str) -> None:
        command = GRAMMAR[verb].command(verb, "net.onnx")
        assert parse(*command, "--data", "set")["calib_data"] == Path("set")
        both = parse(*command, "--data", "set", "--calib-data", "other")
        assert both["calib_data"] == Path("other")
        assert parse(*command)["calib_data"] is None


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
    def test_the_script_of_a_shell_knows_every_verb_and_its_flags(
        self, shell: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["--print-completion", shell])
        assert caught.value.code == 0
        script = capsys.readouterr().out
        for word in (*VERBS, "--time-budget" if shell != "tcsh" else "quantize", "layers"):
            assert word in script

    def test_bash_takes_the_script(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["--print-completion", "bash"])
        script = capsys.readouterr().out
        ask = 'COMP_WORDS=(segdeploy qua); COMP_CWORD=1; _shtab_segdeploy; echo "${COMPREPLY[@]}"'
        found = subprocess.run(
            ["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True
        )
        assert found.stdout.split() == ["quantize"]


class TestStart:
    @pytest.mark.parametrize("words", [["-h"], ["--version"], *([verb, "-h"] for verb in VERBS)])
    def test_help_imports_nothing_heavy_and_no_other_verb(self, words: list[str]) -> None:
        script = (
            "import sys, contextlib, io\n"
            "from segdeploy.cli.main import main\n"
            "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
            f"    main({words!r})\n"
            f"print([name for name in {LIGHT!r} if name in sys.modules])\n"
            f"print([v for v in {list(VERBS)!r} if 'segdeploy.cli.' + v in sys.modules])\n"
        )
        found = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        named = [words[0]] if words[0] in VERBS else []
        assert found.stdout.splitlines() == ["[]", str(named)]


class TestConfig:
    @pytest.fixture
    def write(self, tmp_path: Path) -> Write:
        def write(text: str) -> str:
            path = tmp_path / "flags.yaml"
            path.write_text(text)
            return str(path)

        return write

    def test_a_list_leaves_the_words_behind_it_alone(self, write: Write) -> None:
        config = write("write: [mask, labels]\n")
        for words in (
            ["predict", "--config", config, "net.onnx", "photos", "-o", "out"],
            ["predict", "net.onnx", "photos", "-o", "out", "--config", config],
        ):
            found = parse(*words)
            assert (found["model"], found["images"]) == (Path("net.onnx"), ["photos"])
            assert found["write"] == ["mask", "labels"]

    def test_a_word_wins_over_the_model_of_the_file(self, write: Write) -> None:
        config = write("model: [old.onnx]\nruntime: [openvino]\n")
        assert parse("benchmark", "--config", config)["model"] == [Path("old.onnx")]
        assert parse("benchmark", "--config", config, "a.onnx")["model"] == [Path("a.onnx")]
        assert parse("benchmark", "--config", config, "-m", "b.onnx")["model"] == [Path("b.onnx")]

    def test_a_recipe_belongs_to_train(
        self, write: Write, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = write("arch: r2u_net\nepochs: 3\naugment: wide\n")
        assert main(["run", "--config", config]) == 2
        said = capsys.readouterr().err
        assert "'epochs' is no flag of segdeploy run" in said
        assert "it is a recipe of a training: `segdeploy train --config`" in said
        assert parse("train", "--config", config, "--data", "d", "-o", "o")["epochs"] == 3

    def test_a_check_takes_its_flags_from_the_file(self, write: Write) -> None:
        config = write("runtime: [openvino]\ntolerance: 0.5\n")
        assert parse("align", "layers", "--config", config)["tolerance"] == 0.5


def test_a_parser_of_one_command_needs_no_table() -> None:
    parser = Parser(prog="tool")
    parser.add_models("files", many=True)
    assert parser.parse_args(["a", "-m", "b"]).model == [Path("a"), Path("b")]
    assert not isinstance(parser, VerbParser)
