"""Tables of run lengths, as the stages of the Data Science Bowl ship them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.layouts.run_lengths import decoded_runs, read_tables, tables_in
from segdeploy.deploy.data.prepare import prepare_raw
from segdeploy.deploy.system.errors import InputError

Mask = NDArray[np.bool_]


def encoded(mask: Mask) -> str:
    """As the competition encodes: columns first, from 1."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts, ends = edges[::2], edges[1::2]
    return " ".join(f"{start} {end - start}" for start, end in zip(starts, ends, strict=True))


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 7), st.integers(1, 9))))
def test_decoding_is_the_inverse_of_encoding(mask: Mask) -> None:
    assert np.array_equal(decoded_runs(encoded(mask), mask.shape, where="here"), mask)


@pytest.mark.parametrize("text", ["1", "1 2 3", "a b", "1 -2", "-1 2", "1.5 2", "9" * 30 + " 1"])
def test_what_is_no_pairs_of_numbers(text: str) -> None:
    with pytest.raises(InputError, match=r"here holds .*expected pairs of a first pixel and a cou"):
        decoded_runs(text, (3, 4), where="here")


@pytest.mark.parametrize("text", ["0 1", "12 2", "1 13"])
def test_pixels_outside_the_image(text: str) -> None:
    with pytest.raises(InputError, match=r"its image has 4x3 \(width x height\), pixels 1 to 12"):
        decoded_runs(text, (3, 4), where="here")


def stage(root: Path, count: int = 4) -> dict[str, list[Mask]]:
    """Images in the folders of a stage, and the objects of each: as many as its number."""
    objects = {}
    for index in range(count):
        name = f"case{index}"
        folder = root / name / "images"
        folder.mkdir(parents=True)
        pixels = np.random.default_rng(index).integers(0, 255, (9, 12, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        masks = [np.zeros((9, 12), np.bool_) for _ in range(index)]
        for place, mask in enumerate(masks):
            mask[1 + 2 * place : 3 + 2 * place, place : place + 5] = True
        objects[name] = masks
    return objects


def table(
    path: Path, objects: dict[str, list[Mask]], *, usage: str = "", ignored: str = ""
) -> None:
    """What the competition calls a solution, with a row of nothing where there is no object."""
    lines = ["ImageId,EncodedPixels" + (",Height,Width,Usage" if usage else "")]
    for name, masks in objects.items():
        for runs in [encoded(mask) for mask in masks] or [""]:
            of = "Ignored" if name == ignored else usage
            lines.append(f"{name},{runs}" + (f",9,12,{of}" if usage else ""))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("where", ["beside", "inside", "download"])
def test_a_stage_whose_masks_are_run_lengths_alone(
    tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "bbbc038" / "stage1_test"
    objects = stage(folder)
    inside = folder if where == "inside" else folder.parent
    table(inside / "stage1_solution.csv", objects, usage="Public")
    raw = folder.parent if where == "download" else folder
    with caplog.at_level(logging.INFO):
        rows = prepare_raw(raw, tmp_path / "set")
    assert {row.image_id: row.nuclei for row in rows} == {f"case{i}": i for i in range(4)}
    assert "1 images hold no object: their masks are empty" in caplog.text
    for sample in open_set(tmp_path / "set", None):
        expected = np.any([np.zeros((9, 12), np.bool_), *objects[sample.name]], axis=0)
        assert np.array_equal(sample.mask() == 255, expected)


def test_masks_win_over_a_table_beside_them(tmp_path: Path) -> None:
    folder = tmp_path / "stage1_train"
    objects = stage(folder)
    (folder / "case2" / "masks").mkdir()
    own = np.zeros((9, 12), np.uint8)
    own[8, 11] = 255
    Image.fromarray(own).save(folder / "case2" / "masks" / "one.png")
    table(tmp_path / "stage1_train_labels.csv", objects)
    rows = prepare_raw(folder, tmp_path / "set")
    assert [row.nuclei for row in rows] == [0, 1, 1, 3]
    sample = next(s for s in open_set(tmp_path / "set", None) if s.name == "case2")
    assert np.array_equal(sample.mask(), own)


def test_an_image_that_never_counted_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "stage2_test_final"
    table(tmp_path / "final.csv", stage(folder), usage="Private", ignored="case2")
    rows = prepare_raw(folder, tmp_path / "set")
    assert [row.image_id for row in rows] == ["case0", "case1", "case3"]
    assert "case2/images/case2.png" in caplog.text


def test_an_image_that_no_table_lists(tmp_path: Path) -> None:
    folder = tmp_path / "stage1_test"
    objects = stage(folder)
    del objects["case1"]
    table(tmp_path / "solution.csv", objects)
    with pytest.raises(InputError, match=r"case1.png has no masks .* no table .* lists it"):
        prepare_raw(folder, tmp_path / "set")


def test_tables_are_told_by_their_first_line(tmp_path: Path) -> None:
    (tmp_path / "splits.csv").write_text("image_id,split\n")
    (tmp_path / "runs.CSV").write_text('\ufeff"ImageId","EncodedPixels"\na.png,"1 2"\n', "utf-8")
    found = tables_in(tmp_path, tmp_path / "nowhere")
    assert [path.name for path in found] == ["runs.CSV"]
    assert read_tables(found)["a"].objects == [(f"{tmp_path / 'runs.CSV'}:2", "1 2")]


def test_bad_tables(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("ImageId,EncodedPixels\na,1 2,3\n")
    with pytest.raises(InputError, match=r"runs.csv:2 has 3 columns; expected 2"):
        read_tables([path])
    path.write_bytes(b"ImageId,EncodedPixels\n\xff\xfe,1 2\n")
    with pytest.raises(InputError, match="is not a UTF-8 CSV file"):
        read_tables([path])
    path.write_text("ImageId,EncodedPixels\na,1 2\n")
    (tmp_path / "other.csv").write_text("ImageId,EncodedPixels\na,1 2\n")
    assert len(read_tables(tables_in(tmp_path))["a"].objects) == 1, "copies say the same"
    (tmp_path / "sample_submission.csv").write_text("ImageId,EncodedPixels\na,1 1\n")
    assert len(tables_in(tmp_path)) == 2, "what somebody predicted is no truth"
    (tmp_path / "third.csv").write_text("ImageId,EncodedPixels\na,1 3\n")
    with pytest.raises(InputError, match="lists 'a' otherwise than another table"):
        read_tables(tables_in(tmp_path))
