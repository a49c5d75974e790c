"""Full, read-only and missing places to write: one line, nothing half-written, the same again."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_images import picture
from bad_input import Outcome, assert_refused, run_command
from matplotlib.figure import Figure
from tiny import TINY

import segdeploy.calibration.files
from segdeploy.calibration.files import atomic_writer, remove_partial, write_atomic
from segdeploy.cli.main import main
from segdeploy.deploy.models import UNetPlusPlus
from segdeploy.deploy.models.checkpoint import save_checkpoint

AGAIN = "free space .*and run the same command again"


@dataclass(frozen=True)
class Verb:
    """A verb that writes to ``out``.

    Attributes:
        words: its arguments.
        unlike: names of what is not the same twice, because it holds times.
    """

    words: str
    unlike: str = "nothing"


VERBS = {
    "data": Verb("data prepare set"),
    "export": Verb("export -c net.safetensors --head 1"),
    "convert": Verb("convert -m net.onnx"),
    "calibrate": Verb(
        "calibrate -m net.onnx --calib-data set --threads 1 --method minmax "
        "--export onnxruntime tensorrt"
    ),
    "predict": Verb("predict net.onnx set/images --threads 1 --write mask labels"),
    "package": Verb("package --target onnx -m net.onnx --data set"),
    "train": Verb(
        "train --data set --preprocess tiny.json --width 2 --threads 1 --epochs 1 --batch 6",
        unlike=r"history\.csv|state\.pt|checksums\.sha256",
    ),
    "run": Verb(
        "run -c net.safetensors --head 1 --data set --target ort-x86 --max-drop 100 "
        "--runtime onnxruntime --warmup 1 --duration 0.01 --threads 1 --num-samples 1",
        unlike=r"report\..*|checksums\.sha256",
    ),
}
FAST = [name for name in VERBS if name not in ("train", "run")]


class Disk:
    """Counts what is written below ``out``, and refuses it when it is full.

    Attributes:
        writes: so far; with ``by_file`` the files that were begun.
        full_at: the first that is refused; ``None`` for none.
        error: number of the system's error.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.writes, self.by_file = 0, False
        self.full_at: int | None = None
        self.error = errno.ENOSPC
        raw, write_bytes, write_text = (
            segdeploy.calibration.files._Raw,
            Path.write_bytes,
            Path.write_text,
        )
        disk = self

        class Raw(raw):  # type: ignore[misc,valid-type]  # the class of the moment
            def __init__(self, path: Path, mode: str) -> None:
                super().__init__(path, mode)
                self.path = Path(path)
                disk.count(self.path, begun=True)

            def into_file(self, data: bytes) -> int:
                disk.count(self.path, begun=False)
                return int(super().into_file(data))

        def bytes_written(path: Path, data: bytes) -> int:
            disk.count(path)
            return write_bytes(path, data)

        def text_written(path: Path, *arguments: object, **options: object) -> int:
            disk.count(path)
            return write_text(path, *arguments, **options)  # type: ignore[arg-type]  # passed on

        patch.setattr("segdeploy.calibration.files._Raw", Raw)
        patch.setattr(Path, "write_bytes", bytes_written)
        patch.setattr(Path, "write_text", text_written)

    def count(self, path: Path, *, begun: bool | None = None) -> None:
        """One more write, or one too many; ``begun`` where a file is opened."""
        if not path.absolute().is_relative_to(Path.cwd()):
            return  # a temporary file, on another disk
        if begun is None or begun == self.by_file:
            self.writes += 1
        if self.full_at is not None and self.writes >= self.full_at and not begun:
            raise OSError(self.error, os.strerror(self.error))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The disk that everything below ``out`` is written to."""
    return Disk(monkeypatch)


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory,
    small_onnx: Callable[..., Path],
    make_image_set: Callable[[Path, list[str]], Path],
    _tiny_unet: UNetPlusPlus,
    no_cold_start: None,
) -> Path:
    """A model, a checkpoint, a contract and a prepared folder."""
    root = tmp_path_factory.mktemp("inputs")
    small_onnx(root / "net.onnx")
    save_checkpoint(_tiny_unet, root / "net.safetensors", preprocess=TINY)
    (root / "tiny.json").write_text(TINY.to_json())
    make_image_set(root / "set", ["train", "train", "val", "test", "test"])
    return root


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: Path) -> Callable[..., Outcome]:
    """Function (name, flags) -> outcome of a verb that writes to ``out`` in a folder of inputs."""
    for path in inputs.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "segdeploy.deploy.quantize.calibrate.return_freed_memory", lambda: None
    )  # takes a second

    def verb(name: str, *flags: str, output: str = "out") -> Outcome:
        return run_command([*VERBS[name].words.split(), "-o", output, *flags], tmp_path)

    return verb


Content = dict[str, bytes]


def outputs(verb: str) -> Content:
    """What lies in ``out``, or beside it under its name, but for what is never the same twice."""
    paths = [path for top in Path().glob("out*") for path in (top, *top.rglob("*"))]
    unlike = re.compile(VERBS[verb].unlike)
    return {str(p): p.read_bytes() for p in paths if p.is_file() and not unlike.fullmatch(p.name)}


def removed() -> None:
    """``out`` is no more."""
    for top in Path().glob("out*"):
        shutil.rmtree(top) if top.is_dir() else top.unlink()


GROWING = ("out/index.jsonl", "out/manifest.json", "out/unet_plus_plus_l1.measured.json")
"""What is done is noted there as it is done."""


def assert_full(outcome: Outcome, *, whole: Content, before: Content, verb: str) -> None:
    """The laws of a full disk.

    Args:
        outcome: of the verb.
        whole: what an undisturbed one ends with.
        before: what was there.
        verb: its name.
    """
    message = rf"the system refused \S*out\S*: No space left on device; {AGAIN}"
    assert_refused(replace(outcome, changed=()), code=4, message=message)
    after = outputs(verb)
    assert not [name for name in after if "partial" in name or name.endswith(".lock")]
    for name, content in after.items():
        if name not in GROWING:
            assert content in (whole.get(name), before.get(name)), f"{name} is neither old nor new"
    gone = before.keys() - after.keys() - {"out/splits.csv"}
    assert not gone, "a preparation takes the table away first, and nothing else"


@pytest.mark.parametrize("name", FAST)
def test_a_disk_that_is_full_at_any_write(
    verb: Callable[..., Outcome], disk: Disk, name: str
) -> None:
    assert verb(name).code == 0
    whole, writes = outputs(name), disk.writes
    assert writes > 0
    for full_at in range(1, writes + 1):
        removed()
        disk.writes, disk.full_at = 0, full_at
        assert_full(verb(name), whole=whole, before={}, verb=name)
        disk.full_at = None
        assert verb(name).code == 0, "the same command again"
        assert outputs(name) == whole


@pytest.mark.parametrize("name", [name for name in FAST if name != "predict"])
def test_what_was_there_stays_when_the_disk_is_full(
    verb: Callable[..., Outcome], disk: Disk, name: str
) -> None:
    assert verb(name).code == 0
    whole = outputs(name)
    disk.writes, disk.full_at = 0, 1
    assert_full(verb(name, "--overwrite"), whole=whole, before=whole, verb=name)


def test_a_training_on_a_disk_that_is_full_at_any_file(
    verb: Callable[..., Outcome], disk: Disk
) -> None:
    disk.by_file = True
    assert verb("train").code == 0
    whole, files = outputs("train"), disk.writes
    assert files == 7, "the state, two checkpoints, the history, the state, curves, checksums"
    removed()
    for full_at in (1, 2, 2, 3, 4, 5, 2):  # a state stays, once it is written
        disk.writes, disk.full_at = 0, full_at
        assert_full(verb("train"), whole=whole, before=outputs("train"), verb="train")
    disk.full_at = None
    assert verb("train").code == 0
    assert outputs("train") == whole


def test_a_run_on_a_disk_that_is_full_again_and_again(
    verb: Callable[..., Outcome], disk: Disk
) -> None:
    """Each attempt goes on from what those before it finished, until the report is refused."""
    assert verb("run").code == 0
    whole = outputs("run")
    removed()
    for full_at in (1, 4, 7, 2):
        disk.writes, disk.full_at = 0, full_at
        before = outputs("run")
        assert_full(verb("run"), whole=whole, before=before, verb="run")
    disk.full_at = None
    assert verb("run").code == 0
    assert outputs("run") == whole


# --- other refusals of the system --------------------------------------------------------------

REFUSALS = {
    errno.ENOSPC: AGAIN,
    errno.EDQUOT: "free space within your quota .*run the same command again",
    errno.EROFS: "choose another -o, or mount it for writing",
    errno.EACCES: "change its permissions, or choose another path",
    errno.EPERM: "change its permissions or attributes",
    errno.EFBIG: "allows no larger file",
    errno.EIO: "has a fault",
}


@pytest.mark.parametrize("error", REFUSALS, ids=[errno.errorcode[error] for error in REFUSALS])
@pytest.mark.parametrize("name", ["convert", "predict"])
def test_each_refusal_has_its_way_out(
    verb: Callable[..., Outcome], disk: Disk, name: str, error: int
) -> None:
    disk.full_at, disk.error = 1, error
    outcome = verb(name)
    message = rf"the system refused \S*out\S*: {re.escape(os.strerror(error))}; .*{REFUSALS[error]}"
    assert_refused(replace(outcome, changed=()), code=4, message=message)


@pytest.mark.parametrize("calls", range(1, 90, 11))
def test_a_library_that_hides_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk, calls: int
) -> None:
    """``torch.save`` turns it into words about positions, ``savefig`` and ``savez`` may as well."""
    monkeypatch.chdir(tmp_path)
    disk.full_at = calls
    path = tmp_path / "x"
    for save in (
        lambda stream: torch.save({str(i): torch.zeros(5000) for i in range(40)}, stream),
        lambda stream: np.savez(stream, **{str(i): np.zeros(5000) for i in range(40)}),
        lambda stream: Figure().savefig(stream, format="png", dpi=400),
        lambda stream: picture().resize((999, 999)).save(stream, format="PNG"),
    ):
        disk.writes = 0
        with suppress(OSError), atomic_writer(path) as stream:
            save(stream)
        assert disk.writes > 0
        assert path.exists() == (disk.writes < calls)
        path.unlink(missing_ok=True)
        assert list(tmp_path.iterdir()) == []


PLACES = {
    "below a file": ("net.onnx/x", "net.onnx.*where a folder is expected"),
    "too long a name": ("x" * 256, "File name too long; choose a shorter name"),
    "in a circle": ("circle/x", "circle.*(symbolic links|a link).*choose another path"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["data", "convert", "calibrate", "predict", "package", "train"])
def test_a_place_where_nothing_can_be_written(
    verb: Callable[..., Outcome], tmp_path: Path, name: str, place: str
) -> None:
    (tmp_path / "circle").symlink_to("circle")
    output, message = PLACES[place]
    assert_refused(verb(name, output=output), code=4, message=message)


def test_a_name_of_255_bytes_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127 + "x")
    write_atomic(path, b"whole")
    assert path.read_bytes() == b"whole"
    left = tmp_path / f"{'0' * 64}.1.partial"
    left.touch()
    remove_partial(tmp_path, of=path.name)
    assert left.exists(), "of another file"
    remove_partial(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["calibrate", "export"])
def test_no_temporary_folder(verb: Callable[..., Outcome], tmp_path: Path, name: str) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    def without(argv: Sequence[str]) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", None)
            patch.setattr(tempfile, "_get_default_tempdir", none)
            return main(argv)

    words = [*VERBS[name].words.split(), "-o", "out"]
    outcome = run_command(words, tmp_path, command=without)
    if name == "export":
        assert outcome.code == 0, "none is needed"
        return
    assert_refused(outcome, code=4, message="No usable temporary directory.*or set TMPDIR to a")


def test_a_fault_of_ours_without_a_temporary_folder(
    verb: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*arguments: object, **options: object) -> str:
        raise OSError(errno.EROFS, "Read-only file system", "/tmp/x")

    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", none)
    monkeypatch.setattr("segdeploy.cli.convert.run", broken)
    outcome = verb("convert")
    message = "internal error .ZeroDivisionError: ours.*traceback could not be written: Read-only"
    assert_refused(outcome, code=4, message=message)


# --- the clock ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["calibrate", "predict", "train"])
def test_no_output_depends_on_the_clock_or_on_dates_of_files(
    verb: Callable[..., Outcome], inputs: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The clock goes back an hour at each look; the files are of the year 2100."""
    assert verb(name).code == 0
    whole = outputs(name)
    removed()
    now = itertools.count(2_000_000_000, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    for path in inputs.rglob("*"):
        os.utime(path, (4_102_444_800, 4_102_444_800))
    outcome = verb(name)
    assert outcome.code == 0
    assert outputs(name) == whole
    assert not re.search(r"-\d+\.\d+ s\b", "\n".join(outcome.lines)), "no negative time"
    again = verb(name, *(("--overwrite",) if name == "calibrate" else ()))
    assert again.code == 0
    assert outputs(name) == whole


# --- for real ----------------------------------------------------------------------------------

ON_A_DISK = {
    "data": "data prepare set -o disk/out",
    "convert": "convert -m net.onnx -o disk/x.onnx",
    "calibrate": "calibrate -m net.onnx --calib-data set --threads 1 -o disk/x.json",
    "predict": "predict net.onnx set/images --threads 1 --write probability-npy -o disk/out",
    "onnx package": "package --target onnx -m net.onnx --data set -o disk/out",
    "openvino package": "package --target openvino -m net.onnx --data set -o disk/out",
    "checkpoint": "train --data set --preprocess tiny.json --width 2 --threads 1 -o disk/out",
}
SIZES = (0, 4, 16)


def test_disks_that_are_full_or_read_only_for_real(inputs: Path, tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if os.geteuid() != 0 or unshare is None:
        pytest.skip("mounting a disk needs root and unshare")
    works = subprocess.run([unshare, "-m", "mount", "-t", "tmpfs", "x", tmp_path], check=False)
    if works.returncode:
        pytest.skip("this system does not let root mount a disk")
    for path in inputs.iterdir():
        (tmp_path / path.name).symlink_to(path)
    cases = [
        {"name": name, "argv": words.split(), "size": size}
        for name, words in ON_A_DISK.items()
        for size in SIZES
    ]
    script = Path(__file__).parents[1] / "small_disk.py"
    process = subprocess.run(
        [unshare, "-m", sys.executable, script, tmp_path],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    full = 0
    for case, found in zip(cases, json.loads(process.stdout), strict=True):
        said = next(iter(found["lines"][::-1]), "")  # a success says nothing there
        assert found["code"] in (0, 4), (case, said)
        assert not [name for name in found["left"] if "partial" in name], (case, found["left"])
        if found["code"] == 0:
            assert case["size"], "a read-only disk was written to"
            continue
        refused = "No space left on device; free" if case["size"] else "Read-only file system; it"
        reason = f"disk.*: {refused}|OpenVINO cannot write .* free space there"
        assert re.match(f"segdeploy: error: .*({reason})", said), (case, said)
        full += bool(case["size"])
    assert full >= len(ON_A_DISK), "disks that were too small"


# --- the streams of a process ------------------------------------------------------------------

STREAMS: dict[str, tuple[str, int, str]] = {
    "closed": ("{0} -o größe >&- 2>&- <&-", 0, ""),
    "another language, no home": ("LC_ALL=C HOME= PYTHONUTF8=0 {0} -o größe", 0, "e: 5 images"),
    "full output": (
        "{0} -o größe --format json >/dev/full",
        4,
        "refused standard output: No space left",
    ),
    "a reader that left": ("{{ {0} -o größe --format json; echo $? >code; }} | true", 4, ""),
}


@pytest.mark.parametrize("streams", STREAMS)
def test_streams_that_are_closed_full_or_of_another_language(
    inputs: Path, tmp_path: Path, streams: str
) -> None:
    line, code, words = STREAMS[streams]
    command = (
        f"{shlex.quote(sys.executable)} -m segdeploy data prepare {shlex.quote(str(inputs))}/set"
    )
    root = str(Path(__file__).parents[2])
    found = subprocess.run(
        ["sh", "-c", line.format(command)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        check=False,
    )
    said = found.stderr.decode("utf-8", "replace")
    kept = tmp_path / "code"
    assert (int(kept.read_text()) if kept.exists() else found.returncode) == code, said
    answer = found.stdout.decode("utf-8", "replace")
    assert words in said + answer, said + answer
    assert not re.search("Traceback|Exception ignored|internal error|Warning", said), said
    assert len(list((tmp_path / "größe" / "masks").iterdir())) == 5
    for path in (tmp_path / "größe").rglob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG"), "nothing that was said went into a file"
