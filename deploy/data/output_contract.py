"""The output contract: what a network's channels mean, and how they become classes.

The sister of the input contract (``deploy.data.preprocess``): it travels with the checkpoint and
with every model file, and nothing guesses it.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.calibration.json_record import record_of
from segdeploy.calibration.json_text import parse_json
from segdeploy.deploy.system.errors import InputError, one_line

FOREGROUND_PROBABILITY = 0.5
"""A pixel belongs to a label of its own where its probability is at least this."""

MOST_CLASSES = 255
"""A label map is 8 bits a pixel, and one value is left for pixels that count nowhere."""

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255 each."""


class Activation(str, Enum):
    """What turns a network's last values into probabilities.

    Attributes:
        SIGMOID: each channel is a label of its own; labels may overlap.
        SOFTMAX: the channels exclude each other and add up to 1 at every pixel.
    """

    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"


@dataclass(frozen=True, kw_only=True)
class OutputContract:
    """From float32 probabilities (N, channels, h, w) to classes.

    The default is that of the published models: one label, and a pixel belongs to it where its
    probability is at least 0.5. With Softmax, the first class is usually the background.

    Example:
        >>> four = OutputContract(activation=Activation.SOFTMAX, classes=("bg", "a", "b", "c"))
        >>> probability = np.array([0.1, 0.2, 0.6, 0.1], np.float32).reshape(1, 4, 1, 1)
        >>> four.label_map(probability)
        array([[[2]]], dtype=uint8)

    Attributes:
        activation: how the channels go together.
        classes: name of each channel, in order.
        colours: of each class in pictures and palettes; ``None`` takes ours.
        ignored_index: value of a label map whose pixels count nowhere; ``None`` where all count.

    Raises:
        InputError: no class or too many, names that are empty, equal or hold a comma, colours of
            another number or out of range, a Softmax of one channel, or an ignored index that no
            label map has.
    """

    activation: Activation = Activation.SIGMOID
    classes: tuple[str, ...] = ("nucleus",)
    colours: tuple[Colour, ...] | None = None
    ignored_index: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "activation", _activation(self.activation))
        object.__setattr__(self, "classes", tuple(self.classes))
        count = len(self.classes)
        least = 2 if self.exclusive else 1
        if not least <= count <= MOST_CLASSES:
            raise InputError(
                f"{count} classes of {self.activation.value}; expected {least} to {MOST_CLASSES}"
            )
        for name in self.classes:
            if not re.fullmatch(r"[^\s,](?:[^,\x00-\x1f\x7f]{0,78}[^\s,])?", name):
                raise InputError(
                    f"class name {one_line(repr(name), limit=60)}: expected 1 to 80 characters, "
                    "no comma, no space at its ends"
                )
        if len(set(self.classes)) != count:
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise InputError(f"class name {twice!r} stands twice; expected one for each class")
        if self.colours is not None:
            if len(self.colours) != count:
                raise InputError(
                    f"{len(self.colours)} colours for {count} classes; expected one for each"
                )
            for colour in self.colours:
                if len(colour) != 3 or not all(
                    type(part) is int and 0 <= part <= 255 for part in colour
                ):
                    raise InputError(
                        f"colour {one_line(colour, limit=60)}: expected red, green and blue, 0 to "
                        "255 each"
                    )
        ignored = self.ignored_index
        if ignored is not None and not (type(ignored) is int and 0 <= ignored <= 255):
            raise InputError(
                f"ignored index {one_line(repr(ignored), limit=40)}: expected 0 to 255"
            )

    @property
    def exclusive(self) -> bool:
        """Whether a pixel has exactly one class."""
        return self.activation is Activation.SOFTMAX

    @property
    def channels(self) -> int:
        """Of the network's output."""
        return len(self.classes)

    @property
    def binary(self) -> bool:
        """One label: foreground or not, the form of the published models."""
        return not self.exclusive and len(self.classes) == 1

    @property
    def overlapping(self) -> bool:
        """Whether a pixel may have several classes, so that no single mask says everything."""
        return not self.exclusive and len(self.classes) > 1

    @property
    def palette(self) -> tuple[Colour, ...]:
        """The colour of each class: those stated, else PASCAL VOC's.

        Of classes that exclude each other the first is black, as a background is; a label of its
        own never is.

        Example:
            >>> OutputContract(classes=("a", "b")).palette
            ((128, 0, 0), (0, 128, 0))
        """
        if self.colours is not None:
            return self.colours
        first = 0 if self.exclusive else 1
        return tuple(_voc_colour(first + index) for index in range(self.channels))

    def label_map(self, probability: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
        """The class of each pixel, uint8 (N, h, w): of equals the first.

        One label gives 0 and 1, where its probability is at least 0.5.

        Args:
            probability: (N, channels, h, w).

        Raises:
            InputError: labels that may overlap have no single class; take ``members``.
        """
        if self.exclusive:
            return np.asarray(probability.argmax(axis=1), np.uint8)
        if self.overlapping:
            raise InputError(
                f"the {self.channels} labels may overlap, so a pixel has no single class"
            )
        return np.asarray(probability[:, 0] >= FOREGROUND_PROBABILITY, np.uint8)

    def members(self, probability: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """Which pixels belong to which class, bool (N, channels, h, w).

        Args:
            probability: (N, channels, h, w).
        """
        if self.exclusive:
            labels = np.arange(self.channels).reshape(1, -1, 1, 1)
            return np.asarray(self.label_map(probability)[:, None] == labels)
        return np.asarray(probability >= FOREGROUND_PROBABILITY)

    def to_json(self) -> str:
        """The contract as one line of JSON, the form stored in model metadata."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, *, source: str) -> OutputContract:
        """Read a contract back.

        Args:
            text: what ``to_json`` wrote, or a hand-written file with some of its keys.
            source: where the text came from, for the error message.

        Raises:
            InputError: not JSON, unknown keys, or values out of range.
        """
        try:
            return record_of(parse_json(text), cls)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error
        except ValueError as error:
            raise InputError(
                f"{source} does not hold an output contract ({one_line(error)})"
            ) from error


def _voc_colour(index: int) -> Colour:
    """PASCAL VOC's colour of a class: bits 0, 3, 6 of its index are red's highest, and so on."""
    red, green, blue = (
        sum((index >> (3 * place + channel) & 1) << (7 - place) for place in range(3))
        for channel in range(3)
    )
    return red, green, blue


def _activation(given: object) -> Activation:
    """An activation, also by its word, as in a notebook.

    Raises:
        InputError: no such word.
    """
    known = [each.value for each in Activation]
    if given not in known:
        found = one_line(repr(given), limit=40)
        raise InputError(f"activation is {found}; expected {' or '.join(known)}")
    return Activation(given)
