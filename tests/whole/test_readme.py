"""What the README and the documentation tell a reader to type or open exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import segdeploy
from segdeploy.cli.parser import build_parser, verbs

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
DOCS = {path.name: path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
SHOWN = "\n".join([README, *DOCS.values()])


def commands() -> list[str]:
    """Every ``segdeploy ...`` of the code blocks, without what calls it or follows it."""
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```", SHOWN, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;|\|", line):
                words = re.match(r"\s*(?:\$ )?(?:\S*/)?segdeploy (?P<rest>.+)", part)
                if words:
                    found.append(words["rest"].split(" #")[0].strip())
    return found


def mapped_files() -> list[str]:
    """Every path in backquotes in the first column of the map of the code."""
    rows = [line for line in DOCS["architecture.md"].splitlines() if line.startswith("| `")]
    return [path for row in rows for path in re.findall(r"`([^`]+)`", row.split("|")[1])]


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_parses(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()  # the folder of a finished run stands for models and their table
    monkeypatch.chdir(tmp_path)
    assert build_parser().parse_args(shlex.split(command)).verb == command.split()[0]


def test_every_step_of_the_main_command_is_shown() -> None:
    shown = {command.split()[0] for command in commands()}
    assert shown <= set(verbs())
    assert {"run", "export", "simplify", "convert", "calibrate", "quantize", "parity"} <= shown


@pytest.mark.parametrize("path", mapped_files())
def test_every_file_on_the_map_exists(path: str) -> None:
    assert list(ROOT.glob(path))


def test_the_map_is_not_empty() -> None:
    assert len(mapped_files()) > 10


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?:|#)([^)#]+)", README))))
def test_every_link_to_a_file_of_the_project_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_every_name_of_the_python_api_that_is_shown_exists() -> None:
    block = re.findall(r"^```python\n(.*?)^```", SHOWN, re.MULTILINE | re.DOTALL)
    shown = set(re.findall(r"\bsd\.(\w+)", "\n".join(block)))
    assert {"load", "Data", "deploy", "Predictor"} <= shown <= set(segdeploy.__all__)


def test_the_readme_fits_on_a_page() -> None:
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("page", sorted(name for name, text in DOCS.items() if "```python" in text))
def test_python_of_the_documentation_runs(page: str) -> None:
    """But for what needs a reader's own files; the notebook is that, executed."""
    for block in re.findall(r"^```python\n(.*?)^```", DOCS[page], re.MULTILINE | re.DOTALL):
        compile(block, page, "exec")
        if page != "python.md":
            exec(block, {})
