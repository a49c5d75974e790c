"""One calibration tool, measured in a process of its own.

``benchmarks.peers.calibration`` runs ``python -m segdeploy.benchmarks.peers.worker FOLDER``:
the request lies in the folder, the measurement is written beside it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from segdeploy.benchmarks.peers.ranges import Range
from segdeploy.benchmarks.peers.tools import Job, Tool, load
from segdeploy.benchmarks.speed.process import peak_bytes
from segdeploy.calibration.errors import CalibrationError
from segdeploy.deploy.data.image_set import Sample
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.system.errors import InputError, RunError, SegdeployError

REQUEST, MEASUREMENT = "request.json", "measurement.json"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one tool took and found.

    Attributes:
        seconds: of collection and search, from the model file and the image files on; imports
            are not in it.
        whole_seconds: of the call, which for a tool that also quantizes is more.
        peak_bytes: largest resident memory of the process, imports included.
        imports_bytes: of it, what the process held at most before the work began.
        candidates: thresholds compared for one tensor, at most.
        ranges: tensor name to lower and upper end.

    Raises:
        RunError: figures that cannot be.
    """

    seconds: float
    whole_seconds: float
    peak_bytes: int
    imports_bytes: int
    candidates: int
    ranges: dict[str, Range]

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= self.whole_seconds:
            raise RunError(f"{self.seconds} s of {self.whole_seconds} s is no measurement")
        if not 0 < self.imports_bytes <= self.peak_bytes:
            raise RunError(f"{self.imports_bytes} of {self.peak_bytes} bytes is no measurement")
        if not self.ranges or self.candidates < 0:
            raise RunError(f"{len(self.ranges)} ranges, {self.candidates} candidates: not a result")

    @classmethod
    def read(cls, folder: Path) -> Measurement:
        """What a worker wrote."""
        fields = json.loads((folder / MEASUREMENT).read_text(encoding="utf-8"))
        fields["ranges"] = {name: tuple(ends) for name, ends in fields["ranges"].items()}
        return cls(**fields)


def write_request(tool: Tool, job: Job) -> None:
    """Leave a job for a worker in the job's folder."""
    fields = asdict(job) | {"tool": tool.value, "preprocess": job.preprocess.to_json()}
    text = json.dumps(fields, default=str)
    (job.folder / REQUEST).write_text(text, encoding="utf-8")


def measure(tool: Tool, job: Job) -> Measurement:
    """Import a tool, run it once, and say what it took."""
    _limit_processors(job.threads)
    run = load(tool)
    imports = peak_bytes()
    started = perf_counter()
    found = run(job)
    whole = perf_counter() - started
    return Measurement(
        seconds=whole if found.seconds is None else found.seconds,
        whole_seconds=whole,
        peak_bytes=peak_bytes(),
        imports_bytes=imports,
        candidates=found.candidates,
        ranges=found.ranges,
    )


def main(arguments: Sequence[str]) -> int:
    """Run the request of a folder; the exit codes are the command line's."""
    folder = Path(arguments[0])
    try:
        tool, job = _read_request(folder)
        measurement = measure(tool, job)
        text = json.dumps(asdict(measurement), allow_nan=False)
        (folder / MEASUREMENT).write_text(text, encoding="utf-8")
    except CalibrationError as error:
        return _say(InputError(str(error)))
    except SegdeployError as error:
        return _say(error)
    return 0


def _read_request(folder: Path) -> tuple[Tool, Job]:
    fields: dict[str, Any] = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    tool = Tool(fields.pop("tool"))
    return tool, Job(
        model=Path(fields["model"]),
        input_name=fields["input_name"],
        samples=tuple(
            Sample(
                name=sample["name"],
                image_path=Path(sample["image_path"]),
                mask_path=Path(sample["mask_path"]),
            )
            for sample in fields["samples"]
        ),
        preprocess=Preprocess.from_json(fields["preprocess"], source=str(folder / REQUEST)),
        threads=fields["threads"],
        folder=folder,
    )


def _limit_processors(threads: int) -> None:
    """Confine this process and its runtime, whichever tool opens it, to a number of processors.

    ONNX Runtime's calibrators and NNCF let nobody choose, and a session's threads leave the
    processors of their process unless their number is stated.
    """
    import onnxruntime

    class Limited(onnxruntime.SessionOptions):  # type: ignore[misc]  # it has no type stubs
        def __init__(self) -> None:
            super().__init__()
            self.intra_op_num_threads = threads

    onnxruntime.SessionOptions = Limited
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _say(error: SegdeployError) -> int:
    print(error, file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
