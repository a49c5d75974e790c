"""What was learnt so far, kept on disk so that a rerun goes on with the next layer."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.calibration.files import atomic_writer

STATE_VERSION = 1


@dataclass(kw_only=True)
class LearningState:
    """The layers done, and their parameters.

    Attributes:
        path: of the file.
        fingerprint: of all that decides what is learnt.
        done: names of layers, in order.
        weights: by initializer.
        biases: by node.
    """

    path: Path
    fingerprint: str
    done: list[str] = field(default_factory=list)
    weights: dict[str, NDArray[np.int8]] = field(default_factory=dict)
    biases: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, *, fingerprint: str) -> LearningState:
        """Go on from a file of the same inputs, else start anew: one that is damaged is no loss."""
        fresh = cls(path=path, fingerprint=fingerprint)
        try:
            with np.load(path, allow_pickle=False) as held:
                whose = (int(held["version"]), str(held["fingerprint"]))
                if whose != (STATE_VERSION, fingerprint):
                    return fresh
                fresh.done = [str(name) for name in held["done"]]
                for key, kept in (("weights", fresh.weights), ("biases", fresh.biases)):
                    for place, name in enumerate(held[key]):
                        kept[str(name)] = held[f"{key}.{place}"]
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
            return cls(path=path, fingerprint=fingerprint)
        return fresh

    def write(self) -> None:
        """Write the file.

        Raises:
            OSError: the folder cannot be written.
        """
        held: dict[str, Any] = {
            "version": np.array(STATE_VERSION),
            "fingerprint": np.array(self.fingerprint),
            "done": np.array(self.done, np.str_),
        }
        parts: dict[str, dict[str, NDArray[Any]]] = {"weights": {**self.weights}}
        parts["biases"] = {**self.biases}
        for key, kept in parts.items():
            held[key] = np.array(list(kept), np.str_)
            held |= {f"{key}.{place}": values for place, values in enumerate(kept.values())}
        with atomic_writer(self.path) as stream:
            np.savez(stream, **held)
