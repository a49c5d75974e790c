"""Same inputs, same bytes: in another process, folder, language and time zone, with more workers.

What does depend on threads: the weights of a training and the float32 outputs of a runtime, whose
sums are split differently; ``train`` and ``parity`` are compared with equal ``--threads``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kill_compare import REPORT_TIMINGS, difference, without_timings
from kill_zygote import ONE_THREAD
from tiny import SPLIT_OF_TWELVE, TINY, randomised, write_image_set, write_raw_set

from segdeploy.deploy.models import R2UNet, UNetPlusPlus
from segdeploy.deploy.models.checkpoint import save_checkpoint

SCRIPT = """
import json, sys
from pathlib import Path
from segdeploy.cli.main import main
from kill_zygote import _reuse
for argv in json.loads(sys.argv[1]):
    if argv[0] == "run":
        _reuse(Path(sys.argv[2]))  # no processes for timings; exports were compared before
    assert main(argv) == 0, argv
"""

COMMANDS = """
export -c in/unet.safetensors -o net.fp32.onnx
simplify -m net.fp32.onnx -o net.sim.onnx
convert -m net.sim.onnx --precision fp16 -o net.fp16.onnx
rewrite -m net.sim.onnx --calib-data in/set -o net.opt.onnx
calibrate -m net.sim.onnx --calib-data in/set -o net.calib.json --threads {threads}
quantize -m net.sim.onnx --calibration net.calib.json --target ort-x86-no-vnni -o net.ort.onnx
quantize -m net.sim.onnx --calibration net.calib.json --target openvino-cpu -o net.ov.onnx
quantize -m net.sim.onnx --calibration net.calib.json --target tensorrt -o net.trt.onnx
package --target onnx -m net.sim.onnx net.ort.onnx -o pkg/onnx
package --target triton -m net.sim.onnx -o pkg/triton
package --target openvino -m net.sim.onnx net.ov.onnx -o pkg/openvino
package --target tensorrt -m net.sim.onnx net.trt.onnx -o pkg/tensorrt
package --target vacc -m net.sim.onnx --calib-data in/set --data in/set -o pkg/vacc
package --target ascend -m net.sim.onnx --calib-data in/set --data in/set -o pkg/ascend
predict net.sim.onnx in/set/images -o masks --threads {threads} --workers {workers}
train --data in/set --preprocess in/tiny.json --width 2 --epochs 2 --batch 3 --threads 1 \
--workers {loaders} -o training
data prepare in/raw -o prepared
run -c in/r2u.safetensors --data in/set -o out --threads 1 --batch 1 --warmup 1 --duration 0.01 \
--max-drop 100 --runtime onnxruntime --target ort-x86-no-vnni
report out
"""


def start(
    folder: Path, reuse: Path, environment: dict[str, str], **numbers: int
) -> subprocess.Popen[str]:
    """Run all commands in a folder, in a process of their own."""
    commands = [line.format(**numbers).split() for line in COMMANDS.splitlines() if line]
    script = [sys.executable, "-c", SCRIPT, json.dumps(commands), str(reuse)]
    paths = {"PYTHONPATH": str(Path(__file__).parents[1])}
    env = os.environ | dict.fromkeys(ONE_THREAD, "1") | paths | environment
    return subprocess.Popen(script, cwd=folder, env=env, text=True, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What all commands wrote, once plain and once under everything that must not matter."""
    root = tmp_path_factory.mktemp("determinism")
    one, other = root / "one", root / "an other" / "b" / "two"
    for folder in (one, other):
        inputs = folder / "in"
        inputs.mkdir(parents=True)
        for name, network in (("unet", UNetPlusPlus(width=4)), ("r2u", R2UNet(width=4))):
            path = inputs / f"{name}.safetensors"
            save_checkpoint(randomised(network), path, preprocess=TINY)
        (inputs / "tiny.json").write_text(TINY.to_json())
        write_image_set(inputs / "set", SPLIT_OF_TWELVE)
        write_raw_set(inputs / "raw")
    (root / "reuse").mkdir()
    plain = {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C"}
    first = start(one, root / "reuse", plain, threads=1, workers=1, loaders=0)
    foreign = {"PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8"}
    second = start(other, root / "reuse", foreign, threads=2, workers=4, loaders=2)
    for process in (first, second):
        said = process.communicate(timeout=900)[1]
        assert process.returncode == 0, said[-3000:]
    return one, other


def test_everything_comes_out_with_the_same_bytes(folders: tuple[Path, Path]) -> None:
    assert difference(*folders) is None


def test_no_file_names_the_folder_it_was_made_in(folders: tuple[Path, Path]) -> None:
    for folder in folders:
        where = [str(folder).encode(), str(Path.home()).encode()]
        for path in folder.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert not any(name in content for name in where), path


def test_timings_alone_are_left_out_of_a_report(folders: tuple[Path, Path]) -> None:
    report = json.loads((folders[0] / "out/report.json").read_bytes())
    kept = without_timings(report)
    assert kept["created_utc"] is None
    assert report["created_utc"] is not None
    assert kept["parity"] == report["parity"]
    for place in REPORT_TIMINGS:
        nodes = [kept]
        for key in place.split("."):
            nodes = [x for n in nodes for x in (n if key == "*" else [n[key]]) if n is not None]
        assert nodes, f"{place} is no field of a report"
        assert set(map(str, nodes)) == {"None"}, place
