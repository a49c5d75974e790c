"""The recipes that come with the project are command lines that parse."""

from __future__ import annotations

from pathlib import Path

import pytest

from segdeploy import training
from segdeploy.cli.config import take_config
from segdeploy.cli.parser import build_parser
from segdeploy.deploy.data.preprocess import Preprocess

FOLDER = Path(training.__file__).parent / "recipes"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_is_a_command_line(path: Path) -> None:
    parser = build_parser()
    words = ["train", "--config", str(path), "--data", "data", "-o", "out"]
    take_config(words, parser)
    options = parser.parse_args(words)
    assert options.arch in path.stem
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_an_input_contract_is_one(path: Path) -> None:
    contract = Preprocess.from_json(path.read_text(encoding="utf-8"), source=path.name)
    assert all(side % 16 == 0 for side in contract.size)
