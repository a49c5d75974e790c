"""segdeploy.load and segdeploy.Data: what is stated by a file is taken from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import TINY

import segdeploy as sd
from segdeploy.deploy.data.presets import preset


def test_a_checkpoint_is_loaded_with_what_its_file_states(tiny_unet_checkpoint: Path):
    net = sd.load(tiny_unet_checkpoint, head=2)
    assert isinstance(net, sd.Checkpoint)
    assert (net.arch.value, net.head, net.preprocess) == ("unet_plus_plus", 2, TINY)
    assert sd.load(str(tiny_unet_checkpoint), arch="unet_plus_plus").sha256 == net.sha256


def test_an_onnx_file_is_described(tiny_models: dict[str, Path]):
    net = sd.load(tiny_models["int8 ort-x86"])
    assert isinstance(net, sd.Artifact)
    assert (net.precision.value, net.target) == ("int8", "ort-x86")


def test_a_contract_comes_as_a_value_or_as_a_file(tiny_unet_checkpoint: Path, tmp_path: Path):
    contract = sd.Preprocess(size=(48, 64))
    (tmp_path / "contract.json").write_text(contract.to_json())
    for given in (contract, tmp_path / "contract.json"):
        assert sd.load(tiny_unet_checkpoint, preprocess=given).preprocess == contract


def test_a_contract_comes_by_name_at_the_size_that_the_file_states(tiny_unet_checkpoint: Path):
    net = sd.load(tiny_unet_checkpoint, preprocess="imagenet")
    assert isinstance(net, sd.Checkpoint)
    assert net.preprocess == preset("imagenet", TINY.size)
    assert net.contract_origin == "preset imagenet"
    with pytest.raises(sd.UsageError, match="neither a preset nor a file; choose from published"):
        sd.load(tiny_unet_checkpoint, preprocess="image-net")


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"arch": "unet_plus"}, "did you mean 'unet_plus_plus'"),
        ({"arch": "r2u_net"}, "holds unet_plus_plus"),
        ({"head": 7}, "heads 1 to 4"),
    ],
)
def test_what_contradicts_a_checkpoint_is_refused(
    tiny_unet_checkpoint: Path, stated: dict[str, object], said: str
):
    with pytest.raises(sd.UsageError, match=said):
        sd.load(tiny_unet_checkpoint, **stated)


def test_an_onnx_file_states_everything_itself(tiny_models: dict[str, Path]):
    with pytest.raises(sd.UsageError, match="--head is for a checkpoint"):
        sd.load(tiny_models["fp32"], head=1)


def test_a_file_that_is_not_there_is_an_input_error(tmp_path: Path):
    for name in ("a.onnx", "a.pth"):
        with pytest.raises(sd.InputError, match=name):
            sd.load(tmp_path / name)


def test_splits_are_opened_when_asked_for(image_set: Path):
    data = sd.Data(image_set, num_samples=3, seed=5)
    assert [len(data.train), len(data.val), len(data.test)] == [6, 2, 4]
    assert data.calibration_images == data.train.take(3, seed=5)
    assert data.train is data.train


def test_another_folder_can_calibrate(image_set: Path, make_image_set, tmp_path: Path):
    other = make_image_set(tmp_path / "other", ["train"] * 2)
    data = sd.Data(image_set, calibration=other)
    assert [sample.image_path.parent.parent for sample in data.calibration_images] == [other] * 2
    assert len(data.train) == 6


def test_data_of_a_folder_that_is_not_there_is_refused_when_it_is_opened(tmp_path: Path):
    data = sd.Data(tmp_path / "nothing")
    with pytest.raises(sd.InputError, match="holds no images/ folder"):
        _ = data.test


def test_data_are_equal_when_they_say_the_same(image_set: Path):
    data = sd.Data(image_set)
    assert len(data.test) == 4
    assert data == sd.Data(image_set)
    assert json.dumps(repr(data)) == json.dumps(repr(sd.Data(image_set)))
