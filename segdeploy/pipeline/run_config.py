"""What a run was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segdeploy.calibration.estimate import Method
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.runtimes.registry import RuntimeName
from segdeploy.deploy.targets.profiles import TargetProfile

# fmt: off
STAGES = (
    "export", "simplify", "fp16", "rewrite", "calibrate", "int8",
    "debug", "parity", "benchmark", "layer-times", "worst-images",
)
# fmt: on
"""What can be asked for again; ``export`` is the first stage, whatever was brought."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What ``run`` was asked for.

    Attributes:
        name: stem of every artefact.
        output: folder to write to.
        calibration: images to calibrate on.
        evaluation: images to report on.
        method: of the range search.
        targets: int8 models to make.
        runtimes: to run on; ``None`` takes what each file suits and is installed.
        exclude: layers to keep in float in the int8 models.
        max_drop: largest loss of IoU that passes, percentage points; of mIoU with several classes.
        max_drop_class: with several, of the IoU of each; ``None`` asks only that none is lost.
        batch: images per call of the throughput measurement.
        threads: of each runtime.
        warmup: untimed calls.
        duration_s: seconds of timing for each row.
        seed: of the bootstrap.
        time_limit_s: longest time for loading a model, and for each of its calls.
        overwrite: replace what the output folder holds.
        rerun: stages to do again though nothing that decides them changed, of ``STAGES``.
        tune_s: seconds for each int8 model to find the fastest placement of Q and DQ here; ``None``
            leaves them where the target's rule puts them.
        device_file: what is known of devices; ``None`` keeps it in the output folder.
        command: the command line that reproduces the run, as ``shown_command`` shows it.
    """

    name: str
    output: Path
    calibration: SegmentationSet
    evaluation: SegmentationSet
    method: Method
    targets: tuple[TargetProfile, ...]
    runtimes: tuple[RuntimeName, ...] | None
    exclude: tuple[str, ...]
    max_drop: float
    batch: int
    threads: int
    warmup: int
    duration_s: float
    seed: int
    time_limit_s: float
    overwrite: bool
    command: str
    max_drop_class: float | None = None
    rerun: tuple[str, ...] = ()
    tune_s: float | None = None
    device_file: Path | None = None
