"""Which images are taken, what their outputs are called, and what is refused before the work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from segdeploy.deploy.prediction.settings import Write
from segdeploy.deploy.prediction.sources import sources_of
from segdeploy.deploy.system.errors import InputError, SegdeployError, UsageError

WritePng = Callable[[Path, NDArray[np.generic]], Path]
GREY = np.zeros((4, 5), np.uint8)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_png: WritePng) -> Path:
    """A working directory with plates of images, and what is no image."""
    for name in ("b.png", "a.PNG", "plate1/x.png", "plate1/deep/y.png", "plate2/x.png"):
        write_png(tmp_path / "images" / name, GREY)
    for name in ("images/.DS_Store", "images/plate1/._x.png", "images/notes.txt"):
        (tmp_path / name).write_text("no image")
    write_png(tmp_path / "images" / ".hidden" / "z.png", GREY)
    (tmp_path / "list.txt").write_text("# chosen\nimages/b.png\n\n  images/plate1/x.png \n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def named(*inputs: str, writes: tuple[Write, ...] = (Write.MASK,)) -> dict[str, str]:
    """Path to name of the images found."""
    found = sources_of(inputs, output=Path("out"), writes=writes)
    return {Path(source.path).as_posix(): source.name for source in found}


@pytest.mark.usefixtures("here")
class TestWhichImages:
    def test_a_folder_is_taken_with_its_folders_whose_structure_is_kept(self) -> None:
        found = named("images")
        assert list(found.values()) == ["a", "b", "plate1/x", "plate1/deep/y", "plate2/x"]
        assert found["images/plate1/deep/y.png"] == "plate1/deep/y"

    def test_a_file_is_called_as_it_is(self) -> None:
        assert named("images/plate1/x.png", "images/b.png") == {
            "images/plate1/x.png": "x",
            "images/b.png": "b",
        }

    def test_a_pattern_keeps_the_structure_below_its_fixed_part(self) -> None:
        assert list(named("images/plate*/*.png").values()) == ["plate1/x", "plate2/x"]
        assert list(named("images/plate1/**/*.png").values()) == ["deep/y", "x"]

    def test_a_list_names_files_from_here(self) -> None:
        assert named("@list.txt") == {"images/b.png": "b", "images/plate1/x.png": "x"}

    def test_a_file_that_a_list_names_wrongly_is_left_to_the_work(self, here: Path) -> None:
        (here / "list.txt").write_text("gone.png\n")
        assert named("@list.txt") == {"gone.png": "gone"}

    def test_an_image_named_twice_is_taken_once(self) -> None:
        assert named("images/b.png", "images/../images/b.png", "@list.txt") == {
            "images/b.png": "b",
            "images/plate1/x.png": "x",
        }

    def test_absolute_paths_and_links_to_folders(self, here: Path) -> None:
        (here / "link").symlink_to(here / "images" / "plate1")
        assert list(named(str(here / "images" / "plate?" / "*.png")).values()) == [
            "plate1/x",
            "plate2/x",
        ]
        assert list(named("link").values()) == ["x", "deep/y"]


@pytest.mark.usefixtures("here")
class TestRefusedBeforeTheWork:
    @pytest.mark.parametrize(
        ("inputs", "kind", "words"),
        [
            (["absent"], InputError, "absent does not exist; expected an image, a folder"),
            (["images/notes.txt"], InputError, "notes.txt is no image"),
            (["images/*.bmp"], InputError, "matches no image"),
            (["@absent.txt"], InputError, "list absent.txt cannot be read"),
            (["@images/b.png"], InputError, "cannot be read"),
            (["empty"], InputError, "empty: no images"),
            (["images/plate1", "images/plate2"], UsageError, "both write x.png; rename one"),
            (["twins"], UsageError, "both write a.png"),
        ],
    )
    def test_a_newcomer_s_mistake_is_named(
        self,
        here: Path,
        write_png: WritePng,
        inputs: list[str],
        kind: type[SegdeployError],
        words: str,
    ) -> None:
        (here / "empty").mkdir()
        for name in ("a.png", "a.tif"):
            write_png(here / "twins" / name, GREY)
        with pytest.raises(kind, match=words):
            named(*inputs)

    def test_files_of_two_kinds_that_would_have_one_name(
        self, here: Path, write_png: WritePng
    ) -> None:
        write_png(here / "images" / "labels" / "a.png", GREY)
        assert len(named("images")) == 6
        with pytest.raises(UsageError, match=r"both write labels/a\.png"):
            named("images", writes=(Write.MASK, Write.LABELS))

    @pytest.mark.parametrize("output", ["images", "images/masks", "images/../images/plate1"])
    def test_an_output_where_images_are_looked_for(self, output: str) -> None:
        with pytest.raises(UsageError, match="lies in images"):
            sources_of(["images"], output=Path(output), writes=(Write.MASK,))

    def test_an_output_that_would_replace_an_image(self) -> None:
        with pytest.raises(UsageError, match=r"would replace the image images/b\.png"):
            sources_of(["images/b.png"], output=Path("images"), writes=(Write.MASK,))
        sources_of(["images/a.PNG"], output=Path("images/new"), writes=(Write.MASK,))
