"""What `segdeploy run` and `segdeploy package` write, as one list of checksums.

A change that should leave every artefact as it is runs this before and after::

    python tests/golden.py /tmp/before.json
    python tests/golden.py /tmp/after.json --against /tmp/before.json

Both bundled networks, the sample, every target, every package. The bytes depend on the versions of
torch and ONNX Runtime and on the processor: compare runs of one machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

SAMPLE = Path(__file__).parent.parent / "examples" / "dsb2018_sample"
NETWORKS = ("unet_plus_plus", "r2u_net")
ARTEFACTS = ("*.onnx", "*.calib.json")


def main() -> int:
    """Write the list; say what differs from another one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="list to write (JSON)")
    parser.add_argument("--against", type=Path, help="list of before; exit code 1 where it differs")
    parser.add_argument("--arch", choices=NETWORKS, nargs="+", default=NETWORKS)
    parser.add_argument(
        "--segdeploy",
        default=f"{Path(sys.executable).with_name('segdeploy')}",
        help="command to run (default: the one beside this Python)",
    )
    options = parser.parse_args()
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for arch in options.arch:
            _make(shlex.split(options.segdeploy), arch, Path(folder) / arch)
            found |= _sums(Path(folder) / arch, arch)
    options.output.write_text(json.dumps(found, indent=1, sort_keys=True), encoding="utf-8")
    print(f"{options.output}: {len(found)} files")
    if options.against is None:
        return 0
    before = json.loads(options.against.read_text(encoding="utf-8"))
    changed = sorted(n for n in before.keys() | found.keys() if before.get(n) != found.get(n))
    for name in changed:
        print(f"CHANGED {name}: {before.get(name, 'absent'):.12} {found.get(name, 'absent'):.12}")
    print(f"{len(changed)} of {len(before)} differ")
    return 1 if changed else 0


def _make(command: list[str], arch: str, folder: Path) -> None:
    """One finished run, and each package of it."""
    data = str(SAMPLE)
    run = folder / "run"
    timing = ["--warmup", "0", "--duration", "0.01"]
    _call(command, "run", "--arch", arch, "-o", str(run), "--threads", "2", *timing)
    (sim,) = (str(path) for path in run.glob("*.sim.onnx"))
    (opt,) = (str(path) for path in run.glob("*.opt.onnx"))
    (table,) = (str(path) for path in run.glob("*.calib.json"))
    (ort,) = (str(path) for path in run.glob("*.int8.ort-x86.onnx"))
    (ov,) = (str(path) for path in run.glob("*.int8.openvino-cpu.onnx"))
    packages = {
        "onnx": ["-m", sim, ort],
        "openvino": ["-m", sim, ov, "--batch", "1"],
        "triton": ["-m", sim, ort],
        "tensorrt": ["-m", opt, "--calibration", table, "--data", data],
        "vacc": ["-m", sim, "--calib-data", data, "--num-samples", "8", "--data", data],
        "ascend": ["-m", sim, "--calib-data", data, "--num-samples", "8", "--data", data],
    }
    for target, flags in packages.items():
        _call(command, "package", "--target", target, *flags, "-o", str(folder / target))


def _call(command: list[str], *arguments: str) -> None:
    print("segdeploy", *arguments[:3], flush=True)
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode not in (
        0,
        1,
    ):  # a parity that is not proven leaves its artefacts all the same
        raise SystemExit(f"exit code {done.returncode}:\n{done.stderr}")


def _sums(folder: Path, arch: str) -> dict[str, str]:
    """Every artefact of the run, and every file of the packages."""
    paths = [path for pattern in ARTEFACTS for path in (folder / "run").glob(pattern)]
    packages = (path for path in folder.iterdir() if path.name != "run")
    paths += [path for package in packages for path in package.rglob("*") if path.is_file()]
    return {
        f"{arch}/{path.relative_to(folder).as_posix()}": hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in paths
    }


if __name__ == "__main__":
    sys.exit(main())
