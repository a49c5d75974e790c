"""Everything is imported below ``segdeploy``: no folder of a user is taken for one of ours.

Nor do we leave a top-level ``deploy`` or ``benchmarks`` in an environment, which another package
would overwrite.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from segdeploy.deploy.system.worker_process import call_alone

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "calibration", "deploy", "examples", "training")
PROJECT = ("LICENSE", "README.md", "pyproject.toml", "setup.cfg")
SEGDEPLOY = str(Path(sys.executable).with_name("segdeploy"))
CHECKPOINT = ROOT / "examples" / "unet_plus_plus_slim_dsb2018.safetensors"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def lookalikes(tmp_path: Path) -> Path:
    """A user's folder with packages that are called like ours, and must not be imported."""
    folder = tmp_path / "own"
    for name in (*FOLDERS, "tests", "onnx", "yaml"):
        package = folder / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"raise SystemExit('the wrong {name}')")
    return folder


@pytest.fixture
def run(lookalikes: Path) -> Run:
    """Run a command in the user's folder; it must succeed."""

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            words, cwd=lookalikes, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done

    return command


class TestAmongLookalikes:
    @pytest.fixture(autouse=True)
    def _ours_alone(self, lookalikes: Path) -> None:
        """``python -c`` and ``python -m`` put the folder on the path: of others, nothing there."""
        for name in ("onnx", "yaml"):
            shutil.rmtree(lookalikes / name)

    def test_the_module(self, run: Run) -> None:
        assert "usage: segdeploy run" in run(sys.executable, "-m", "segdeploy", "run", "-h").stdout

    def test_the_package(self, run: Run) -> None:
        code = f"import segdeploy as sd; print(sd.load({str(CHECKPOINT)!r}).arch.value)"
        assert run(sys.executable, "-c", code).stdout == "unet_plus_plus\n"

    def test_other_programs_of_ours(self, run: Run) -> None:
        for module in ("benchmarks.peers", "benchmarks.published", "training.batch_norm_study"):
            assert "usage: " in run(sys.executable, "-m", f"segdeploy.{module}", "-h").stdout


class TestTheCommand:
    """Not even other packages are looked for in the folder where it is called."""

    def test_processes_of_a_torchrun(
        self, run: Run, tiny_models: dict[str, Path], tmp_path: Path
    ) -> None:
        port = str(29400 + os.getpid() % 100)
        torchrun = [sys.executable, "-P"] if sys.version_info >= (3, 11) else [sys.executable]
        torchrun += ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
        command = ["calibrate", "-m", str(tiny_models["fp32"]), "-o", str(tmp_path / "table.json")]
        command += ["--calib-data", str(tiny_models["fp32"].parent / "set")]
        run(*torchrun, "--master-port", port, "--no-python", SEGDEPLOY, *command)
        assert (tmp_path / "table.json").is_file()

    def test_onnxsim(self, run: Run, tiny_models: dict[str, Path], tmp_path: Path) -> None:
        output = tmp_path / "net.onnx"
        done = run(SEGDEPLOY, "simplify", "-m", str(tiny_models["fp32"]), "-o", str(output))
        assert "onnxsim failed" not in done.stderr
        assert output.is_file()

    def test_isolated_workers(self, run: Run, tiny_models: dict[str, Path]) -> None:
        float_, int8 = (str(tiny_models[name]) for name in ("fp32", "int8 ort-x86"))
        shared = ["--data", str(tiny_models["fp32"].parent / "set"), "--threads", "1"]
        parity = run(
            SEGDEPLOY, "parity", "-m", int8, "--reference", float_, "--max-drop", "100", *shared
        )
        assert "FAILED" not in parity.stdout + parity.stderr
        times = ["--warmup", "1", "--duration", "0.05", "--batch", "1"]
        benchmark = run(SEGDEPLOY, "benchmark", "-m", float_, int8, *times, *shared)
        assert "FAILED" not in benchmark.stdout + benchmark.stderr


def test_a_worker_alone_looks_nowhere_else(
    lookalikes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lookalikes)
    assert call_alone(os.getcwd) == str(lookalikes)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project; in place of checkpoints stand short files, which are packed faster."""
    folder = tmp_path_factory.mktemp("build") / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    for name in (*FOLDERS, "segdeploy"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignore)
    for name in PROJECT:
        shutil.copy(ROOT / name, folder)
    for path in (folder / "examples").glob("*.safetensors"):
        path.write_bytes(b"short")
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    return built(checkout, "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, checkout: Path) -> Path:
    """What an environment has of it."""
    folder = checkout.parent / "installed"
    pip("install", "--no-deps", "--no-index", "--target", str(folder), str(wheel))
    return folder


class TestWheel:
    """Built from a clean copy, and from the source distribution of one."""

    def test_it_holds_every_file_of_the_packages(self, checkout: Path, wheel: Path) -> None:
        names = set(zipfile.ZipFile(wheel).namelist())
        for name in FOLDERS:
            for path in (checkout / name).rglob("*"):
                if path.is_file():
                    assert f"segdeploy/{path.relative_to(checkout).as_posix()}" in names
        assert "segdeploy/py.typed" in names
        tops = {name.partition("/")[0] for name in names}
        assert all(top == "segdeploy" or top.endswith(".dist-info") for top in tops)

    def test_the_source_distribution_gives_the_same(self, checkout: Path, wheel: Path) -> None:
        again = built(built(checkout, "sdist"), "wheel")
        one, other = (zipfile.ZipFile(path) for path in (wheel, again))
        assert sorted(one.namelist()) == sorted(other.namelist())
        for name in one.namelist():
            if not name.endswith(("RECORD", "METADATA")):
                assert one.read(name) == other.read(name), name

    def test_only_segdeploy_can_be_imported(self, installed: Path, tmp_path: Path) -> None:
        code = "\n".join(
            [
                "import importlib, segdeploy, segdeploy.deploy.data.bundled as bundled",
                f"for name in {FOLDERS}:",
                "    try:",
                "        importlib.import_module(name)",
                "    except ModuleNotFoundError:",
                "        continue",
                "    raise SystemExit(f'{name} can be imported')",
                "print(segdeploy.__file__, bundled.sample(), sep='\\n')",
            ]
        )
        done = self.python(installed, tmp_path, "-c", code)
        package, sample = done.stdout.splitlines()
        assert Path(package).parent == installed / "segdeploy"
        assert (Path(sample) / "splits.csv").is_file()

    def test_the_command_runs_from_any_folder(self, installed: Path, tmp_path: Path) -> None:
        assert (
            "onnxruntime"
            in self.python(
                installed, tmp_path, "-m", "segdeploy", "doctor", "--format", "json"
            ).stdout
        )

    def python(
        self, installed: Path, folder: Path, *words: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )


def built(source: Path, kind: str) -> Path:
    """A distribution of a checkout, or of another distribution, built without the network."""
    folder = source.parent / f"{kind} of {source.name}"
    if kind == "sdist":
        code = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    else:
        pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, source)
    (found,) = folder.iterdir()
    return found


def pip(*words: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
