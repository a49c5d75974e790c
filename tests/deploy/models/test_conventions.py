from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.checkpoint import load_checkpoint, save_checkpoint
from segdeploy.deploy.models.conventions import CONFIG, height_at
from segdeploy.deploy.models.families import Family
from segdeploy.deploy.models.networks import build_network
from segdeploy.deploy.system.errors import InputError, UsageError

Pixels = NDArray[np.uint8]

GATED = Architecture.ATTENTION_U_NET
SHARED = [Architecture.R2U_NET, GATED]
OF_LEEJUNHYUN = [Architecture.U_NET, Architecture.R2_ATTENTION_U_NET]

CONFIG_OF_ITS_TRAINING = {
    "arch": "NestedUNet",
    "batch_size": 16,
    "dataset": "dsb2018_96",
    "deep_supervision": False,
    "early_stopping": -1,
    "epochs": 100,
    "factor": 0.1,
    "gamma": 2 / 3,
    "img_ext": ".png",
    "input_channels": 3,
    "input_h": 96,
    "input_w": 96,
    "loss": "BCEDiceLoss",
    "lr": 0.001,
    "milestones": "1,2",
    "min_lr": 1e-05,
    "name": "dsb2018_96_NestedUNet_woDS",
    "nesterov": False,
    "num_classes": 1,
}
"""What pytorch-nested-unet's ``train.py`` dumps with ``yaml.dump``, by its defaults."""


def photo(height: int, width: int) -> Pixels:
    """Noise over a gradient, so that a wrong order, size or antialiasing is seen."""
    draw = np.random.default_rng(height * width)
    slope = np.linspace(0, 200, width)[None, :, None] * (1.0, 0.6, 0.3)
    noise = draw.normal(20, 25, (height, width, 3))
    return (slope + noise).clip(0, 255).astype(np.uint8)


def write(
    folder: Path, name: str, arch: Architecture, *, nested: bool = False, **options: object
) -> Path:
    """A checkpoint as its project writes it, of random weights."""
    network = build_network(arch, width=2, deep_supervision=bool(options.get("deep")))
    state = network.state_dict()
    if nested:
        for ours, theirs in (
            ("conv.0", "conv1"),
            ("conv.1", "bn1"),
            ("conv.3", "conv2"),
            ("conv.4", "bn2"),
        ):
            state = {key.replace(f".{ours}.", f".{theirs}."): state[key] for key in state}
    torch.save(state, folder / name)
    return folder / name


# --- the inputs, as each project's own code computes them, written out -------------------------


def leejunhyun_by_hand(image: Pixels) -> NDArray[np.float32]:
    """Image_Segmentation's ``data_loader.py`` after its random first resize.

    ``T.Resize`` of a Pillow image is Pillow's bilinear, which antialiases; ``T.ToTensor`` divides
    by 255; ``T.Normalize`` subtracts 0.5 and divides by 0.5.
    """
    picture = Image.fromarray(image)
    aspect_ratio = picture.size[1] / picture.size[0]
    height = int(256 * aspect_ratio) - int(256 * aspect_ratio) % 16
    resized = np.asarray(picture.resize((256, height), Image.Resampling.BILINEAR))
    tensor = resized.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    found: NDArray[np.float32] = (tensor - np.float32(0.5)) / np.float32(0.5)
    return found


def nested_by_hand(image: Pixels) -> NDArray[np.float32]:
    """pytorch-nested-unet's ``dataset.py`` on an image that already has its size.

    ``cv2.imread`` gives BGR; albumentations' ``Normalize`` subtracts 255 times its mean and divides
    by 255 times its deviation, channel 0 by the first of each, which is blue by red's; then the
    dataset divides by 255 as if nothing had been normalised.
    """
    found = image[..., ::-1].astype(np.float32)
    found -= np.array([0.485, 0.456, 0.406], np.float32) * 255
    found *= np.reciprocal(np.array([0.229, 0.224, 0.225], np.float32) * 255)
    found = found.astype("float32") / 255
    return found.transpose(2, 0, 1)


def test_leejunhyuns_input_is_what_its_loader_computes(tmp_path: Path) -> None:
    path = write(tmp_path, "U_Net-150-0.0002-70-0.4000.pkl", Architecture.U_NET)
    for height, width in ((120, 160), (300, 280), (96, 96)):
        image = photo(height, width)
        loaded = load_checkpoint(path, image_sizes=lambda image=image: [image.shape[:2]])
        expected = leejunhyun_by_hand(image)
        assert loaded.preprocess.size == expected.shape[1:]
        np.testing.assert_allclose(loaded.preprocess.apply(image), expected, atol=1e-6)


@pytest.mark.parametrize("arch", [Architecture.UNET_PLUS_PLUS, Architecture.U_NET_BILINEAR])
def test_nested_unets_input_is_what_its_dataset_computes(
    arch: Architecture, tmp_path: Path
) -> None:
    loaded = load_checkpoint(write(tmp_path, "model.pth", arch, nested=True))
    image = photo(96, 96)
    found = loaded.preprocess.apply(image)
    np.testing.assert_allclose(found, nested_by_hand(image), rtol=1e-5, atol=1e-8)
    assert np.abs(found).max() < 0.02, "divided by 255 twice"


# --- which project -----------------------------------------------------------------------------


@pytest.mark.parametrize("arch", SHARED)
def test_keys_of_two_projects_are_told_apart_by_the_files_suffix(
    arch: Architecture, tmp_path: Path
) -> None:
    zoo = load_checkpoint(write(tmp_path, "r2unet_1_dsb2018Cell_21.pth", arch))
    assert zoo.preprocess == Preprocess()
    assert zoo.logits is False
    assert zoo.recurrence == (2 if arch.recurrent else None)
    assert "UNET-ZOO's, of the published models, told by the suffix .pth" in zoo.contract_origin
    assert "--preprocess leejunhyun" in zoo.contract_origin
    assert ("--recurrence 3" in zoo.contract_origin) is arch.recurrent
    other = load_checkpoint(write(tmp_path, "x.pkl", arch), image_sizes=lambda: [(30, 40)])
    assert "told by the suffix .pkl" in other.contract_origin
    assert other.preprocess.size == (192, 256)
    assert other.preprocess.channel_order == "RGB"
    assert other.logits is True
    assert other.recurrence == (3 if arch.recurrent else None)
    assert other.detected.family is zoo.detected.family is Family.SHARED


@pytest.mark.parametrize("arch", OF_LEEJUNHYUN)
@pytest.mark.parametrize("name", ["x.pkl", "x.pth"])
def test_networks_of_leejunhyun_alone_have_its_conventions(
    arch: Architecture, name: str, tmp_path: Path
) -> None:
    loaded = load_checkpoint(write(tmp_path, name, arch), image_sizes=lambda: [(64, 64)])
    assert loaded.detected.family is Family.IMAGE_SEGMENTATION
    assert loaded.logits is True
    assert loaded.recurrence == (3 if arch.recurrent else None)
    assert "LeeJunHyun" in loaded.contract_origin


@pytest.mark.parametrize("arch", list(Architecture))
def test_what_a_file_states_wins_over_its_family(arch: Architecture, tmp_path: Path) -> None:
    stored = Preprocess(size=(48, 64), channel_order="RGB", mean=(0.1, 0.2, 0.3))
    network = build_network(arch, width=2, recurrence=5)
    save_checkpoint(network, tmp_path / "own.safetensors", preprocess=stored)
    loaded = load_checkpoint(tmp_path / "own.safetensors")
    assert loaded.arch is arch
    assert loaded.preprocess == stored
    assert loaded.contract_origin == "stored with the weights"
    assert loaded.recurrence == (5 if arch.recurrent else None)


@pytest.mark.parametrize("arch", [*OF_LEEJUNHYUN, *SHARED])
def test_what_the_caller_states_wins_over_the_family(arch: Architecture, tmp_path: Path) -> None:
    given = Preprocess(size=(32, 48))
    recurrence = 4 if arch.recurrent else None
    path = write(tmp_path, "x.pkl", arch)
    loaded = load_checkpoint(path, preprocess=given, recurrence=recurrence, logits=False)
    assert loaded.preprocess == given
    assert loaded.contract_origin == "as given"
    assert loaded.recurrence == recurrence
    assert loaded.logits is False


def test_flags_of_another_network_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "x.pth", GATED)
    with pytest.raises(UsageError, match="--recurrence is R2U-Net's t; attention U-Net has no"):
        load_checkpoint(path, recurrence=2)
    with pytest.raises(UsageError, match=r"--head chooses a UNet\+\+ head; attention U-Net has"):
        load_checkpoint(path, head=4)


# --- aspect ------------------------------------------------------------------------------------


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_the_height_keeps_the_aspect_to_within_a_multiple_of_16(height: int, width: int) -> None:
    found = height_at(256, (height, width))
    assert found % 16 == 0
    assert found <= 256 * height / width < found + 17


def test_images_of_one_height_are_enough(tmp_path: Path) -> None:
    """Aspects that round to the same height: 96/128 and 97/128 both give 192."""
    path = write(tmp_path, "x.pkl", Architecture.U_NET)
    loaded = load_checkpoint(path, image_sizes=lambda: [(96, 128), (97, 128), (480, 640)])
    assert loaded.preprocess.size == (192, 256)
    assert "by the images' aspect" in loaded.contract_origin


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (None, "no images are given here; expected one height"),
        ([], "no images are given here"),
        ([(64, 64), (64, 64), (48, 64)], r"the images give 256x256 \(2\), 192x256 \(1\); expected"),
        ([(16 * i, 256) for i in range(1, 7)], r"\(1\) and 3 sizes more; expected one height"),
        ([(1, 100)], r"the images give 0x256 \(1\)"),
    ],
)
def test_without_one_height_the_contract_is_asked_for_and_shown(
    sizes: list[tuple[int, int]] | None, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, "x.pkl", Architecture.U_NET)
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(path, image_sizes=None if sizes is None else lambda: sizes)
    text = str(caught.value)
    assert str(path) in text
    assert "--preprocess FILE.json" in text
    shown = Preprocess.from_json(text[text.index("{") :], source="the message")
    assert load_checkpoint(path, preprocess=shown).preprocess == shown
    assert shown.channel_order == "RGB"
    assert shown.antialias


# --- config.yml --------------------------------------------------------------------------------


def beside(folder: Path, **changes: object) -> Path:
    """pytorch-nested-unet's folder: ``model.pth`` and ``config.yml``."""
    config = CONFIG_OF_ITS_TRAINING | changes
    (folder / CONFIG).write_text(yaml.dump(config))
    return write(folder, "model.pth", Architecture.UNET_PLUS_PLUS, nested=True)


def test_the_size_is_that_of_config_yml(tmp_path: Path) -> None:
    loaded = load_checkpoint(beside(tmp_path, input_h=192, input_w=256))
    assert loaded.preprocess.size == (192, 256)
    assert loaded.contract_origin == "pytorch-nested-unet's, the size that config.yml states"
    assert loaded.logits is True


def test_without_config_yml_the_default_is_said(tmp_path: Path) -> None:
    path = write(tmp_path, "model.pth", Architecture.UNET_PLUS_PLUS, nested=True)
    loaded = load_checkpoint(path)
    assert loaded.preprocess.size == (96, 96)
    assert "no config.yml beside the weights" in loaded.contract_origin


def test_deep_supervision_of_its_unet_means_nothing(tmp_path: Path) -> None:
    """Its ``UNet`` takes the setting and has one head whatever it says."""
    config = CONFIG_OF_ITS_TRAINING | {"arch": "UNet", "deep_supervision": True}
    (tmp_path / CONFIG).write_text(yaml.dump(config))
    path = write(tmp_path, "model.pth", Architecture.U_NET_BILINEAR, nested=True)
    assert load_checkpoint(path).preprocess.size == (96, 96)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "UNet"}, "states arch 'UNet', and the weights beside it have 'NestedUNet'"),
        ({"num_classes": 3}, "states num_classes 3, and the weights beside it have 1"),
        ({"input_channels": 1}, "states input_channels 1, and the weights beside it have 3"),
        ({"deep_supervision": True}, "states deep_supervision True, and .* have False"),
        ({"input_h": 100}, "config.yml, input_h and input_w: input size 100x96 .*112x96|96x96"),
        ({"input_w": "wide"}, "input_h and input_w: .*not a height and a width"),
        ({"input_h": None}, "input_h and input_w: .*not a height and a width"),
        ({"input_w": 10**9}, "is beyond 4096"),
    ],
)
def test_a_config_that_contradicts_the_weights_or_states_no_size(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = beside(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(path)
    assert str(tmp_path / CONFIG) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert load_checkpoint(path, preprocess=Preprocess()).preprocess == Preprocess()


@pytest.mark.parametrize(
    "text",
    [
        "- 1\n- 2\n",
        "input_h: !!python/object/apply:os.system ['true']\n",
        "a: &a [1]\nb: [*a, *a]\n",
        "input_h: 96\ninput_h: 64\n",
        "[" * 10_000,
        "\x00",
        "",
    ],
)
def test_a_config_that_is_none(text: str, tmp_path: Path) -> None:
    path = beside(tmp_path)
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(InputError, match=r"config\.yml") as caught:
        load_checkpoint(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_config_is_not_read_for_weights_that_state_their_contract(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text("[")
    network = build_network(Architecture.UNET_PLUS_PLUS, width=2)
    save_checkpoint(network, tmp_path / "own.safetensors", preprocess=Preprocess())
    assert load_checkpoint(tmp_path / "own.safetensors").preprocess == Preprocess()


def test_the_message_shows_a_contract_in_json_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "x.pkl", Architecture.U_NET)
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert json.loads(text[text.index("{") :])["size"] == [192, 256]
