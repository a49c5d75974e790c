"""``segdeploy run``: the whole job."""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from pathlib import Path

from segdeploy.cli.flags import (
    TARGETS,
    Group,
    calibration_data,
    checkpoint_flags,
    evaluation_data,
    exclude_flag,
    max_drop_flag,
    method_flag,
    output_flag,
    overwrite_flag,
    positive_int,
    runtime_flag,
    seed_flag,
    threads_flag,
    time_limit_flag,
    timing_flags,
)
from segdeploy.cli.inputs import GATE_FAILED, Options, Result, given_or_bundled, runtimes_of
from segdeploy.deploy.data import bundled
from segdeploy.deploy.system.errors import RunError
from segdeploy.deploy.system.shown_command import shown_command

log = logging.getLogger(__name__)


def add_flags(verb: Group) -> None:
    """Everything the whole job takes."""
    checkpoint_flags(verb, required=False)
    output_flag(verb, "folder to write (default: segdeploy-out)", default=Path("segdeploy-out"))
    evaluation_data(verb)
    calibration_data(verb)
    method_flag(verb)
    verb.add_argument(
        "--target",
        choices=TARGETS,
        nargs="+",
        help="int8 models to make (default: one for each runtime installed; ort-arm, "
        "ort-x86-no-vnni and tensorrt: not run on hardware)",
    )
    exclude_flag(verb)
    runtime_flag(verb)
    max_drop_flag(verb)
    verb.add_argument("--batch", type=positive_int, default=8, help="for throughput (default: 8)")
    timing_flags(verb)
    threads_flag(verb)
    time_limit_flag(verb)
    seed_flag(verb)
    overwrite_flag(verb, "what the folder holds; without it a run goes on")


def run(options: Options, arguments: Sequence[str]) -> Result:
    """The whole job."""
    from segdeploy.benchmarks.report.verdict import verdict_text
    from segdeploy.benchmarks.speed.environment import describe as describe_environment
    from segdeploy.calibration.estimate import Method
    from segdeploy.deploy.data.image_set import open_set
    from segdeploy.deploy.runtimes.registry import CPU_RUNTIMES, availability, usable_cores
    from segdeploy.deploy.targets.profiles import native_profile, profile_named
    from segdeploy.pipeline.run import run as run_stages
    from segdeploy.pipeline.run_config import RunConfig

    checkpoint = given_or_bundled(options)
    data_root = options.data or bundled.sample()
    calibration = open_set(options.calib_data or data_root, "train")
    machine = describe_environment()
    targets = [profile_named(name) for name in options.target or ()] or [
        native_profile(runtime, machine=platform.machine(), isa=machine.isa)
        for runtime in CPU_RUNTIMES
        if availability(runtime).ready
    ]
    head = f"_l{checkpoint.head}" if checkpoint.head not in (None, 4) else ""
    config = RunConfig(
        name=f"{checkpoint.arch.value}{head}",
        output=options.output,
        calibration=calibration.take(options.num_samples, seed=options.seed),
        evaluation=open_set(data_root, "test"),
        method=Method(options.method),
        targets=tuple(targets),
        runtimes=runtimes_of(options, checkpoint),
        exclude=tuple(options.exclude),
        max_drop=options.max_drop,
        batch=options.batch,
        threads=options.threads or usable_cores(),
        warmup=options.warmup,
        duration_s=options.duration,
        seed=options.seed,
        time_limit_s=options.time_limit,
        overwrite=options.overwrite,
        command=shown_command(["segdeploy"], arguments),
    )
    report = run_stages(config, checkpoint)
    log.info("%s", verdict_text(report))
    log.info("report: %s", options.output / "report.html")
    failed = [row for row in report.benchmark.rows if row.failed] if report.benchmark else []
    for row in failed:
        log.warning("%s, batch %d: FAILED, %s", row.name, row.batch, row.skipped)
    if not report.passed:
        return GATE_FAILED, report
    return (RunError.exit_code if failed else 0), report
