import pickle

import numpy as np
import pytest

from segdeploy.calibration.collection import (
    Collection,
    load_collection,
    merge_collections,
    save_collection,
)
from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.histogram import TensorHistogram


def histogram(*values):
    return TensorHistogram.of(np.array(values, np.float32))


SMALL = Collection(
    names=("b", "ä"), histograms={"z/1": histogram(-3, 0, 0.25), "a": histogram(0, 0)}
)


def test_state_round_trips_with_the_same_bytes_and_leaves_nothing_beside(tmp_path):
    first, second = tmp_path / "one.npz", tmp_path / "two.npz"
    save_collection(SMALL, first, fingerprint="model 1")
    loaded = load_collection(first, fingerprint="model 1")
    save_collection(loaded, second, fingerprint="model 1")
    assert loaded == SMALL
    assert first.read_bytes() == second.read_bytes()
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_state_of_another_model_is_refused(tmp_path):
    save_collection(SMALL, tmp_path / "s.npz", fingerprint="model 1")
    with pytest.raises(CalibrationError, match="'model 1', expected 'model 2'"):
        load_collection(tmp_path / "s.npz", fingerprint="model 2")


@pytest.mark.parametrize("keep", [0, 10, 400, -30])
def test_damaged_state_is_refused(tmp_path, keep):
    path = tmp_path / "s.npz"
    save_collection(SMALL, path, fingerprint="")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CalibrationError, match=r"s\.npz is not a calibration state"):
        load_collection(path, fingerprint="")


def test_missing_state_is_refused(tmp_path):
    with pytest.raises(CalibrationError, match=r"none\.npz"):
        load_collection(tmp_path / "none.npz", fingerprint="")


def test_a_write_that_fails_leaves_the_old_state(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        save_collection(SMALL, tmp_path / "missing" / "s.npz", fingerprint="")
    folder = tmp_path / "taken"
    folder.mkdir()
    with pytest.raises(IsADirectoryError, match="taken"):
        save_collection(SMALL, folder, fingerprint="")
    assert list(tmp_path.iterdir()) == [folder]


def test_collections_travel_between_processes():
    assert pickle.loads(pickle.dumps(SMALL)) == SMALL


def test_merge_refuses_shared_images_and_different_tensors():
    with pytest.raises(CalibrationError, match="counted twice: b, ä"):
        merge_collections([SMALL, SMALL])
    other = Collection(names=("c",), histograms={"a": histogram(1)})
    with pytest.raises(CalibrationError, match=r"differ in the tensors \['z/1'\]"):
        merge_collections([SMALL, other])
    with pytest.raises(CalibrationError, match="no collections"):
        merge_collections([])


def test_a_collection_holds_something():
    with pytest.raises(CalibrationError, match="at least one image"):
        Collection(names=(), histograms={"a": histogram(1)})
