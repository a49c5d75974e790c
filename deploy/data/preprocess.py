"""The input contract: how an image becomes the network's input tensor, and a mask its truth.

The contract travels with the checkpoint and with every ONNX file; nothing guesses it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from segdeploy.calibration.json_record import record_of
from segdeploy.calibration.json_text import parse_json
from segdeploy.deploy.data.placement import (
    ANCHORS,
    ASPECTS,
    CENTRE,
    CONSTANT,
    PADS,
    SHORTER,
    STRETCH,
    Placement,
)
from segdeploy.deploy.data.resizing import ANTIALIASED, INTERPOLATIONS, Level, Size, resize
from segdeploy.deploy.system.errors import InputError, one_line

SIZE_MULTIPLE = 16
"""Of the published networks: they pool four times, so height and width must divide by 2**4."""

MAX_SIDE = 4096
"""Height and width at most: a file that states more would take gigabytes for one image."""

MAX_BANDS = 256
"""Channels at most."""

MASK_THRESHOLD = 125
"""A resized grey mask is foreground where it is at least this (the published evaluation)."""

GREY = "GREY"
RGB = "RGB"
BGR = "BGR"
BANDS = "BANDS"
CHANNELS = {GREY: 1, RGB: 3, BGR: 3, BANDS: None}
"""How many a channel order has; as many ``BANDS`` as there are values of ``mean``."""

NO_RESIZE = "none"

GEOMETRY = (
    "interpolation",
    "resize_to",
    "aspect",
    "anchor",
    "pad",
    "pad_value",
    "source_pages",
)
"""Keys of what is done before an image has the network's size, which callers do themselves."""

WHITE = 255
"""What the top of ``source_range`` becomes before ``scale``: units are those of 8-bit images."""

LEVELS: dict[int, type[np.uint8] | type[np.uint16]] = {8: np.uint8, 16: np.uint16}
"""The type of a pixel by its bits."""

Number = Annotated[int | float, Meta(description="a number")]
"""A whole one stays whole: a file states the contract in the digits it was given."""

Pixels = NDArray[np.unsignedinteger[Any]]
"""An image as decoded, (H, W, channels), uint8 or uint16: RGB whatever the network's order is."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From an image (H, W, channels) of whole levels to float32 (channels, height, width).

    Resize, pad or crop to ``size``, bring levels to 0 to 255 where ``source_range`` says so,
    reorder channels, multiply by ``scale``, subtract ``mean``, divide by ``std``. The defaults
    are the contract of the published models.

    Example:
        A pixel of 255 becomes (255 * 1/255 - 0.5) / 0.5 = 1.0, a pixel of 0 becomes -1.0.
        Sixteen-bit levels up to 4095, as a 12-bit camera writes them, one channel:

        >>> camera = Preprocess(
        ...     size=(1, 1), channel_order="GREY", mean=(0.5,), std=(0.5,), source_bits=16,
        ...     source_range=(0, 4095)
        ... )
        >>> camera.apply(np.full((1, 1, 1), 4095, np.uint16)).ravel().tolist()
        [1.0]

    Attributes:
        size: height and width of the network's input.
        channel_order: "RGB", "BGR", "GREY" (one channel; a colour image by ITU-R 601's weights)
            or "BANDS" (all channels of the file in its order, as many as ``mean`` has).
        interpolation: one of ``resizing.INTERPOLATIONS``, or "none": nothing is resized.
        antialias: as ``resizing.resize`` describes it.
        scale: of levels, first.
        mean: subtracted then, one for each channel in the network's order.
        std: divided by at last, likewise.
        source_bits: of a channel in image files, 8 or 16; others are refused.
        source_range: levels that become 0 and 255, those beyond them as well; ``None`` takes all
            levels of the bits, which for 8 changes nothing.
        source_pages: of files that hold several, from 0; one, or one for each band.
        resize_to: height and width that resizing aims at, before padding and cropping; ``None``
            takes ``size``.
        aspect: one of ``placement.ASPECTS``.
        anchor: one of ``placement.ANCHORS``.
        pad: one of ``placement.PADS``.
        pad_value: level of what is padded with a constant.

    Raises:
        InputError: a size that no image has, an unknown word, values that contradict each other,
            or a scale, mean or std that is not a number.
    """

    size: Size = (96, 96)
    channel_order: str = BGR
    interpolation: str = "bilinear"
    antialias: bool = False
    scale: Number = 1.0 / 255.0
    mean: tuple[Number, ...] = (0.5, 0.5, 0.5)
    std: tuple[Number, ...] = (0.5, 0.5, 0.5)
    source_bits: int = 8
    source_range: tuple[Number, Number] | None = None
    source_pages: tuple[int, ...] | None = None
    resize_to: Size | None = None
    aspect: str = STRETCH
    anchor: str = CENTRE
    pad: str = CONSTANT
    pad_value: int = 0

    def __post_init__(self) -> None:
        require_valid_size(self.size)
        for name, words in _WORDS.items():
            _require_word(name, getattr(self, name), words)
        if not isinstance(self.antialias, bool):
            raise InputError(
                f"antialias is {one_line(repr(self.antialias), limit=60)}; expected true or false"
            )
        if self.antialias and self.interpolation not in ANTIALIASED:
            raise InputError(
                f"antialias is true for {self.interpolation}; only {', '.join(ANTIALIASED)} have it"
            )
        self._require_channels()
        _require_single_precision((self.scale, *self.mean, *self.std))
        if not all(np.float32(value) > 0 for value in (self.scale, *self.std)):
            raise InputError(
                f"scale is {self.scale} and std {self.std}; expected scale and std above zero"
            )
        self._require_source()
        self._require_resize()

    def _require_channels(self) -> None:
        if len(self.mean) != len(self.std) or not 1 <= len(self.mean) <= MAX_BANDS:
            raise InputError(
                f"mean holds {len(self.mean)} values and std {len(self.std)}; they need one for "
                f"each channel, {MAX_BANDS} at most"
            )
        expected = CHANNELS[self.channel_order]
        if expected not in (None, len(self.mean)):
            raise InputError(
                f"mean holds {len(self.mean)} values and std {len(self.std)}; channel_order "
                f"{self.channel_order} needs {_count(expected)} each. Other channels are BANDS"
            )

    def _require_source(self) -> None:
        if type(self.source_bits) is not int or self.source_bits not in LEVELS:
            raise InputError(
                f"source_bits is {one_line(repr(self.source_bits), limit=60)}; expected 8 or 16"
            )
        if self.source_range is not None:
            top = self.levels - 1
            if len(self.source_range) != 2 or not all(map(_is_number, self.source_range)):
                raise InputError(
                    f"source_range is {one_line(self.source_range, limit=60)}; expected two levels"
                )
            low, high = self.source_range
            if not 0 <= low < high <= top:
                raise InputError(
                    f"source_range is {low} to {high}; expected levels of {self.source_bits} bits, "
                    f"0 to {top}, the lower one first"
                )
            if (low, high) == (0, top):
                object.__setattr__(self, "source_range", None)  # one form of one contract
        pages = self.source_pages
        if pages is not None and (
            len(pages) not in {1, self.channels if self.channel_order == BANDS else 1}
            or any(type(page) is not int or page < 0 for page in pages)
        ):
            raise InputError(
                f"source_pages is {one_line(pages, limit=60)}; expected one page, counted from 0, "
                "or with BANDS one for each of them"
            )

    def _require_resize(self) -> None:
        if self.resize_to is not None:
            require_valid_size(self.resize_to, what="resize_to")
        if self.interpolation == NO_RESIZE and (
            self.resize_to is not None or self.aspect != STRETCH
        ):
            raise InputError(
                "interpolation is none, which resizes nothing, but resize_to or aspect is stated; "
                "leave them out, or state an interpolation"
            )
        if type(self.pad_value) is not int or not 0 <= self.pad_value < self.levels:
            raise InputError(
                f"pad_value is {one_line(repr(self.pad_value), limit=60)}; expected a level of "
                f"{self.source_bits} bits, 0 to {self.levels - 1}"
            )

    @property
    def channels(self) -> int:
        """Of the network's input."""
        return len(self.mean)

    @property
    def levels(self) -> int:
        """How many a channel of an image file has."""
        return 1 << self.source_bits

    @property
    def stretches(self) -> bool:
        """Whether every image fills the input whole and exactly: nothing is padded or cropped."""
        return (
            self.aspect == STRETCH
            and self.interpolation != NO_RESIZE
            and self.resize_to in (None, self.size)
        )

    @property
    def may_crop(self) -> bool:
        """Whether there are images of which a part is not in the input."""
        if self.interpolation == NO_RESIZE or self.aspect == SHORTER:
            return True
        target = self.resize_to or self.size
        return any(has > whole for has, whole in zip(target, self.size, strict=True))

    @property
    def plain_resize(self) -> bool:
        """Whether images are stretched bilinearly without antialiasing, as the published are."""
        return self.stretches and self.interpolation == "bilinear" and not self.antialias

    @property
    def words(self) -> str:
        """The contract in a few words.

        Example:
            >>> Preprocess().words
            '96x96 BGR, bilinear, x / 255, mean 0.5 0.5 0.5, std 0.5 0.5 0.5'
            >>> Preprocess(aspect="longer", source_bits=16, source_range=(0, 4095)).words
            '96x96 BGR, bilinear, longer side, padded with 0, centre, 16 bits, 0 to 4095 as 0 to \
255, x / 255, mean 0.5 0.5 0.5, std 0.5 0.5 0.5'
        """
        parts = [f"{self.size[0]}x{self.size[1]} {self.channel_order}"]
        if self.interpolation == NO_RESIZE:
            parts += ["not resized"]
        else:
            parts += [self.interpolation + (" antialiased" if self.antialias else "")]
            parts += [f"to {self.resize_to[0]}x{self.resize_to[1]}"] if self.resize_to else []
            parts += [f"{self.aspect} side"] if self.aspect != STRETCH else []
        if not self.stretches:
            value = f"with {self.pad_value}" if self.pad == CONSTANT else f"by {self.pad}"
            parts += ["cropped" if self.aspect == SHORTER else f"padded {value}", self.anchor]
        if not self.eight_bit:
            low, high = self.source_range or (0, self.levels - 1)
            parts += [f"{self.source_bits} bits", f"{low:g} to {high:g} as 0 to {WHITE}"]
        if self.source_pages is not None:
            parts += [f"page {' '.join(map(str, self.source_pages))}"]
        mean, std = (" ".join(f"{value:.4g}" for value in v) for v in (self.mean, self.std))
        return ", ".join([*parts, f"x / {1 / self.scale:.4g}", f"mean {mean}", f"std {std}"])

    @property
    def eight_bit(self) -> bool:
        """Whether an image's own 8-bit levels are what ``scale`` multiplies."""
        return self.source_bits == 8 and self.source_range is None

    @property
    def departures(self) -> dict[str, object]:
        """What makes it more than the contract of 8-bit colour, stretched bilinearly, by key.

        Whatever cannot express one of them refuses the contract with ``refuse_departures``.

        Example:
            >>> Preprocess(antialias=True).departures
            {}
            >>> Preprocess(aspect="longer", interpolation="area").departures
            {'interpolation': 'area', 'aspect': 'longer'}
        """
        plain = {"channel_order": BGR if self.channel_order == RGB else self.channel_order}
        found = {name: plain.get(name, getattr(self, name)) for name in (*_WORDS, *_ADDED)}
        return {
            name: value
            for name, value in found.items()
            if value != Preprocess.__dataclass_fields__[name].default
        }

    def refuse_departures(self, *, what: str, but: Collection[str] = (), advice: str) -> None:
        """Refuse a contract that states what something cannot express.

        Args:
            what: what takes another contract, as the subject of "cannot express".
            but: keys that it can express.
            advice: what to do instead.

        Raises:
            InputError: naming the keys and their values.
        """
        found = [f"{name} {value}" for name, value in self.departures.items() if name not in but]
        if found:
            raise InputError(
                f"{what} cannot express the input contract's {', '.join(found)}; {advice}"
            )

    def of_source(
        self, levels: tuple[Number, Number] | None = None, pages: tuple[int, ...] | None = None
    ) -> Preprocess:
        """The contract for files of 16 bits or of several pages.

        Example:
            >>> Preprocess().of_source((0, 4095), (2,)).words
            '96x96 BGR, bilinear, 16 bits, 0 to 4095 as 0 to 255, page 2, x / 255, mean 0.5 0.5 \
0.5, std 0.5 0.5 0.5'

        Args:
            levels: 16-bit levels that become 0 and 255; ``None`` keeps what the contract says.
            pages: which of several; likewise.

        Raises:
            InputError: levels or pages that no contract may have.
        """
        found = self if levels is None else replace(self, source_bits=16, source_range=levels)
        return found if pages is None else replace(found, source_pages=pages)

    def placement(self, image: Size) -> Placement:
        """Where an image of a size (height, width) lies in the input."""
        return Placement.of(
            image,
            self.size,
            target=None if self.interpolation == NO_RESIZE else self.resize_to or self.size,
            aspect=self.aspect,
            anchor=self.anchor,
        )

    def apply(self, image: Pixels) -> NDArray[np.float32]:
        """Turn one image (H, W, channels) into the input (channels, height, width) float32."""
        return self.normalise(self.resized(image))

    def resized(self, image: NDArray[Level]) -> NDArray[Level]:
        """One image (H, W, channels) at the contract's size, of its type.

        Raises:
            InputError: other channels or bits than the contract's.
        """
        self._require_pixels(image)
        place = self.placement(image.shape[:2])
        scaled = self.rescaled(image, place.scaled)
        return place.framed(scaled, pad=self.pad, value=self.pad_value)

    def pixels(self, image: Pixels) -> NDArray[np.uint8]:
        """One image (H, W, channels) as a model takes it that normalises by itself.

        Raises:
            InputError: as ``resized``, or the contract's images have more than 8 bits.
        """
        if not self.eight_bit:
            raise InputError(
                f"the model takes 8-bit pixels as they are, and the input contract takes "
                f"{self.source_bits} bits in a range; give the model that takes normalised tensors"
            )
        return self.resized(image).astype(np.uint8, copy=False)

    def picture(self, image: Pixels) -> NDArray[np.uint8]:
        """One image (H, W, channels) as people look at it: RGB uint8 (H, W, 3).

        Of bands the first three, or the first alone as grey.
        """
        if image.dtype == np.uint8 and image.shape[2] == 3 and self.eight_bit:
            return image.astype(np.uint8, copy=False)
        few = image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)
        return np.rint(self._eight_bit(few)).astype(np.uint8)

    def rescaled(self, image: NDArray[Level], size: Size) -> NDArray[Level]:
        """One image (H, W, channels) at another size, by the contract's filter.

        Bilinear where the contract resizes nothing, but something else must.
        """
        kept = "bilinear" if self.interpolation == NO_RESIZE else self.interpolation
        return resize(image, size, interpolation=kept, antialias=self.antialias)

    def normalise(self, image: Pixels) -> NDArray[np.float32]:
        """Levels, channel order, scale, mean and std on an image that has the right size."""
        ordered = image[..., ::-1] if self.channel_order == BGR else image
        mean = np.asarray(self.mean, np.float32)
        std = np.asarray(self.std, np.float32)
        normalised = (self._eight_bit(ordered) * np.float32(self.scale) - mean) / std
        return np.ascontiguousarray(normalised.transpose(2, 0, 1))

    def _eight_bit(self, image: Pixels) -> NDArray[np.float32]:
        """Levels in the units of 8-bit images: real numbers from 0 to 255."""
        values = image.astype(np.float32)
        if self.eight_bit:
            return values
        low, high = (np.float32(end) for end in self.source_range or (0, self.levels - 1))
        stretched: NDArray[np.float32] = (values.clip(low, high) - low) * (
            np.float32(WHITE) / (high - low)
        )
        return stretched

    def _require_pixels(self, image: Pixels) -> None:
        if image.ndim != 3 or image.shape[2] != self.channels or image.dtype != self.level_type:
            raise InputError(
                f"an image is {image.dtype} {image.shape}; the input contract takes (height, "
                f"width, {self.channels}) of {self.source_bits} bits ({self.channel_order})"
            )

    @property
    def level_type(self) -> np.dtype[Any]:
        """Type of a channel in image files."""
        return np.dtype(LEVELS[self.source_bits])

    def apply_mask(self, mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Turn one grey mask (H, W) uint8 into the boolean truth (height, width).

        Resized bilinearly without antialiasing whatever filter the image's contract has, then
        thresholded at 125: the published metric is defined on exactly this truth. Padded pixels
        are background, and do not count (``counted``).
        """
        place = self.placement(mask.shape)
        truth: NDArray[np.bool_] = resize(mask[..., None], place.scaled)[..., 0] >= MASK_THRESHOLD
        return place.framed(truth)

    def apply_labels(self, labels: NDArray[np.uint8], *, padding: int = 0) -> NDArray[np.uint8]:
        """Turn a map of class indices (H, W) into the truth (height, width).

        Args:
            labels: one class for each pixel; never blended: the nearest pixel's, by its centre.
            padding: of padded pixels, which do not count (``counted``).
        """
        place = self.placement(labels.shape)
        near = resize(labels[..., None], place.scaled, interpolation="nearest-exact")[..., 0]
        return place.framed(near, value=padding)

    def counted(self, image: Size) -> NDArray[np.bool_] | None:
        """The pixels of the input that show an image of a size: bool (height, width).

        ``None`` where nothing is padded.
        """
        place = self.placement(image)
        return place.inside() if place.pads else None

    def to_json(self) -> str:
        """The contract as one line of JSON, the form stored in model metadata.

        What the published models have no use for stands there only where it says something.
        """
        stated = asdict(self)
        for name, default in _ADDED.items():
            if stated[name] == default:
                del stated[name]
        return json.dumps(stated, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, *, source: str) -> Preprocess:
        """Read a contract back.

        Args:
            text: what ``to_json`` wrote, or a hand-written file with the same keys.
            source: where the text came from, for the error message.

        Raises:
            InputError: not JSON, unknown or missing keys, or values out of range.
        """
        try:
            value = parse_json(text)
            whole = {**_ADDED, **value} if isinstance(value, dict) else value
            return record_of(whole, cls, complete=True)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error
        except ValueError as error:
            raise InputError(
                f"{source} does not hold a preprocessing contract ({one_line(error)})"
            ) from error


_WORDS: dict[str, tuple[str, ...]] = {
    "channel_order": tuple(CHANNELS),
    "interpolation": (*INTERPOLATIONS, NO_RESIZE),
    "aspect": ASPECTS,
    "anchor": ANCHORS,
    "pad": PADS,
}

_FIRST = frozenset({"size", "channel_order", "interpolation", "antialias", "scale", "mean", "std"})
"""Keys that every contract states."""

_ADDED: dict[str, Any] = {
    field.name: field.default for field in fields(Preprocess) if field.name not in _FIRST
}
"""Keys that may be left out, with what that means."""


def _require_word(name: str, found: object, words: tuple[str, ...]) -> None:
    if found not in words:
        raise InputError(
            f"{name} is {one_line(repr(found), limit=60)}; expected one of {', '.join(words)}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(channels: int | None) -> str:
    return "one value" if channels == 1 else "three values"


def _require_single_precision(values: Iterable[float]) -> None:
    """Refuse what is no finite number in the arithmetic of ``normalise``.

    Raises:
        InputError: naming the value.
    """
    for value in values:
        if isinstance(value, bool) or not abs(value) <= float(np.finfo(np.float32).max):
            raise InputError(
                f"scale, mean or std is {one_line(value, limit=40)}; expected finite numbers"
            )


def require_valid_size(size: Size, *, what: str = "input size") -> None:
    """Refuse a (height, width) that no input may have.

    Raises:
        InputError: naming it.
    """
    if len(size) != 2 or not all(type(side) is int for side in size):
        raise InputError(
            f"{what} {one_line(size, limit=60)} is not a height and a width in whole pixels"
        )
    if max(size) > MAX_SIDE:
        raise InputError(
            f"{what} {size[0]}x{size[1]} (height x width) is beyond {MAX_SIDE}; larger images "
            "are cut into tiles (predict --fit tile)"
        )
    if min(size) < 1:
        raise InputError(
            f"{what} {size[0]}x{size[1]} (height x width) holds no pixel; expected 1 or more each"
        )


def require_multiple(size: Size, multiple: int, *, network: str) -> None:
    """Refuse a (height, width) that a network cannot pool and bring back.

    Args:
        size: of its input.
        multiple: what height and width must divide by.
        network: what to call it.

    Raises:
        InputError: naming the nearest valid size.
    """
    if all(side % multiple == 0 for side in size):
        return
    nearest = tuple(max(multiple, round(side / multiple) * multiple) for side in size)
    raise InputError(
        f"input size {size[0]}x{size[1]} (height x width) is not a multiple of {multiple}, which "
        f"{network} needs; the nearest valid size is {nearest[0]}x{nearest[1]}"
    )
