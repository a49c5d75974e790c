"""From a folder of images to a folder of masks: check the folders, measure, write the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from segdeploy.benchmarks.speed.end_to_end_worker import EndToEnd, Task, measure_here
from segdeploy.benchmarks.speed.records import EndToEndRow, EndToEndSection
from segdeploy.benchmarks.speed.subjects import Subject
from segdeploy.benchmarks.speed.sweep import Point, Sweep
from segdeploy.deploy.data.image_set import IMAGE_SUFFIXES
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.runtimes.executed import Executed
from segdeploy.deploy.runtimes.registry import usable_cores
from segdeploy.deploy.system.errors import InputError, RunError, UsageError
from segdeploy.deploy.system.progress import ShareProgress
from segdeploy.deploy.system.worker_process import call_alone


@dataclass(frozen=True, kw_only=True)
class Route:
    """One model's way through the folder.

    Attributes:
        subject: the model.
        preprocess: its input contract.
        output: folder its masks go to.
    """

    subject: Subject
    preprocess: Preprocess
    output: Path


def image_files(folder: Path) -> tuple[Path, ...]:
    """The images of a folder in name order, told by their first bytes; hidden files are left out.

    Raises:
        InputError: no such folder, nothing in it, a file that is no 8-bit image, a folder inside
            it, or two images whose masks would have one name.
    """
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {found}; expected a folder of images")
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not paths:
        raise InputError(f"{folder} is empty; expected images ({', '.join(IMAGE_SUFFIXES)})")
    for path in paths:
        _require_image(path)
    by_name: dict[str, Path] = {}
    for path in paths:
        other = by_name.setdefault(path.stem, path)
        if other != path:
            raise InputError(
                f"{other} and {path.name} would have the same mask {path.stem}.png; rename one"
            )
    return tuple(paths)


def require_apart(images: Path, masks: Path) -> None:
    """Refuse to write masks among the images, whose names they have.

    Raises:
        UsageError: the same folder, or a file where the masks' folder should be.
    """
    if masks.resolve() == images.resolve():
        raise UsageError(f"-o {masks} holds the images; masks would replace them. Name another")
    if masks.is_file():
        raise UsageError(f"-o {masks} is a file; give a folder for the masks")


def end_to_end_section(
    routes: Sequence[Route],
    paths: Sequence[Path],
    *,
    sweep: Sweep,
    warmup: int,
    duration_s: float,
    progress: ShareProgress,
    time_limit_s: float | None = None,
) -> EndToEndSection:
    """Take every image through every model with every setting, each in a process of its own.

    Args:
        routes: the models and where their masks go; folders are made.
        paths: of the images, as ``image_files`` gives them.
        sweep: settings to go through.
        warmup: calls at the start that the rate leaves out.
        duration_s: shortest measurement; the images are taken again until it has passed.
        progress: told the share done, 0 to 1.
        time_limit_s: longest time for loading a model, and for each call; ``None`` waits.

    Returns:
        A row for each model and setting. A model whose runtime fails is a row without figures.

    Raises:
        InputError: a runtime does not accept a file, or an image cannot be read.
    """
    fitting = sweep.fitting([route.subject.batch for route in routes])
    work = [(point, route) for point in fitting.points() for route in routes]
    rows = []
    for index, (point, route) in enumerate(work):
        skipped = route.subject.skipped or point.skipped
        if not skipped and route.subject.batch not in (None, point.batch):
            skipped = f"takes {route.subject.batch} in a call, and this is {point.batch}"
        found: tuple[EndToEnd, Executed] | None = None
        failed = False
        if point.execution and not skipped:

            def report(share: float, done: int = index) -> None:
                progress((done + share) / len(work))

            route.output.mkdir(parents=True, exist_ok=True)
            task = Task(
                subject=route.subject.request(),
                execution=point.execution,
                preprocess=route.preprocess,
                output=route.output,
                workers=usable_cores(),
                paths=tuple(paths),
                warmup=warmup,
                duration_s=duration_s,
            )
            try:
                found = call_alone(measure_here, task, progress=report, silence_s=time_limit_s)
            except RunError as error:
                skipped, failed = str(error), True
        progress((index + 1) / len(work))
        rows.append(_row(point, route, found, skipped, failed=failed))
    return EndToEndSection(images=len(paths), rows=tuple(rows))


def _row(
    point: Point,
    route: Route,
    found: tuple[EndToEnd, Executed] | None,
    skipped: str | None,
    *,
    failed: bool,
) -> EndToEndRow:
    """What the worker measured, or, where it was not asked or failed, the reason."""
    about = vars(route.subject.identity()) | vars(point.setting)
    size = route.subject.file_bytes
    if found is None:
        return EndToEndRow(**about, file_bytes=size, skipped=skipped, failed=failed)
    measured, executed = found
    return EndToEndRow(
        **about,
        file_bytes=size,
        precision_executed=executed.words,
        int8_mac_share=executed.int8_mac_share,
        masks=len(measured.written_s),
        warmup_masks=measured.warmup,
        images_per_s=measured.images_per_s,
        alone_images_per_s=measured.alone_images_per_s,
        processor_share=measured.processor_share,
        most_at_once=measured.most_at_once,
        bound=measured.bound,
        peak_bytes=measured.peak_bytes,
        written_s=measured.written_s,
    )


def _require_image(path: Path) -> None:
    """Refuse what cannot be decoded as far as its first bytes tell."""
    if path.is_dir():
        raise InputError(
            f"{path.parent} holds the folder {path.name}/; expected images only. Give the folder "
            f"with the images themselves, e.g. {path}"
        )
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise InputError(
            f"{path} is no image ({', '.join(IMAGE_SUFFIXES)}); move it out of the folder"
        )
    try:
        with Image.open(path) as image:
            mode = image.mode
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"image {path} cannot be read ({error}); is it complete?") from error
    if mode.startswith(("I", "F")):
        raise InputError(
            f"image {path} has 16 bits a pixel or more (mode {mode}); expected 8. Scale it to 8 "
            "bits a channel first"
        )
