"""Each file of a device belongs to one image: by its name, or by its number where that is all."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

import pytest

from segdeploy.benchmarks.parity.pairing import paired_files
from segdeploy.deploy.system.errors import InputError

COUNTED = [f"img{number}" for number in (1, 2, 4, 10, 11, 100)]
HEXADECIMAL = ["0a7", "00ae65", "0b10", "0b9", "ff2", "1e9"]


def pairs(
    tmp_path: Path, names: Sequence[str], files: Sequence[str], order: Sequence[str] | None = None
) -> list[str]:
    """The files of each image, by name."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    for file in files:
        (folder / file).touch()
    listed = None
    if order is not None:
        listed = tmp_path / "order.txt"
        listed.write_text("".join(f"inputs/{name}.npy\n" for name in order), "utf-8")
    found = paired_files(folder, names, suffixes=(".npy", ".npz"), order=listed)
    return [path.name for path in found]


class TestByName:
    @pytest.mark.parametrize("names", [COUNTED, HEXADECIMAL])
    @pytest.mark.parametrize("form", ["{}.npy", "{}_0.npy"])
    @pytest.mark.parametrize("seed", [None, 0, 1])
    def test_no_order_of_the_list_moves_an_output_to_another_image(
        self, tmp_path: Path, names: list[str], form: str, seed: int | None
    ) -> None:
        listed = None if seed is None else random.Random(seed).sample(names, len(names))
        found = pairs(tmp_path, names, [form.format(name) for name in names], listed)
        assert found == [form.format(name) for name in names]

    def test_a_number_behind_a_name_is_no_other_image(self, tmp_path: Path) -> None:
        """ais_bench's ``cell_0_0.npy`` is of ``cell_0``, and ``cell_0.npy`` of ``cell``."""
        found = pairs(tmp_path, ["cell", "cell_0"], ["cell_0.npy", "cell_0_0.npy"])
        assert found == ["cell_0.npy", "cell_0_0.npy"]

    def test_images_that_end_in_numbers_keep_their_own_files(self, tmp_path: Path) -> None:
        names = ["cell_0", "cell_1"]
        assert pairs(tmp_path, names, ["cell_1.npy", "cell_0.npy"]) == ["cell_0.npy", "cell_1.npy"]

    def test_composed_and_decomposed_names_are_one(self, tmp_path: Path) -> None:
        files = [normalize("NFD", "é1_0.npy"), "e1_0.npy"]
        assert pairs(tmp_path, [normalize("NFC", "é1"), "e1"], files) == files

    @pytest.mark.parametrize(
        "files",
        [
            ["a_0.npy", "a_1.npy", "b_0.npy"],
            ["a.npy", "b.npy", "a_0.npy", "b_0.npy"],
            ["a.npy", "a.npz", "b.npy"],
        ],
    )
    def test_two_files_of_one_image_are_refused(self, tmp_path: Path, files: list[str]) -> None:
        with pytest.raises(InputError, match="are both of image a"):
            pairs(tmp_path, ["a", "b"], files)

    def test_an_image_without_output_is_named(self, tmp_path: Path) -> None:
        message = r"no output of 1 of 3 images: img4; expected img4\.npz"
        with pytest.raises(InputError, match=message):
            pairs(tmp_path, ["img1", "img2", "img4"], ["img1_0.npy", "img2_0.npy", "other.npy"])

    def test_an_order_cannot_stand_in_for_a_lost_output(self, tmp_path: Path) -> None:
        names = ["img0", "img1", "img2"]
        with pytest.raises(InputError, match="no output of 1 of 3 images: img0"):
            pairs(tmp_path, names, ["img1.npy", "img2.npy", "img3.npy"], names)


class TestByNumber:
    @pytest.mark.parametrize("form", ["out_{}.npy", "output_{:06d}.npy", "{}_0.npy", "{}.npy"])
    def test_numbered_files_are_of_the_lines(self, tmp_path: Path, form: str) -> None:
        listed = random.Random(0).sample(HEXADECIMAL, len(HEXADECIMAL))
        found = pairs(
            tmp_path, HEXADECIMAL, [form.format(number) for number in range(7, 13)], listed
        )
        assert found == [form.format(7 + listed.index(name)) for name in HEXADECIMAL]

    def test_numbers_are_places_where_not_every_image_bears_one(self, tmp_path: Path) -> None:
        listed = ["1", "10", "2"]
        assert pairs(tmp_path, listed, ["0.npy", "1.npy", "2.npy"], listed) == [
            "0.npy",
            "1.npy",
            "2.npy",
        ]

    def test_names_and_places_that_agree_are_taken(self, tmp_path: Path) -> None:
        listed = ["8", "9", "10"]
        found = pairs(tmp_path, listed, ["8.npy", "9.npy", "10.npy"], listed)
        assert found == ["8.npy", "9.npy", "10.npy"]

    def test_names_and_places_that_disagree_are_refused(self, tmp_path: Path) -> None:
        listed = ["10", "8", "9"]
        with pytest.raises(InputError, match=r"8\.npy is of image 8 by its name, but .* puts 9"):
            pairs(tmp_path, listed, ["8.npy", "9.npy", "10.npy"], listed)

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            (["out_0.npy", "out_1.npy", "out_3.npy"], "number 2 is missing among them"),
            (["x.npy", "y.npy", "z.npy"], "are not numbered and nothing else"),
            (["out_0.npy", "out_1.npy", "put_2.npy"], "are not numbered and nothing else"),
            (["o1_2.npy", "o2_1.npy", "o3_3.npy"], "are not numbered and nothing else"),
            (["out_0.npy", "out_1.npy"], "lists 3 inputs, the folder holds 2 outputs"),
        ],
    )
    def test_what_no_number_tells_is_refused(
        self, tmp_path: Path, files: list[str], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            pairs(tmp_path, ["a", "b", "c"], files, ["a", "b", "c"])

    def test_a_list_that_repeats_an_input_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="lists a more than once"):
            pairs(tmp_path, ["a", "b"], ["out_0.npy", "out_1.npy", "out_2.npy"], ["a", "b", "a"])

    def test_a_list_of_another_run_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"order\.txt does not list b"):
            pairs(tmp_path, ["a", "b"], ["a_0.npy", "b_0.npy"], ["a", "c"])
