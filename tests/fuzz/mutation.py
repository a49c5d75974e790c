"""Inputs near a seed: bytes changed at random, tokens that break parsers, JSON values swapped."""

from __future__ import annotations

import contextlib
import io
import json
import random
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

HOSTILE_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1e308,
    -1e308,
    5e-324,
    float("nan"),
    float("inf"),
    10**30,
    10**400,
    "",
    "\0",
    "1",
    "a\nb",
    "\x1b[31m",
    "\ud800",
    "\udcff",
    "\u2028",
    "../../x",
    "/etc/passwd",
    "-o",
    "x" * 3000,
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"a": {"b": {}}},
)

TOKENS: tuple[bytes, ...] = (
    *(b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-0", b"0x10", b"1_0", b"true", b"null", b"~"),
    *(
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\0",
        b"\r\n",
        b"\n",
        b"\r",
        b"\x85",
        b"\xe2\x80\xa8",
    ),
    *(
        b'"',
        b"'",
        b",",
        b":",
        b": ",
        b"- ",
        b"{",
        b"}",
        b"[",
        b"]",
        b"#",
        b"|",
        b">",
        b"&a ",
        b"*a",
    ),
    *(
        b"!!python/object:os.system ",
        b"!!binary x",
        b"!!set {a}",
        b"!!int x",
        b"<<: ",
        b"? ",
        b"%YAML 9",
    ),
    *(
        b"2024-13-45",
        b"0b1",
        b".inf",
        b".nan",
        b"1:1:1",
        b"---\n",
        b"...\n",
        b"\\ud800",
        b"\\u0000",
    ),
    *(
        b"../../x",
        b"/etc/passwd",
        b"\x1b[2J",
        b"9" * 5000,
        b"[" * 2000,
        b'{"a":' * 300,
        b"a: {" * 300,
    ),
)


UNREADABLE = (OSError, ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile)
"""What NumPy raises of a damaged .npz file."""


def mutated(seed: bytes, number: int, others: Sequence[bytes] = ()) -> bytes:
    """One input near a seed; the same number gives the same input."""
    rng = random.Random(number)
    data = seed
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(_CHANGES)(data, rng, others or (seed,))
    return data[: 1 << 16]


def _flip(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    if not data:
        return rng.randbytes(4)
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(1) + data[at + 1 :]


def _insert(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.choice(TOKENS) + data[at:]


def _replace(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    start, stop = _slice(data, rng)
    return data[:start] + rng.choice(TOKENS) + data[stop:]


def _remove(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    start, stop = _slice(data, rng)
    return data[:start] + data[stop:]


def _repeat(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    start, stop = _slice(data, rng)
    return data[:stop] + data[start:stop] * rng.randint(1, 8) + data[stop:]


def _splice(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


def _line(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """A line moved, doubled or gone."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    line = lines.pop(rng.randrange(len(lines)))
    for _ in range(rng.randint(0, 2)):
        lines.insert(rng.randint(0, len(lines)), line)
    return b"".join(lines)


def _json(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """A value somewhere in a JSON text replaced, removed, or its key given twice."""
    if data.startswith(b"PK"):
        return _npz(data, rng)
    lines = data.splitlines(keepends=True)
    one = rng.randrange(len(lines)) if len(lines) > 1 and lines[0].startswith(b'{"') else None
    try:
        value = json.loads(data if one is None else lines[one])
    except (ValueError, RecursionError):
        return _replace(data, rng, others)
    try:
        text = json.dumps(_changed(value, rng), ensure_ascii=rng.random() < 0.5)
    except RecursionError:
        return data
    text = text.replace('"a": ', '"a": 1, "a": ') if rng.random() < 0.1 else text
    found = text.encode("utf-8", "surrogatepass")
    if one is None:
        return found
    return b"".join([*lines[:one], found + b"\n", *lines[one + 1 :]])


def _npz(data: bytes, rng: random.Random) -> bytes:
    """An array of an .npz file changed, so that the checksums of the file stay right."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        key = rng.choice(sorted(arrays))
    except (*UNREADABLE, IndexError):
        return data[: rng.randint(0, len(data))]
    array = arrays[key]
    number = rng.choice((-1, 0, 1, 2, 2**40, 2**62))
    changes = (
        lambda: array[:-1] if array.ndim else array[None],
        lambda: np.append(array, array[-1:] if array.ndim else array),
        lambda: array.astype(rng.choice(("<f4", "<i4", "<U3", "|b1", "<c8", "<M8[s]"))),
        lambda: np.full_like(array, number if array.dtype.kind in "iuf" else "x"),
        lambda: np.where(np.arange(array.size) == 0, number, array.ravel()).astype(array.dtype),
        lambda: array.reshape(1, -1),
        lambda: np.full(array.shape, np.nan),
    )
    if rng.random() < 0.1:
        del arrays[key]
    else:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            arrays[key] = np.asarray(rng.choice(changes)())
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def _changed(value: Any, rng: random.Random) -> Any:
    inner = (
        list(value)
        if isinstance(value, dict)
        else range(len(value or ""))
        if isinstance(value, list)
        else ()
    )
    if not inner or rng.random() < 0.15:
        return rng.choice(HOSTILE_VALUES)
    key = rng.choice(list(inner))
    copy = dict(value) if isinstance(value, dict) else list(value)
    chance = rng.random()
    if chance < 0.1:
        del copy[key]
    elif chance < 0.2 and isinstance(copy, dict):
        copy[str(rng.choice(HOSTILE_VALUES))[:50]] = copy.pop(key)
    elif chance < 0.25 and isinstance(copy, list):
        copy.append(copy[key])
    else:
        copy[key] = _changed(copy[key], rng)
    return copy


def _slice(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randint(0, len(data))
    return start, min(len(data), start + rng.choice((0, 1, 2, 4, 8, 32, 256)))


_Change = Callable[[bytes, random.Random, Sequence[bytes]], bytes]
_CHANGES: tuple[_Change, ...] = (
    *(_flip, _insert, _insert, _replace, _remove, _repeat, _splice, _line),
    *(_json,) * 6,
)
