"""Find the weights of one network in what a checkpoint file holds, whatever they are wrapped in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from segdeploy.deploy.models.families import FIRST_LAYERS, describe_misfit, shown
from segdeploy.deploy.system.errors import InputError, UsageError, one_line

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which training scripts commonly nest the state dict."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What DataParallel, torch.compile and wrapper modules put in front of every key."""

PREFIX_ROUNDS = 4
"""How often each prefix is looked for: wrappers in wrappers, but not without end."""

DEPTH = 4
"""How many mappings deep weights are looked for."""

SILENT = ("module", "_orig_mod")
"""Parts of a prefix that say nothing of which weights it is."""

MOST_NETWORKS = 32
"""Networks in one state dict at most: a file that claims more is none, and slow to take apart."""

UNNAMED = "plain"
"""The name of weights that stand at the top of a file, without a prefix."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One state dict of a known network, its keys without what wraps them.

    Attributes:
        name: where it stands in the file: the keys and prefixes around it, joined by dots.
        tensors: by key.
    """

    name: str
    tensors: dict[str, Tensor]


def weights_in(
    loaded: object, *, source: str, chosen: str | None = None
) -> tuple[dict[str, Tensor], str | None]:
    """The state dict of the network that a file holds.

    A known network is told by its first layer, however deep it is nested and whatever stands in
    front of its keys. What else a file holds, such as an optimizer, counters or a loss, is left.

    Args:
        loaded: what the file holds.
        source: the file, for messages.
        chosen: the name of one, where there are several.

    Returns:
        The state dict, and its name where the file holds several, else ``None``. Where no known
        network is found, the state dict that stands where such usually do.

    Raises:
        InputError: there is no mapping from names to tensors.
        UsageError: several networks and none chosen, or none of the name that was.
    """
    found = find(loaded)
    names = shown(weights.name for weights in found)
    if chosen is not None:
        for weights in found:
            if weights.name == chosen:
                return weights.tensors, chosen if len(found) > 1 else None
        held = f"it holds {names}" if found else "it holds no known network"
        raise UsageError(f"--weights {one_line(chosen, limit=60)}: not in {source}; {held}")
    if len(found) > 1:
        raise UsageError(
            f"{source} holds {len(found)} networks that fit: {names}; expected one. Choose with "
            f"--weights, as --weights {found[0].name}"
        )
    return (found[0].tensors if found else unwrap(loaded, source=source)), None


def find(loaded: object) -> list[Weights]:
    """Every known network in what a file holds, in the order of the file."""
    found = [
        (path, prefix, tensors)
        for path, tensors_here in _mappings(loaded)
        for prefix, tensors in _by_prefix(tensors_here)
    ]
    short = [_name(path, prefix, silent=SILENT) for path, prefix, _ in found]
    if len(set(short)) < len(short):
        short = [_name(path, prefix, silent=()) for path, prefix, _ in found]
    return [
        Weights(name=name, tensors=tensors)
        for name, (_, _, tensors) in zip(short, found, strict=True)
    ]


def fitting(
    loaded: object, expected: Mapping[str, Tensor], *, source: str, chosen: str | None = None
) -> dict[str, Tensor]:
    """The state dict of a network that is there already, in what a file holds.

    Told by the network's own keys and shapes, however deep it is nested and whatever stands in
    front of its keys.

    Args:
        loaded: what the file holds.
        expected: the network's state dict.
        source: the file, for messages.
        chosen: the name of one, where there are several.

    Raises:
        InputError: none fits; the message says how the one that stands where such usually do
            differs.
        UsageError: several fit and none is chosen, or none of the name that was.
    """
    anchor = next(iter(expected), "")
    found = [
        Weights(name=_name(path, start, silent=SILENT), tensors=tensors)
        for path, here in _mappings(loaded)
        for start in dict.fromkeys(key.removesuffix(anchor) for key in here if key.endswith(anchor))
        for tensors in [{k[len(start) :]: v for k, v in here.items() if k.startswith(start)}]
        if describe_misfit(expected, tensors) is None
    ][:MOST_NETWORKS]
    if chosen is not None:
        found = [weights for weights in found if weights.name == chosen]
    if len(found) > 1:
        raise UsageError(
            f"{source} holds {len(found)} state dicts that fit: "
            f"{shown(weights.name for weights in found)}; expected one. Choose with --weights"
        )
    if found:
        return found[0].tensors
    if chosen is not None:
        raise UsageError(f"--weights {one_line(chosen, limit=60)}: {source} holds none that fits")
    tensors = unwrap(loaded, source=source)
    raise InputError(f"{source} does not fit the network: {describe_misfit(expected, tensors)}")


def unwrap(loaded: object, *, source: str) -> dict[str, Tensor]:
    """Find the state dict in what a checkpoint file holds and strip common key prefixes.

    Raises:
        InputError: there is no mapping from names to tensors.
    """
    for _ in range(2):
        if not isinstance(loaded, Mapping):
            break
        for wrapper in WRAPPERS:
            if isinstance(loaded.get(wrapper), Mapping):
                loaded = loaded[wrapper]
                break
    if not isinstance(loaded, Mapping):
        raise InputError(
            f"{source} holds a {type(loaded).__name__}, not a state dict; save the weights with "
            "torch.save(model.state_dict(), path)"
        )
    # A key that is no text is named by its type: it can be anything, its own words endless.
    names = (key if isinstance(key, str) else type(key).__name__ for key in loaded)
    tensors = {key: value for key, value in loaded.items() if isinstance(value, Tensor)}
    if not tensors or not all(isinstance(key, str) for key in tensors):
        found = "tensors under keys that are no text" if tensors else "no tensors"
        raise InputError(
            f"{source} holds {found} (its keys: {shown(names)}); "
            "save the weights with torch.save(model.state_dict(), path)"
        )
    for _ in range(PREFIX_ROUNDS):
        for prefix in PREFIXES:
            if all(key.startswith(prefix) for key in tensors):
                tensors = {key[len(prefix) :]: value for key, value in tensors.items()}
    return tensors


def _mappings(loaded: object) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every mapping that holds tensors under texts alone, with the keys that lead to it.

    One that stands in several places is met once, at the first: a file can hold itself.
    """
    seen: set[int] = set()
    waiting: deque[tuple[tuple[str, ...], object]] = deque([((), loaded)])
    while waiting:
        path, value = waiting.popleft()
        if not isinstance(value, Mapping) or id(value) in seen:
            continue
        seen.add(id(value))
        tensors = {key: item for key, item in value.items() if isinstance(item, Tensor)}
        if tensors and all(isinstance(key, str) for key in tensors):
            yield path, tensors
        if len(path) < DEPTH:
            waiting.extend(
                ((*path, key), item)
                for key, item in value.items()
                if isinstance(key, str) and isinstance(item, Mapping)
            )


def _by_prefix(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The known networks of one mapping, told apart by what stands in front of their keys."""
    starts = {
        key.removesuffix(first): None
        for key in tensors
        for first in FIRST_LAYERS
        if key == first or key.endswith(f".{first}")
    }
    for start in list(starts)[:MOST_NETWORKS]:
        inner = tuple(other for other in starts if other != start and other.startswith(start))
        yield (
            start,
            {
                key[len(start) :]: value
                for key, value in tensors.items()
                if key.startswith(start) and not (inner and key.startswith(inner))
            },
        )


def _name(path: tuple[str, ...], prefix: str, *, silent: tuple[str, ...]) -> str:
    """What weights are called: the keys and prefixes around them."""
    parts = (*path, *prefix.split("."))
    return ".".join(part for part in parts if part and part not in silent) or UNNAMED
