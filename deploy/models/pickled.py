"""Look at a pickle without loading it."""

from __future__ import annotations

import pickletools
from typing import IO, Any, cast

MOST_VALUES = 10**8
"""Values in a pickle at most, one that is used twice counted twice."""

_KEEPS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_FETCHES = frozenset({"GET", "BINGET", "LONG_BINGET"})
_MARK = -1


def require_small(stream: IO[bytes] | Any) -> None:
    """Refuse a pickle whose values, written out, would be endless; reads to its end.

    Forty pairs, each of the one before and itself, are 200 bytes and 2**40 values: to use them as
    a key would take days. Counted on a stack of sizes, as the pickle machine would build them.

    Args:
        stream: a binary file, at the first byte of the pickle.

    Raises:
        ValueError: too many values, or no pickle.
        IndexError: it takes what was never put.
        KeyError: likewise.
    """
    stack: list[int] = []
    memo: dict[int, int] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in _KEEPS:
            memo[cast(int, argument)] = stack[-1]
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif opcode.name in _FETCHES:
            stack.append(memo[cast(int, argument)])
        elif opcode.name == "MARK":
            stack.append(_MARK)
        else:
            size = 1 + _taken(stack, opcode)
            if size > MOST_VALUES:
                raise ValueError(f"it claims more than {MOST_VALUES} values")
            stack += [size] * len(opcode.stack_after)


def _taken(stack: list[int], opcode: pickletools.OpcodeInfo) -> int:
    """The size of what an opcode takes off the stack."""
    total = 0
    count = len(opcode.stack_before)
    if pickletools.markobject in opcode.stack_before:
        count = opcode.stack_before.index(pickletools.markobject)
        while (size := stack.pop()) != _MARK:
            total += size
    return total + sum(stack.pop() for _ in range(count))
