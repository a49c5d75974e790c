"""A finished run, to go on from: which of its files is what, and which belong together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from segdeploy.benchmarks.report.files import PAGES, read_report
from segdeploy.benchmarks.report.records import Recommendation, Report
from segdeploy.deploy.runtimes.registry import RuntimeName
from segdeploy.deploy.system.checksums import CHECKSUMS
from segdeploy.deploy.system.errors import InputError
from segdeploy.pipeline.workspace import MANIFEST, Entry, read_manifest

CALIBRATE = "calibrate"
"""The manifest's name of the stage that makes the table."""

INT8 = "int8"


class Role(str, Enum):
    """The float models of a run, by what was done to them."""

    EXPORTED = "exported"
    SIMPLIFIED = "simplified"
    FP16 = "fp16"
    REWRITTEN = "rewritten"


_SUFFIXES = {
    Role.EXPORTED: "fp32.onnx",
    Role.SIMPLIFIED: "sim.onnx",
    Role.FP16: "fp16.onnx",
    Role.REWRITTEN: "opt.onnx",
}


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """The output folder of a finished ``segdeploy run``.

    Attributes:
        folder: where it lies.
        inputs: what decided its artefacts, from the manifest.
        entries: its stages' files, from the manifest.
        report: what it measured.
    """

    folder: Path
    inputs: dict[str, Any]
    entries: dict[str, Entry]
    report: Report

    @classmethod
    def open(cls, folder: Path) -> FinishedRun:
        """Read a run's manifest and report. Its files are not hashed again; ``verify`` does that.

        Raises:
            InputError: no such folder, no run's, one that was not finished, or a damaged one.
        """
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder; give the output folder of `segdeploy run`")
        if not (folder / MANIFEST).is_file():
            raise InputError(
                f"{folder} holds no finished run (it has no {MANIFEST}); give an ONNX file, or the "
                "output folder of `segdeploy run`"
            )
        missing = [name for name in (PAGES[0], CHECKSUMS) if not (folder / name).is_file()]
        if missing:
            raise InputError(
                f"{folder} holds a run that was not finished (it has no {missing[0]}); start the "
                "same `segdeploy run` again, it goes on"
            )
        inputs, entries = read_manifest(folder / MANIFEST)
        return cls(folder=folder, inputs=inputs, entries=entries, report=read_report(folder))

    @property
    def name(self) -> str:
        """Stem of every artefact."""
        return self.report.model.name

    @property
    def targets(self) -> tuple[str, ...]:
        """Targets that int8 models were made for, in the order of the run."""
        listed = self.inputs.get("targets")
        return tuple(map(str, listed)) if isinstance(listed, list) else ()

    @property
    def exclude(self) -> tuple[str, ...]:
        """Layers that the int8 models keep in float."""
        listed = self.inputs.get("exclude")
        return tuple(map(str, listed)) if isinstance(listed, list) else ()

    def model(self, role: Role | str) -> Path:
        """A model by what was done to it.

        Args:
            role: ``exported``, ``simplified``, ``fp16``, ``rewritten``, or the target of an int8
                model.

        Raises:
            InputError: the run has none of that name.
        """
        if role in self.targets:
            return self.int8(role)
        if role not in (known := [each.value for each in Role]):
            raise InputError(
                f"{self.folder} has no model {role!r}; choose from "
                f"{', '.join((*known, *self.targets))}"
            )
        return self._existing(f"{self.name}.{_SUFFIXES[Role(role)]}")

    def int8(self, target: str) -> Path:
        """The int8 model for a target.

        Raises:
            InputError: none was made for it; the message names those that were.
        """
        if target not in self.targets:
            made = ", ".join(self.targets) or "none"
            raise InputError(
                f"{self.folder} has no int8 model for {target}, but for: {made}; make it with "
                f"`segdeploy quantize {self.folder} --target {target} -o FILE`"
            )
        return self._existing(f"{self.name}.{INT8}.{target}.onnx")

    @property
    def reference(self) -> Path:
        """What its candidates are compared with where no checkpoint is at hand: the export."""
        return self.model(Role.EXPORTED)

    @property
    def calibrated(self) -> Path:
        """The float model that the table is of, from which every int8 model is made."""
        return self.model(Role.REWRITTEN)

    @property
    def table(self) -> Path:
        """The calibration table; of ``calibrated``.

        Raises:
            InputError: the run lists none.
        """
        entry = self.entries.get(CALIBRATE)
        if entry is None:
            raise InputError(f"{self.folder / MANIFEST} lists no calibration table; run it again")
        return self._existing(entry.file)

    @property
    def candidates(self) -> tuple[Path, ...]:
        """What the run compared for deployment: fp32, fp16, and the int8 model of each target."""
        rows = self.report.parity.rows[1:] if self.report.parity else ()
        files = dict.fromkeys(row.file for row in rows if row.file is not None)
        kept = [file for file in files if self.folder / file != self.reference]
        return tuple(self._existing(file) for file in kept)

    @property
    def recommended(self) -> Path:
        """The fastest file that kept the budget.

        Raises:
            InputError: none did.
        """
        return self._existing(self._recommendation().file)

    @property
    def recommended_runtime(self) -> RuntimeName:
        """The runtime in which ``recommended`` was the fastest.

        Raises:
            InputError: no file kept the budget, or a runtime that this release does not know.
        """
        stated = self._recommendation().runtime
        known = [name.value for name in RuntimeName]
        if stated not in known:
            raise InputError(
                f"{self.folder / PAGES[0]} recommends the runtime {stated!r}; expected one of "
                f"{', '.join(known)}"
            )
        return RuntimeName(stated)

    def _recommendation(self) -> Recommendation:
        found = self.report.recommendation
        if found is None:
            raise InputError(
                f"{self.folder} recommends no file, for none was proven to keep the budget; name "
                f"one: {', '.join(str(path) for path in self.candidates)}"
            )
        return found

    def _existing(self, file: str) -> Path:
        """A file that the manifest lists.

        Raises:
            InputError: it is not of this run, or it is gone.
        """
        listed = {entry.file for entry in self.entries.values()}
        if file not in listed:
            raise InputError(
                f"{self.folder / MANIFEST} lists no {file}; `segdeploy verify {self.folder}` says "
                "what changed"
            )
        if not (self.folder / file).is_file():
            raise InputError(f"{self.folder / file} is missing; run `segdeploy run` again")
        return self.folder / file
