"""Laws of the output contract: what channels mean, and how probabilities become classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.onnx_model.file import output_entries, output_in, set_metadata
from segdeploy.deploy.system.errors import InputError

FOUR = OutputContract(activation=Activation.SOFTMAX, classes=("bg", "a", "b", "c"))
LABELS = OutputContract(classes=("a", "b"))

shares = arrays(np.float32, (2, 4, 3, 3), elements=st.floats(0, 1, width=32))


@given(shares)
def test_a_pixel_of_a_softmax_belongs_to_exactly_one_class(probability: Any) -> None:
    assert (FOUR.members(probability).sum(axis=1) == 1).all()
    chosen = np.take_along_axis(probability, FOUR.label_map(probability)[:, None], axis=1)
    assert (chosen[:, 0] == probability.max(axis=1)).all()


@given(shares)
def test_labels_of_their_own_are_decided_one_by_one(probability: Any) -> None:
    pair = probability[:, :2]
    for channel in range(2):
        alone = OutputContract(classes=("x",)).label_map(pair[:, channel : channel + 1])
        assert (LABELS.members(pair)[:, channel] == alone.astype(bool)).all()


def test_overlapping_labels_have_no_label_map() -> None:
    with pytest.raises(InputError, match="may overlap"):
        LABELS.label_map(np.zeros((1, 2, 1, 1), np.float32))


@pytest.mark.parametrize(
    "contract",
    [
        OutputContract(),
        OutputContract(classes=("foreground",)),
        LABELS,
        FOUR,
        OutputContract(
            activation=Activation.SOFTMAX,
            classes=("bg", "cell wall"),
            colours=((0, 0, 0), (255, 0, 9)),
            ignored_index=255,
        ),
    ],
)
def test_it_survives_its_file(contract: OutputContract) -> None:
    assert OutputContract.from_json(contract.to_json(), source="it") == contract
    model = onnx.ModelProto()
    set_metadata(model, output_entries(contract))
    assert output_in(model, source="it") == contract


def test_one_label_adds_nothing_to_a_file() -> None:
    assert output_entries(OutputContract()) == {"classes": "nucleus"}


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"classes": ()}, "0 classes"),
        ({"classes": ("a",), "activation": Activation.SOFTMAX}, "expected 2 to 255"),
        ({"classes": ("a", "a")}, "stands twice"),
        ({"classes": ("a,b",)}, "no comma"),
        ({"classes": (" a",)}, "no space at its ends"),
        ({"classes": ("",)}, "1 to 80 characters"),
        ({"classes": ("a", "b"), "colours": ((0, 0, 0),)}, "1 colours for 2 classes"),
        ({"colours": ((0, 0, 256),)}, "0 to 255 each"),
        ({"ignored_index": 256}, "0 to 255"),
        ({"ignored_index": True}, "0 to 255"),
    ],
)
def test_what_no_network_has_is_refused(stated: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        OutputContract(**stated)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"classes": "a"}', '{"class": ["a"]}', '{"activation": "tanh"}']
)
def test_a_broken_file_is_named(text: str) -> None:
    with pytest.raises(InputError, match=r"net\.onnx"):
        OutputContract.from_json(text, source="net.onnx")


def test_every_class_has_a_colour_of_its_own() -> None:
    many = tuple(f"class {index}" for index in range(255))
    for activation in Activation:
        palette = OutputContract(activation=activation, classes=many).palette
        assert len({*palette}) == len(palette) == len(many)


def test_colours_are_those_stated_else_pascal_vocs() -> None:
    assert FOUR.palette == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert OutputContract(classes=("a",), colours=((1, 2, 3),)).palette == ((1, 2, 3),)
