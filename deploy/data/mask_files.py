"""Mask files: what their values mean, understood where they leave no doubt and refused elsewhere.

Tools store truth as 0 and 255, as 0 and 1, as one number or colour for each object, in the alpha
channel, or as one number or colour for each class. Grey levels are never cut as they come: what
would become another mask is refused with the values that were found.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from segdeploy.deploy.data.image_files import IMAGE_SUFFIXES, image_files
from segdeploy.deploy.data.image_opening import opened_image
from segdeploy.deploy.data.orientation import turned_hint
from segdeploy.deploy.data.output_contract import Colour, OutputContract
from segdeploy.deploy.data.preprocess import MASK_THRESHOLD
from segdeploy.deploy.system.errors import InputError, one_line

WHITE = 255

NEAR = 16
"""Values that close to a mask's brightest are its foreground: JPEG changes them by so much."""

NOISE = 8
"""Values up to this are background where there are more values than ``MOST_EXACT``."""

MOST_EXACT = 32
"""A grey mask of more values has soft edges or went through JPEG."""

RIM_SHARE = 0.04
"""Of the foreground: more pixels between background and foreground, away from edges, are a class
or an object of their own. Of nuclei made smaller, one mask in 2,000 has 3 %.
"""

JPEG_SHARE = 0.02
"""As ``RIM_SHARE``, of JPEG, whose edges have none."""

LEAST_ALIKE = 2
"""Neighbours of the same value that a pixel away from edges has at least."""

CHANCE = 4
"""So few pixels away from edges are chance."""

BLURRED = 40
"""Where JPEG or a soft edge moves values: so far from background and foreground."""

NOISE_STEP = 12
"""By how much JPEG changes neighbours of one value."""

LEAST_NEAR = 4
"""As ``LEAST_ALIKE``, of values that are only near."""

SOFT_SHARE = 0.1
"""As ``RIM_SHARE``, of a mask with soft edges that no JPEG made: a wide blur has some."""

POINTS_SHARE = 0.5
"""Of the foreground: objects of single pixels, which edges could be, are most of it."""

CLEAR_OBJECTS = 8
"""So many numbers, each in one place, are objects; fewer may be classes."""

WHOLE_SHARE = 0.9
"""Of the numbers: those of objects lie in one place each, but for a few that are cut in parts."""

WITNESSES = 64
"""Further masks of a folder that are looked at where one of them leaves open what it means."""

SHOWN_VALUES = 6

COLOUR_SPREAD = 32
"""Red, green and blue further apart than this are a colour; JPEG moves grey by less."""

Values = NDArray[np.unsignedinteger[Any]]
"""Whole numbers (H, W), of the type they need: a large mask is not made eight times as large."""

COUNTED_AT_ONCE = 1 << 20

AROUND = [step for step in product((0, 1, 2), repeat=2) if step != (1, 1)]

EXPECTED = "expected background and one foreground, or a number for each object"

REMEDY = (
    "Say what is foreground: `segdeploy data prepare RAW -o DIR --foreground any`, or the values; "
    "the classes of a network of several are kept with --label-maps"
)

LOW_BITS = {"L;2": 85, "L;4": 17, "L;2I": 85, "L;4I": 17}
"""What Pillow multiplies grey files of 2 and 4 bits by."""


class Reading(str, Enum):
    """What the values of a binary mask were taken for.

    Attributes:
        GREY: foreground from 125 on, with soft edges or without.
        VALUE: background 0 and one other value or colour.
        OBJECTS: 0 and one number or colour for each object.
        ALPHA: foreground is what is not transparent.
        STATED: the values that were said to be foreground.
    """

    GREY = "grey"
    VALUE = "one value beside 0"
    OBJECTS = "one number for each object"
    ALPHA = "alpha channel"
    STATED = "the values that were stated"


@dataclass(frozen=True, kw_only=True)
class BinaryMask:
    """One mask as background and foreground.

    Attributes:
        grey: uint8 (H, W), foreground from 125 on.
        reading: what its values were taken for.
        objects: how many there are, where each has its number.
    """

    grey: NDArray[np.uint8]
    reading: Reading
    objects: int | None = None


@dataclass(frozen=True, kw_only=True)
class Foreground:
    """Which values of masks are foreground; everything else is background.

    Attributes:
        values: lowest and highest of ranges of grey values.
        colours: as 0xRRGGBB; with no values and no colours all but 0 and black.
        alpha: what is not transparent, whatever its value.
    """

    values: tuple[tuple[int, int], ...] = ()
    colours: tuple[int, ...] = ()
    alpha: bool = False

    @classmethod
    def parse(cls, words: Sequence[str]) -> Foreground:
        """From the words of a command line.

        Example:
            >>> Foreground.parse(["100", "125-255", "ff0000"])
            Foreground(values=((100, 100), (125, 255)), colours=(16711680,), alpha=False)

        Args:
            words: ``any`` or ``alpha`` alone, numbers or ranges of them above 0, or colours of
                six hexadecimal digits.

        Raises:
            ValueError: a word that is none of these.
        """
        if list(words) in (["any"], ["alpha"]):
            return cls(alpha=words[0] == "alpha")
        values: list[tuple[int, int]] = []
        colours: list[int] = []
        for word in words:
            if re.fullmatch("#?[0-9a-fA-F]{6}", word):
                colours.append(int(word.removeprefix("#"), 16))
                continue
            found = re.fullmatch("([0-9]{1,10})(?:-([0-9]{1,10}))?", word)
            low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
            if not 0 < low <= high:
                raise ValueError(
                    f"{one_line(repr(word), limit=40)} is neither any, alpha, a number above 0, a "
                    "range such as 125-255 nor a colour such as ff0000"
                )
            values.append((low, high))
        return cls(values=tuple(values), colours=tuple(colours))

    def of(self, stored: _Stored) -> NDArray[np.bool_]:
        """Where a mask is foreground."""
        if self.alpha and stored.alpha is None:
            return np.zeros(stored.values.shape, np.bool_)
        if stored.alpha is not None and (self.alpha or len(_levels(stored.values)) == 1):
            return np.asarray(stored.alpha >= MASK_THRESHOLD)
        if not self.values and not self.colours:
            return np.asarray(stored.values > 0)
        if stored.coloured:
            return np.isin(stored.values, self.colours)
        found = np.zeros(stored.values.shape, np.bool_)
        for low, high in self.values:
            found |= (stored.values >= low) & (stored.values <= high)
        return found


def read_mask(
    path: Path,
    *,
    image_path: Path,
    size: tuple[int, int],
    kind: str = "mask",
) -> NDArray[np.uint8]:
    """The mask of an image: uint8 (H, W), foreground from 125 on. See ``read_binary``."""
    return read_binary(path, image_path=image_path, size=size, kind=kind).grey


def read_binary(
    path: Path,
    *,
    image_path: Path,
    size: tuple[int, int],
    kind: str = "mask",
    foreground: Foreground | None = None,
) -> BinaryMask:
    """Decode the mask of an image, of one label.

    Args:
        path: the mask.
        image_path: its image, for the message.
        size: (H, W) of that image.
        kind: what to call the mask in messages.
        foreground: which of its values are foreground; ``None`` tells from the values, and where
            those of a few objects could as well be classes, from the other masks of the folder.

    Raises:
        InputError: naming the file, when it cannot be decoded, has another size, or holds values
            that may mean several things.
    """
    stored = _stored(path, kind, image_path, size)
    if foreground is not None:
        found = foreground.of(stored)
        return BinaryMask(grey=_white(found), reading=Reading.STATED)
    understood = _understood(stored)
    if understood is None and _may_be_objects(stored) and _holds_objects(path):
        understood = _objects(stored)
    if understood is None:
        raise InputError(f"{kind} {path} {_found(stored)}; {EXPECTED}. {REMEDY}")
    return understood


def read_field(path: Path, *, image_path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The field of view of an image: grey uint8 (H, W), its pixels from 125 on.

    Raises:
        InputError: naming the file, when it cannot be decoded, has another size, is coloured or
            deeper than 8 bits, or holds small values only.
    """
    kind = "field of view"
    stored = _stored(path, kind, image_path, size)
    if stored.grey is None:
        raise InputError(f"{kind} {path} {_found(stored)}; expected 0 outside and 255 inside")
    top = int(stored.grey.max())
    if 0 < top < MASK_THRESHOLD:
        raise InputError(
            f"{kind} {path} holds values up to {top} only; the field is "
            f"{MASK_THRESHOLD} to 255. Multiply one of 0 and 1 by 255"
        )
    return stored.grey


def read_label_map(
    path: Path, *, image_path: Path, size: tuple[int, int], output: OutputContract
) -> NDArray[np.uint8]:
    """Decode a mask of classes that exclude each other.

    The values of a palette or grey file are the indices of the classes, unless all its colours are
    the contract's, which are looked up as those of other files are. Of two classes, a mask of
    background and foreground is taken as well.

    Args:
        path: the mask.
        image_path: its image, for the message.
        size: (H, W) of that image.
        output: of the network.

    Returns:
        uint8 (H, W): the index of each pixel's class, or the contract's ignored index.

    Raises:
        InputError: naming the file, when it cannot be decoded, has another size, or holds values
            or colours that are no classes.
    """
    stored = _stored(path, "mask", image_path, size)
    known = {*range(output.channels), *({output.ignored_index} - {None})}
    by_colour = _by_colour(stored, output)
    if stored.coloured and by_colour is not None:
        return by_colour
    if stored.indices is None:
        hint = (
            "the contract's colours are " + _listed([_hex(_code(c)) for c in output.colours])
            if output.colours
            else "the output contract has no colours: state one for each class "
            "(--output-contract FILE), or write the indices of the classes"
        )
        raise InputError(f"mask {path} {_found(stored)}; {hint}")
    values = _levels(stored.indices)
    if known >= set(values.tolist()):
        return np.asarray(stored.indices, np.uint8)
    if by_colour is not None:
        return by_colour
    if output.channels == 2 and output.ignored_index is None:
        understood = _understood(stored)
        if understood is not None:
            return np.asarray(understood.grey >= MASK_THRESHOLD, np.uint8)
    unknown = _listed([str(value) for value in values.tolist() if value not in known])
    also = "" if output.ignored_index is None else f" and {output.ignored_index} (ignored)"
    hint = ". Pixels that count nowhere are stated by --ignore-index" if unknown == "255" else ""
    raise InputError(
        f"mask {path} holds {unknown}; expected the index of a class, 0 to {output.channels - 1} "
        f"({_listed(output.classes)}){also}{hint}"
    )


def require_size(
    found: tuple[int, int],
    size: tuple[int, int],
    *,
    path: Path,
    image_path: Path,
    kind: str = "mask",
) -> None:
    """Refuse a mask that has not its image's size.

    Args:
        found: (H, W) of the mask.
        size: (H, W) of the image.
        path: the mask.
        image_path: the image.
        kind: what to call the mask.

    Raises:
        InputError: naming both files and sizes, and the image's EXIF orientation where the mask
            fits the turned image.
    """
    if found != size:
        raise InputError(
            f"{kind} {path} is {found[1]}x{found[0]} but its image {image_path.name} is "
            f"{size[1]}x{size[0]} (width x height); masks must have their image's size"
            + (turned_hint(image_path) if found == size[::-1] else "")
        )


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """The pixels of a mask file.

    Attributes:
        values: (H, W): grey values of any depth, or colours as 0xRRGGBB.
        indices: (H, W): grey values, or the indices of a palette; ``None`` of colours.
        coloured: whether the values are colours.
        grey: uint8 (H, W), of a grey file of at most 8 bits as Pillow shows it.
        alpha: uint8 (H, W) where transparency varies.
        keyed: transparency is that of one value or of a palette, not a channel.
        lossy: JPEG.
    """

    values: Values
    indices: Values | None
    coloured: bool = False
    grey: NDArray[np.uint8] | None = None
    alpha: NDArray[np.uint8] | None = None
    keyed: bool = False
    lossy: bool = False

    @property
    def numbers(self) -> Values:
        """What may number objects: indices of a palette, whose colours may repeat, or values."""
        return self.values if self.indices is None else self.indices


def _stored(path: Path, kind: str, image_path: Path, size: tuple[int, int]) -> _Stored:
    with opened_image(path) as image:
        stored = _decoded(image, path, kind)
    require_size(stored.values.shape, size, path=path, image_path=image_path, kind=kind)
    return stored


def _decoded(image: Image.Image, path: Path, kind: str) -> _Stored:
    raw = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))
    if image.mode.startswith(("I", "F")):
        whole = _whole(np.asarray(image), path, kind)
        return _Stored(values=whole, indices=whole)
    if image.format in ("PNG", "TIFF") and ";16" in raw:
        raise InputError(
            f"{kind} {path} has 16 bits a channel and several channels; expected one number a "
            "pixel, or 8 bits a channel. Write it as a grey file, 255 where it is foreground"
        )
    alpha, keyed = _alpha(image)
    lossy = image.format in ("JPEG", "MPO")
    indices = None
    if image.mode in ("P", "PA"):
        band = image.getchannel("P") if image.mode == "PA" else image
        indices = np.asarray(band)
    if image.mode not in ("1", "L", "LA"):
        rgb = np.asarray(image.convert("RGB"))
        if (rgb.max(axis=2) - rgb.min(axis=2) > COLOUR_SPREAD).any():
            values = np.zeros(rgb.shape[:2], np.uint32)
            for channel in range(3):
                values = values << 8 | rgb[..., channel]
            return _Stored(
                values=values,
                indices=indices,
                coloured=True,
                alpha=alpha,
                keyed=keyed,
                lossy=lossy,
            )
    grey = np.asarray(image.convert("L"))
    numbers = grey // np.uint8(LOW_BITS.get(raw, 1))
    return _Stored(
        values=numbers,
        indices=numbers if indices is None else indices,
        grey=grey,
        alpha=alpha,
        keyed=keyed,
        lossy=lossy,
    )


def _whole(values: NDArray[Any], path: Path, kind: str) -> Values:
    """The numbers of a deep grey file, as whole ones."""
    if not np.isfinite(values).all() or (values < 0).any() or (values != np.rint(values)).any():
        raise InputError(
            f"{kind} {path} holds {values.dtype} values from {values.min():.6g} to "
            f"{values.max():.6g}; expected whole numbers from 0 on. Write 255 where it is "
            "foreground, as 8 bits"
        )
    if values.max() >= 1 << 32:
        raise InputError(f"{kind} {path} holds {values.max():.6g}; expected at most 32 bits")
    return values.astype(np.uint32)


def _alpha(image: Image.Image) -> tuple[NDArray[np.uint8] | None, bool]:
    """Transparency, where it varies, and whether it is of single values."""
    channel = image.mode in ("LA", "PA", "RGBA", "La", "RGBa")
    if not channel and "transparency" not in image.info:
        return None, False
    alpha = np.asarray((image if channel else image.convert("RGBA")).getchannel("A"))
    return (None if alpha.min() == alpha.max() else alpha), not channel


def _understood(stored: _Stored) -> BinaryMask | None:
    """A mask whose values leave no doubt."""
    levels = _levels(stored.values)
    if stored.alpha is not None:
        if len(levels) == 1:
            opaque = BinaryMask(grey=stored.alpha, reading=Reading.ALPHA)
            return opaque if _is_plain(stored.alpha, lossy=False) else None
        if not stored.keyed and not _same_foreground(stored):
            return None
    numbers = _levels(stored.numbers)
    count = np.count_nonzero(numbers)
    deep = not stored.coloured and stored.grey is None
    many = count >= CLEAR_OBJECTS or (deep and count > 1)
    if stored.grey is not None and _is_plain(stored.grey, lossy=stored.lossy):
        points = many and _points(stored.grey) > POINTS_SHARE and _may_be_objects(stored)
        return _objects(stored) if points else BinaryMask(grey=stored.grey, reading=Reading.GREY)
    if stored.lossy:
        return None
    if np.count_nonzero(levels) == 1:
        full = levels[-1] in (1, WHITE, (1 << 16) - 1)
        if len(levels) == 1 and not (full and not stored.coloured):
            return None
        return BinaryMask(grey=_white(stored.values > 0), reading=Reading.VALUE)
    return _objects(stored) if many and _may_be_objects(stored) else None


def _same_foreground(stored: _Stored) -> bool:
    """Whether colours and transparency say the same."""
    assert stored.alpha is not None
    opaque = stored.alpha >= MASK_THRESHOLD
    lit = stored.values > 0 if stored.grey is None else stored.grey >= MASK_THRESHOLD
    return bool(np.array_equal(opaque, lit))


def _is_plain(grey: NDArray[np.uint8], *, lossy: bool) -> bool:
    """Whether grey levels are background, foreground and soft edges between them alone."""
    counts = _counts(grey, WHITE + 1)
    levels = np.flatnonzero(counts)
    top = int(levels[-1])
    if top < MASK_THRESHOLD:
        return top == 0
    many = lossy or len(levels) > MOST_EXACT
    low = NOISE if many else 0
    if not counts[low + 1 : top - NEAR].any():
        return True
    if _apart(grey, low=low, high=top - NEAR, tolerance=0, least=LEAST_ALIKE) > RIM_SHARE:
        return False
    if not many:
        return True
    share = _apart(grey, low=BLURRED, high=top - BLURRED, tolerance=NOISE_STEP, least=LEAST_NEAR)
    return share <= (JPEG_SHARE if lossy else SOFT_SHARE)


def _points(grey: NDArray[np.uint8]) -> float:
    """Share of the foreground whose pixels have no neighbours but of their own value."""
    return _apart(grey, low=0, high=WHITE + 1, tolerance=0, least=0)


def _apart(grey: NDArray[np.uint8], *, low: int, high: int, tolerance: int, least: int) -> float:
    """Share of the foreground that is neither background, foreground nor a soft edge.

    A pixel of a soft edge has neighbours of other values that are not background; one of a class
    or an object of its own has neighbours like itself.

    Args:
        grey: of a mask.
        low: the background's values end here.
        high: the foreground's begin here.
        tolerance: values that far apart are alike.
        least: neighbours alike that a pixel has, which no edge happens to have.
    """
    values = np.pad(grey.astype(np.int16), 1)
    own = values[1:-1, 1:-1]
    apart, alike = (own > low) & (own < high), np.zeros(own.shape, np.uint8)
    for down, across in AROUND:
        near = values[down : down + own.shape[0], across : across + own.shape[1]]
        equal = np.abs(near - own) <= tolerance
        apart &= equal | (near <= low)
        alike += equal
    found = int((apart & (alike >= least)).sum())
    return found / int((own > low).sum()) if found > CHANCE else 0.0


def _may_be_objects(stored: _Stored) -> bool:
    """Whether background and numbers or colours, each in one place, can be objects."""
    if stored.lossy:
        return False
    if stored.alpha is not None and not stored.keyed and not _same_foreground(stored):
        return False
    levels = _levels(stored.numbers)
    if levels[0] != 0 or len(levels) < 2:
        return False
    top = int(levels[-1])
    if top in (WHITE, (1 << 16) - 1) and top - 1 not in levels:
        return False  # the mark of pixels that count nowhere
    numbered = np.searchsorted(levels, stored.numbers).astype(np.int32)
    allowed = int(len(levels) * (1 - WHOLE_SHARE))
    around = np.ones((3, 3), np.bool_)
    for number, place in enumerate(ndimage.find_objects(numbered), start=1):
        allowed -= ndimage.label(numbered[place] == number, structure=around)[1] > 1
        if allowed < 0:
            return False
    return True


def _objects(stored: _Stored) -> BinaryMask:
    count = len(_levels(stored.numbers)) - 1
    return BinaryMask(grey=_white(stored.numbers > 0), reading=Reading.OBJECTS, objects=count)


def _holds_objects(path: Path) -> bool:
    """Whether another mask of a file's folder holds objects without doubt, and none classes."""
    folder = path.parent
    return _folder_holds_objects(folder, folder.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _folder_holds_objects(folder: Path, changed_ns: int) -> bool:
    """See ``_holds_objects``; the time of the folder's last change makes an old answer void."""
    clear = False
    for path in image_files(folder, suffixes=IMAGE_SUFFIXES)[:WITNESSES]:
        try:
            with opened_image(path) as image:
                stored = _decoded(image, path, "mask")
        except InputError:
            continue
        if not _may_be_objects(stored) and _understood(stored) is None:
            return False
        understood = _understood(stored)
        clear |= understood is not None and understood.reading is Reading.OBJECTS
    return clear


def _by_colour(stored: _Stored, output: OutputContract) -> NDArray[np.uint8] | None:
    """Indices by the contract's colours, where every pixel has one of them."""
    if output.colours is None or stored.lossy:
        return None
    classes = {_code(colour): index for index, colour in enumerate(output.colours)}
    if stored.coloured:
        codes = stored.values
    elif stored.grey is not None:
        codes = stored.grey.astype(np.uint32) * np.uint32(0x010101)
    else:
        return None
    levels, where = np.unique(codes, return_inverse=True)
    if not classes.keys() >= set(levels.tolist()):
        return None
    found = np.array([classes[code] for code in levels.tolist()])
    return np.asarray(found[where.reshape(codes.shape)], np.uint8)


def _levels(values: Values) -> NDArray[np.int64]:
    """The different values, ascending."""
    if values.max() < 1 << 16:
        return np.flatnonzero(_counts(values, int(values.max()) + 1)).astype(np.int64)
    return np.unique(values).astype(np.int64)


def _counts(values: Values, levels: int) -> NDArray[np.int64]:
    """How often each level is there; a part at a time, for NumPy counts in 64 bits."""
    flat, total = values.ravel(), np.zeros(levels, np.int64)
    for start in range(0, flat.size, COUNTED_AT_ONCE):
        total += np.bincount(flat[start : start + COUNTED_AT_ONCE], minlength=levels)
    return total


def _white(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    shown: NDArray[np.uint8] = mask.astype(np.uint8) * np.uint8(WHITE)
    return shown


def _code(colour: Colour | NDArray[np.uint8]) -> int:
    red, green, blue = (int(part) for part in colour)
    return red << 16 | green << 8 | blue


def _hex(code: int) -> str:
    return f"#{code:06x}"


def _listed(words: Sequence[str]) -> str:
    """A few words of a list."""
    if len(words) > SHOWN_VALUES:
        return f"{', '.join(words[:SHOWN_VALUES])} and {len(words) - SHOWN_VALUES} more"
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _found(stored: _Stored) -> str:
    """What is in a mask, for a message."""
    levels = _levels(stored.values).tolist()
    other = "" if stored.alpha is None else " and, with another foreground, an alpha channel"
    if stored.coloured:
        return f"holds the colours {_listed([_hex(code) for code in levels])}{other}"
    what = f"holds the {'value' if len(levels) == 1 else 'values'} "
    what += _listed([str(value) for value in levels])
    what += other
    if stored.lossy:
        what += " (JPEG changes values; save masks as PNG)"
    return what
