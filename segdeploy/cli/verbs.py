"""What each verb does with its flags: load, call one function, say what was written.

Importing torch takes seconds and 250 MB, so only the verbs that need it do, when they are called:
calibrating, converting and quantizing run without it.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Sequence

from segdeploy.benchmarks.report.rows import failed_rows
from segdeploy.benchmarks.speed.environment import describe as describe_environment
from segdeploy.calibration.estimate import Method
from segdeploy.cli import align as cli_align
from segdeploy.cli import artifacts as cli_artifacts
from segdeploy.cli import benchmark as cli_benchmark
from segdeploy.cli import debug as cli_debug
from segdeploy.cli import doctor as cli_doctor
from segdeploy.cli import package as cli_package
from segdeploy.cli import parity as cli_parity
from segdeploy.cli import predict as cli_predict
from segdeploy.cli import report as cli_report
from segdeploy.cli import train as cli_train
from segdeploy.cli import verify as cli_verify
from segdeploy.cli.inputs import GATE_FAILED, Options, Result, given_or_bundled, runtimes_of
from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.prepare import prepare_raw
from segdeploy.deploy.runtimes.registry import CPU_RUNTIMES, availability, usable_cores
from segdeploy.deploy.system.errors import RunError
from segdeploy.deploy.system.progress import bar
from segdeploy.deploy.system.shown_command import shown_command
from segdeploy.deploy.targets.profiles import native_profile, profile_named
from segdeploy.pipeline.run_config import RunConfig

log = logging.getLogger(__name__)


def data(options: Options, arguments: Sequence[str]) -> Result:
    """Prepare a dataset."""
    rows = prepare_raw(
        options.raw,
        options.output,
        layout=options.layout,
        seed=options.seed,
        ratios=None if options.ratios is None else tuple(options.ratios),
        progress=lambda sources: bar(sources, "prepare", unit="image"),
    )
    counts = {s: sum(row.split == s for row in rows) for s in ("train", "val", "test")}
    shown = ", ".join(f"{count} {split}" for split, count in counts.items())
    log.info("%s: %d images (%s)", options.output, len(rows), shown)
    return 0, {"output": str(options.output), "images": len(rows), "splits": counts}


def run_all(options: Options, arguments: Sequence[str]) -> Result:
    """The whole job."""
    from segdeploy.pipeline.run import run

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
    content = run(config, checkpoint)
    log.info("report: %s", options.output / "report.html")
    failed = failed_rows(content, "benchmark")
    for row in failed:
        log.warning("%s, batch %d: FAILED, %s", row["name"], row["batch"], row["skipped"])
    if not content["passed"]:
        return GATE_FAILED, content
    return (RunError.exit_code if failed else 0), content


VERBS: dict[str, Callable[[Options, Sequence[str]], Result]] = {
    "doctor": cli_doctor.doctor,
    "data": data,
    "train": cli_train.train,
    "align": cli_align.align,
    "export": cli_artifacts.export_model,
    "simplify": cli_artifacts.simplify_model,
    "convert": cli_artifacts.convert,
    "rewrite": cli_artifacts.rewrite_model,
    "calibrate": cli_artifacts.calibrate_model,
    "quantize": cli_artifacts.quantize,
    "parity": cli_parity.parity,
    "debug": cli_debug.debug,
    "benchmark": cli_benchmark.benchmark,
    "package": cli_package.package_models,
    "report": cli_report.report,
    "predict": cli_predict.run_predict,
    "verify": cli_verify.verify_folder,
    "run": run_all,
}
