"""Paths as reports show them: nothing of the folders above the working folder."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdeploy.deploy.system.shown_command import shown_command, shown_path, shown_text

PARTS = st.lists(st.text("ab .-=", min_size=1).filter(lambda part: part.strip(" .")), min_size=1)
AWAY = Path("/SECRETUSER/mine")


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work" / "set").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")


class TestPath:
    def test_below_the_working_folder_it_is_relative(self) -> None:
        assert shown_path(Path("set/a.png").absolute()) == "set/a.png"
        assert shown_path(Path.cwd()) == "."

    def test_through_a_link_too(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "work")
        assert shown_path(tmp_path / "link" / "set" / "a.png") == "set/a.png"

    @pytest.mark.parametrize("path", ["set/a.png", "./set", "set/../set", "", "."])
    def test_a_relative_one_stays_as_typed(self, path: str) -> None:
        assert shown_path(path) == path

    @pytest.mark.parametrize(
        "path", [AWAY / "a b.pth", "../mine/a b.pth", "set/../../x/a b.pth", "/a b.pth"]
    )
    def test_of_any_other_the_name_is_left(self, path: str | Path) -> None:
        assert shown_path(path) == "a b.pth"


class TestCommand:
    @given(parts=PARTS)
    def test_no_form_of_a_flag_shows_the_folders(self, parts: list[str]) -> None:
        path = str(AWAY.joinpath(*parts))
        shown = shown_command(
            ["segdeploy"], [path, "--data", path, f"--data={path}", f"-o{path}", f"@{path}"]
        )
        assert AWAY.parent.name not in shown
        name = Path(path).name
        assert shlex.split(shown)[1:] == [
            name,
            "--data",
            name,
            f"--data={name}",
            f"-o{name}",
            f"@{name}",
        ]

    def test_what_is_no_path_stays(self) -> None:
        words = ["run", "-c", "net.pth", "--exclude", "conv0_0.conv.0/Relu", "--seed=-1", "-v"]
        words += ["metric=0.1", "0.5", "-0.5", "--", "a/b=c/d", "@list.txt"]
        assert shlex.split(shown_command([], words)) == words


class TestText:
    def test_paths_are_found_in_running_text(self) -> None:
        text = (
            f"cannot load {AWAY}/a.onnx: no '{AWAY}/b' ({Path.cwd()}/set, 3 images/s, n/a, 1 / 2)"
        )
        assert shown_text(text) == "cannot load a.onnx: no 'b' (set, 3 images/s, n/a, 1 / 2)"

    def test_one_with_spaces_is_told(self) -> None:
        path = AWAY / "of mine" / "a b.onnx"
        assert shown_text(f"{path} is damaged", path) == "a b.onnx is damaged"
