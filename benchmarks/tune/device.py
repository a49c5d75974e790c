"""What was learnt of devices, in a file that can be shipped: which patterns paid there.

The next network's search tries first what paid on the same device before. Gains are remembered, not
trusted: whatever is taken is timed again.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from segdeploy.benchmarks.tune.state import Outcome, Trial
from segdeploy.calibration.files import write_atomic
from segdeploy.calibration.json_record import record_of
from segdeploy.calibration.json_text import parse_json
from segdeploy.deploy.runtimes.registry import RuntimeName, availability
from segdeploy.deploy.system.errors import InputError
from segdeploy.deploy.system.isa import processor, usable

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Device:
    """What decides how fast a placement is, beside the network.

    Attributes:
        runtime: by its command-line name.
        version: of the runtime.
        processor: its model, or the machine type where no model is told.
        isa: instruction sets that the runtime may use.
        threads: it ran on.
    """

    runtime: str
    version: str
    processor: str
    isa: tuple[str, ...]
    threads: int

    @classmethod
    def here(cls, runtime: RuntimeName, *, threads: int) -> Device:
        """This machine."""
        return cls(
            runtime=runtime.value,
            version=availability(runtime).version or "unknown",
            processor=processor()[0] or platform.machine(),
            isa=usable(onednn=runtime is RuntimeName.OPENVINO),
            threads=threads,
        )


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What a pattern did for one network.

    Attributes:
        pattern: as ``benchmarks.tune.choices`` names it.
        network: digest of the float model.
        ratio: time with it over time without, where it did best; 1 where the device ran the same.
    """

    pattern: str
    network: str
    ratio: Annotated[float, Meta(gt=0)]


@dataclass(frozen=True, kw_only=True)
class Known:
    """One device with what is known of it."""

    device: Device
    gains: tuple[Gain, ...]


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """All devices of a file.

    Example:
        >>> here = Device(runtime="r", version="1", processor="p", isa=(), threads=2)
        >>> gain = Gain(pattern="in_float Add", network="n", ratio=0.9)
        >>> memory = DeviceMemory().with_gains(here, [gain])
        >>> round(memory.prior(here, "in_float Add"), 3), memory.prior(here, "in_float Mul")
        (0.9, None)
    """

    schema_version: int = SCHEMA_VERSION
    devices: tuple[Known, ...] = ()

    @classmethod
    def read(cls, path: Path) -> DeviceMemory:
        """Read a file; one that is not there knows nothing.

        Raises:
            InputError: the file is damaged or of a later version, or it is a folder.
        """
        if path.is_dir():
            raise InputError(f"device file {path} is a folder; give a file")
        if not path.is_file():
            return cls()
        try:
            found = record_of(parse_json(path.read_text(encoding="utf-8")), cls, complete=True)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is no device file ({error}); delete it") from error
        if found.schema_version != SCHEMA_VERSION:
            raise InputError(
                f"{path} has schema version {found.schema_version}; expected {SCHEMA_VERSION}: "
                "another version of segdeploy wrote it; delete it"
            )
        return found

    def write(self, path: Path) -> None:
        """Write the file.

        Raises:
            OSError: the folder cannot be written.
        """
        write_atomic(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    def prior(self, device: Device, pattern: str) -> float | None:
        """Mean ratio of a pattern over the networks seen on a device; ``None`` where none was."""
        ratios = [g.ratio for g in self._gains(device) if g.pattern == pattern]
        return math.exp(math.fsum(map(math.log, ratios)) / len(ratios)) if ratios else None

    def with_gains(self, device: Device, gains: Iterable[Gain]) -> DeviceMemory:
        """What was known, and what was found now; a network's newer figure replaces the older."""
        held = {(g.network, g.pattern): g for g in (*self._gains(device), *gains)}
        known = Known(device=device, gains=tuple(held[key] for key in sorted(held)))
        others = tuple(each for each in self.devices if each.device != device)
        return DeviceMemory(devices=(*others, known))

    def _gains(self, device: Device) -> tuple[Gain, ...]:
        return next((each.gains for each in self.devices if each.device == device), ())


def gains_of(trials: Iterable[Trial], *, network: str) -> list[Gain]:
    """For each pattern the ratio where it did best; 1 where the device runs the same.

    Args:
        trials: of one search.
        network: digest of the float model.
    """
    best: dict[str, float] = {}
    for trial in trials:
        if trial.outcome is Outcome.SAME_GRAPH:
            found = 1.0
        elif trial.ratio is not None:
            found = trial.ratio.value
        else:
            continue
        best[trial.pattern] = min(found, best.get(trial.pattern, found))
    return [Gain(pattern=name, network=network, ratio=best[name]) for name in sorted(best)]
