"""Outputs a device returned: the same scores as the model's own, and every misfit by its name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segdeploy.benchmarks.parity.predictions import Values, read_predictions
from segdeploy.benchmarks.speed.entries import RowIdentity
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


class TestWhatIsRead:
    @pytest.mark.parametrize("write", [npy, npz])
    @pytest.mark.parametrize("shape", [SIZE, (1, *SIZE), (1, 1, *SIZE)])
    def test_arrays_of_each_form_are_paired_by_name_in_the_order_of_the_images(
        self, tmp_path: Path, outputs: Outputs, write: Write, shape: tuple[int, ...]
    ) -> None:
        for name, output in zip(NAMES, outputs, strict=True):
            write(tmp_path / name, output.reshape(shape))
        found = read_predictions(tmp_path, NAMES, size=SIZE)
        assert np.array_equal(found.probability, outputs)
        assert found.ranks
        assert found.name == tmp_path.name

    def test_masks_are_zero_and_one_and_rank_nothing(
        self, tmp_path: Path, outputs: Outputs
    ) -> None:
        for name, output in zip(NAMES, outputs, strict=True):
            png(tmp_path / name, output)
        found = read_predictions(tmp_path, NAMES, size=SIZE)
        assert np.array_equal(found.probability, (outputs >= 0.5).astype(np.float32))
        assert not found.ranks

    def test_logits_become_the_probabilities_they_stand_for(
        self, tmp_path: Path, outputs: Outputs
    ) -> None:
        logits = np.log(outputs / (1 - outputs))
        logits[0, 0, :3] = 0, 1000, -1000
        for name, output in zip(NAMES, logits, strict=True):
            npy(tmp_path / name, output)
        found = read_predictions(tmp_path, NAMES, size=SIZE, values=Values.LOGITS).probability
        assert found[0, 0, :3].tolist() == [0.5, 1.0, 0.0]
        assert found[1:] == pytest.approx(outputs[1:], abs=1e-6)

    def test_half_precision_outputs_are_read(self, tmp_path: Path, outputs: Outputs) -> None:
        for name, output in zip(NAMES, outputs, strict=True):
            npy(tmp_path / name, output.astype(np.float16))
        found = read_predictions(tmp_path, NAMES, size=SIZE)
        assert found.probability.dtype == np.float32
        assert np.array_equal(found.probability, outputs.astype(np.float16))

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
        assert np.array_equal(found.probability, outputs)

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
        assert np.array_equal(found.probability, outputs)
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
