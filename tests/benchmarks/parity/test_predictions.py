"""Outputs a device returned: the same scores as the model's own, and every misfit by its name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny import THREE_CLASSES, TWO_LABELS

from segdeploy.benchmarks.parity.predictions import Predictions, Values, read_predictions
from segdeploy.benchmarks.speed.entries import RowIdentity
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.system.errors import InputError

SIZE = (4, 6)
NAMES = ("cells_03", "cells_01", "cells_02")

Outputs = NDArray[np.float32]
Write = Callable[[Path, Outputs], None]


def npy(path: Path, output: Outputs) -> None:
    np.save(path.with_suffix(".npy"), output)


def npz(path: Path, output: Outputs) -> None:
    np.savez(path.with_suffix(".npz"), output_0=output)


def png(path: Path, output: Outputs) -> None:
    Image.fromarray(np.where(output >= 0.5, np.uint8(255), np.uint8(0))).save(
        path.with_suffix(".png")
    )


@pytest.fixture
def outputs() -> Outputs:
    return np.random.default_rng(0).random((len(NAMES), *SIZE)).astype(np.float32)


@pytest.fixture
def returned(tmp_path: Path, outputs: Outputs) -> Path:
    """A folder of .npz files."""
    for name, output in zip(NAMES, outputs, strict=True):
        npz(tmp_path / name, output)
    return tmp_path


def held(found: Predictions) -> NDArray[np.float32]:
    """What was said of every image, (N, classes, h, w)."""
    return np.stack([found.probability(place) for place in range(len(found.files))])


class TestWhatIsRead:
    @pytest.mark.parametrize("write", [npy, npz])
    @pytest.mark.parametrize("shape", [SIZE, (1, *SIZE), (1, 1, *SIZE)])
    def test_arrays_of_each_form_are_paired_by_name_in_the_order_of_the_images(
        self, tmp_path: Path, outputs: Outputs, write: Write, shape: tuple[int, ...]
    ) -> None:
        for name, output in zip(NAMES, outputs, strict=True):
            write(tmp_path / name, output.reshape(shape))
        found = read_predictions(tmp_path, NAMES, size=SIZE)
        assert np.array_equal(held(found)[:, 0], outputs)
        assert found.ranks
        assert found.name == tmp_path.name

    def test_masks_are_zero_and_one_and_rank_nothing(
        self, tmp_path: Path, outputs: Outputs
    ) -> None:
        for name, output in zip(NAMES, outputs, strict=True):
            png(tmp_path / name, output)
        found = read_predictions(tmp_path, NAMES, size=SIZE)
        assert np.array_equal(held(found)[:, 0], (outputs >= 0.5).astype(np.float32))
        assert not found.ranks

    def test_logits_become_the_probabilities_they_stand_for(
        self, tmp_path: Path, outputs: Outputs
    ) -> None:
        logits = np.log(outputs / (1 - outputs))
        logits[0, 0, :3] = 0, 1000, -1000
        for name, output in zip(NAMES, logits, strict=True):
            npy(tmp_path / name, output)
        found = held(read_predictions(tmp_path, NAMES, size=SIZE, values=Values.LOGITS))
        found = found[:, 0]
        assert found[0, 0, :3].tolist() == [0.5, 1.0, 0.0]
        assert found[1:] == pytest.approx(outputs[1:], abs=1e-6)

    def test_half_precision_outputs_are_read(self, tmp_path: Path, outputs: Outputs) -> None:
        for name, output in zip(NAMES, outputs, strict=True):
            npy(tmp_path / name, output.astype(np.float16))
        found = read_predictions(tmp_path, NAMES, size=SIZE)
        assert held(found).dtype == np.float32
        assert np.array_equal(held(found)[:, 0], outputs.astype(np.float16))

    @pytest.mark.parametrize("numbered", ["output_{:06d}", "out{}"])
    def test_numbered_outputs_are_paired_by_the_list_of_inputs(
        self, tmp_path: Path, outputs: Outputs, numbered: str
    ) -> None:
        """As Vastai's vamp writes them: the n-th file by name is of the n-th line."""
        order = tmp_path / "datalist.txt"
        order.write_text("".join(f"/inputs/{name}.npz\n" for name in sorted(NAMES)))
        folder = tmp_path / "out"
        folder.mkdir()
        by_name = dict(zip(NAMES, outputs, strict=True))
        for number, name in enumerate(sorted(NAMES), start=9):  # from one digit to two
            npz(folder / numbered.format(number), by_name[name])
        found = read_predictions(folder, NAMES, size=SIZE, order=order)
        assert np.array_equal(held(found)[:, 0], outputs)

    def test_a_row_is_named_by_the_flag(self, returned: Path) -> None:
        found = read_predictions(returned, NAMES, size=SIZE, name="VA16")
        assert found.identity() == RowIdentity(
            name="VA16",
            file=returned.name,
            target=None,
            runtime="predictions",
            precision_requested=None,
        )

    def test_files_of_no_image_are_left_out_and_said(
        self, returned: Path, outputs: Outputs, caplog: pytest.LogCaptureFixture
    ) -> None:
        npz(returned / "stranger", outputs[0])
        (returned / "notes.txt").write_text("x")
        with caplog.at_level(logging.WARNING):
            found = read_predictions(returned, NAMES, size=SIZE)
        assert np.array_equal(held(found)[:, 0], outputs)
        assert "1 files left out, of no image: stranger.npz" in caplog.text


class TestWhatDoesNotFit:
    def test_missing_outputs_are_named_with_what_is_there_instead(
        self, returned: Path, outputs: Outputs
    ) -> None:
        (returned / "cells_01.npz").rename(returned / "cells_1.npz")
        message = r"no output of 1 of 3 images: cells_01; .*Of no image of the set: cells_1\.npz"
        with pytest.raises(InputError, match=message):
            read_predictions(returned, NAMES, size=SIZE)

    @pytest.mark.parametrize(
        ("broken", "message"),
        [
            (np.zeros((6, 4), np.float32), r"1 predictions do not fit: cells_01\.npz \(shape"),
            (np.zeros((1, 2, *SIZE), np.float32), r"shape \(1, 2, 4, 6\)\); expected \(4, 6\)"),
            (np.full(SIZE, np.nan, np.float32), r"cells_01\.npz \(24 of 24 values\); NaN"),
            (np.full(SIZE, 7, np.float32), r"cells_01\.npz \(7 to 7\).*--predictions-are logits"),
            (np.zeros(SIZE, np.int8), r"cells_01\.npz holds int8; expected floats"),
            (np.full(SIZE, None), r"cells_01\.npz cannot be read as an array"),
        ],
    )
    def test_a_broken_output_is_named(self, returned: Path, broken: Outputs, message: str) -> None:
        npz(returned / "cells_01", broken)
        with pytest.raises(InputError, match=message):
            read_predictions(returned, NAMES, size=SIZE)

    def test_several_arrays_in_one_file_are_refused(self, returned: Path) -> None:
        np.savez(returned / "cells_01.npz", a=np.zeros(SIZE), b=np.zeros(SIZE))
        with pytest.raises(InputError, match=r"cells_01\.npz holds 2 arrays, \['a', 'b'\]"):
            read_predictions(returned, NAMES, size=SIZE)

    def test_a_file_cut_short_is_named(self, returned: Path) -> None:
        path = returned / "cells_01.npz"
        path.write_bytes(path.read_bytes()[:40])
        with pytest.raises(InputError, match=r"cells_01\.npz cannot be read as an array"):
            read_predictions(returned, NAMES, size=SIZE)

    def test_two_files_of_one_image_are_refused(self, returned: Path, outputs: Outputs) -> None:
        npy(returned / "cells_01", outputs[0])
        with pytest.raises(InputError, match="both of image cells_01; keep one"):
            read_predictions(returned, NAMES, size=SIZE)

    def test_arrays_beside_masks_are_refused(self, returned: Path, outputs: Outputs) -> None:
        (returned / "cells_01.npz").unlink()
        png(returned / "cells_01", outputs[0])
        with pytest.raises(InputError, match="holds arrays and masks"):
            read_predictions(returned, NAMES, size=SIZE)

    def test_masks_of_the_size_of_the_image_are_refused(self, tmp_path: Path) -> None:
        for name in NAMES:
            png(tmp_path / name, np.ones((8, 12), np.float32))
        with pytest.raises(InputError, match=r"3 predictions.*shape \(8, 12\).*not resized"):
            read_predictions(tmp_path, NAMES, size=SIZE)

    def test_a_list_of_another_length_is_refused(self, returned: Path) -> None:
        order = returned / "list.txt"
        order.write_text("a\nb\n")
        with pytest.raises(InputError, match="lists 2 inputs, the folder holds 3 outputs"):
            read_predictions(returned, NAMES, size=SIZE, order=order)

    def test_no_folder_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is no folder"):
            read_predictions(tmp_path / "none", NAMES, size=SIZE)


PLANES = (3, *SIZE)


@pytest.fixture
def planes() -> Outputs:
    """Of each image, probabilities of three classes that exclude each other."""
    return (
        np.random.default_rng(1)
        .dirichlet(np.ones(3), (len(NAMES), *SIZE))
        .transpose(0, 3, 1, 2)
        .astype(np.float32)
    )


class TestSeveralClasses:
    @pytest.mark.parametrize("write", [npy, npz])
    @pytest.mark.parametrize("shape", [PLANES, (1, *PLANES)])
    def test_planes_are_probabilities(
        self, tmp_path: Path, planes: Outputs, write: Write, shape: tuple[int, ...]
    ) -> None:
        for name, output in zip(NAMES, planes, strict=True):
            write(tmp_path / name, output.reshape(shape).astype(np.float16))
        found = read_predictions(tmp_path, NAMES, size=SIZE, output=THREE_CLASSES)
        assert found.ranks
        assert np.array_equal(held(found), planes.astype(np.float16))

    @pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64])
    @pytest.mark.parametrize("shape", [SIZE, (1, *SIZE), (1, 1, *SIZE)])
    def test_whole_numbers_are_classes(
        self, tmp_path: Path, planes: Outputs, kind: type[np.integer], shape: tuple[int, ...]
    ) -> None:
        classes = planes.argmax(axis=1)
        for name, output in zip(NAMES, classes, strict=True):
            npy(tmp_path / name, output.reshape(shape).astype(kind))
        found = read_predictions(tmp_path, NAMES, size=SIZE, output=THREE_CLASSES)
        assert not found.ranks
        assert np.array_equal(held(found), THREE_CLASSES.members(planes))

    def test_label_maps_are_classes(self, tmp_path: Path, planes: Outputs) -> None:
        for name, output in zip(NAMES, planes.argmax(axis=1), strict=True):
            Image.fromarray(output.astype(np.uint8)).save(tmp_path / f"{name}.png")
        found = read_predictions(tmp_path, NAMES, size=SIZE, output=THREE_CLASSES)
        assert np.array_equal(held(found), THREE_CLASSES.members(planes))

    def test_logits_go_through_what_the_contract_says(
        self, tmp_path: Path, planes: Outputs
    ) -> None:
        for name, output in zip(NAMES, np.log(planes) + 3, strict=True):
            npy(tmp_path / name, output)
        ask = {"size": SIZE, "values": Values.LOGITS}
        found = read_predictions(tmp_path, NAMES, output=THREE_CLASSES, **ask)
        assert held(found) == pytest.approx(planes, abs=1e-6)
        labels = OutputContract(classes=THREE_CLASSES.classes)
        found = read_predictions(tmp_path, NAMES, output=labels, **ask)
        assert held(found) == pytest.approx(1 / (1 + np.exp(-3) / planes), abs=1e-6)

    @pytest.mark.parametrize(
        ("broken", "message"),
        [
            (np.zeros(SIZE, np.float32), r"shape \(4, 6\)\); expected \(3, 4, 6\) or \(1, 3"),
            (np.zeros(PLANES, np.uint8), "holds probabilities and classes"),
            (np.full(PLANES, 0.5, np.float32), r"cells_01.npy: the prob.* add up to 1.5"),
            (np.full(PLANES, 9, np.float32), r"\(9 to 9\).*--predictions-are logits"),
            (np.zeros(PLANES, bool), "holds bool; expected floats, or whole numbers that are cl"),
        ],
    )
    def test_a_broken_output_is_named(
        self, tmp_path: Path, planes: Outputs, broken: Outputs, message: str
    ) -> None:
        for name, output in zip(NAMES, planes, strict=True):
            npy(tmp_path / name, broken if name == "cells_01" else output)
        with pytest.raises(InputError, match=message):
            read_predictions(tmp_path, NAMES, size=SIZE, output=THREE_CLASSES)

    def test_a_class_that_there_is_not_is_refused(self, tmp_path: Path) -> None:
        for name in NAMES:
            npy(tmp_path / name, np.full(SIZE, 3 if name == "cells_02" else 2))
        message = r"1 predictions do not fit: cells_02.npy \(class 3 to 3\); expected .* 0 to 2"
        with pytest.raises(InputError, match=message):
            read_predictions(tmp_path, NAMES, size=SIZE, output=THREE_CLASSES)

    def test_one_mask_holds_no_overlapping_labels(self, tmp_path: Path, outputs: Outputs) -> None:
        for name, output in zip(NAMES, outputs, strict=True):
            png(tmp_path / name, output)
        with pytest.raises(InputError, match=r"2 labels may overlap; give arrays \(2, height"):
            read_predictions(tmp_path, NAMES, size=SIZE, output=TWO_LABELS)
