"""The command line: what each verb prints, how it exits, and what a newcomer's mistake says."""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image
from tiny import TINY

from segdeploy.calibration.estimate import Method
from segdeploy.cli import flags as cli_flags
from segdeploy.cli.config import take_config
from segdeploy.cli.main import main
from segdeploy.cli.parser import build_parser, module_of, verbs
from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.layouts.registry import LAYOUT_NAMES
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models import R2UNet, UNetPlusPlus
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.checkpoint import load_checkpoint, save_checkpoint
from segdeploy.deploy.onnx_model.file import load_model, save_model
from segdeploy.deploy.runtimes.base import Hint
from segdeploy.deploy.runtimes.registry import RuntimeName
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.targets.profiles import PROFILES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def segdeploy(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as left:  # argparse leaves this way
            code = int(left.code or 0)
        captured = capsys.readouterr()
        return Outcome(code=code, out=captured.out, err=captured.err)

    return run


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, _tiny_unet: UNetPlusPlus, _tiny_r2u: R2UNet
) -> Path:
    """A folder with two checkpoints and what export, simplify and convert make of one."""
    folder = tmp_path_factory.mktemp("files")
    save_checkpoint(_tiny_unet, folder / "unet.safetensors", preprocess=TINY)
    save_checkpoint(_tiny_r2u, folder / "r2u.safetensors", preprocess=TINY)
    for command in (
        "export -c {0}/unet.safetensors --head 1 -o {0}/net.fp32.onnx",
        "simplify -m {0}/net.fp32.onnx -o {0}/net.sim.onnx",
        "convert -m {0}/net.sim.onnx --precision fp16 -o {0}/net.fp16.onnx",
    ):
        assert main(shlex.split(command.format(folder))) == 0
    return folder


def spoiled(source: Path, output: Path, *, bias: float) -> Path:
    """A copy of a float model whose last layer has another bias."""
    model = load_model(source)
    (last,) = [t for t in model.graph.initializer if t.name == "final1.bias"]
    last.CopyFrom(numpy_helper.from_array(np.array([bias], np.float32), last.name))
    save_model(model, output)
    return output


class TestHelp:
    @pytest.mark.parametrize("verb", verbs())
    def test_every_verb_shows_examples_that_parse(self, segdeploy: Command, verb: str) -> None:
        found = segdeploy(verb, "-h")
        assert found.code == 0
        assert found.err == ""
        for example in found.out.split("example:\n")[1].strip().splitlines():
            assert example.strip().startswith(f"segdeploy {verb}")
            assert build_parser().parse_args(shlex.split(example)[1:]).verb == verb

    def test_every_verb_is_listed_and_does_something(self, segdeploy: Command) -> None:
        found = segdeploy("-h")
        assert found.code == 0
        for verb in verbs():
            assert callable(module_of(verb).run)
            assert f"\n    {verb}" in found.out

    def test_choices_are_what_the_code_knows(self) -> None:
        # The parser repeats them, because it imports nothing heavy.
        assert set(cli_flags.TARGETS) == set(PROFILES)
        assert set(cli_flags.RUNTIMES) == {name.value for name in RuntimeName}
        assert set(cli_flags.ARCHITECTURES) == {arch.value for arch in Architecture}
        assert cli_flags.LAYOUTS == LAYOUT_NAMES
        assert set(cli_flags.HINTS) == {hint.value for hint in Hint}
        assert set(cli_flags.METHODS) == {m.value for m in Method} - {Method.IMPORTED.value}

    def test_help_does_not_wait_for_torch(self) -> None:
        script = (
            "import sys, contextlib, io\n"
            "from segdeploy.cli.main import main\n"
            "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
            "    main(['run', '-h'])\n"
            "print([name for name in ('torch', 'onnx', 'onnxruntime') if name in sys.modules])\n"
        )
        found = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        assert found.stdout == "[]\n"

    def test_the_module_runs_as_the_command(self) -> None:
        found = subprocess.run(
            [sys.executable, "-m", "segdeploy", "--version"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.startswith("segdeploy ")


class TestOutput:
    def test_json_is_on_stdout_only_when_asked_for(self, segdeploy: Command) -> None:
        text = segdeploy("doctor")
        assert (text.code, text.err) == (0, "")
        assert "\nonnxruntime          ready, " in text.out
        asked = segdeploy("doctor", "--format", "json")
        assert asked.code == 0
        assert asked.err == text.out
        found = json.loads(asked.out)
        assert {name.value for name in RuntimeName} < {s["name"] for s in found["runtimes"]}
        assert found["environment"]["python"] in asked.err

    def test_a_failure_leaves_stdout_empty(self, segdeploy: Command, tmp_path: Path) -> None:
        found = segdeploy("report", tmp_path, "--format", "json")
        assert (found.code, found.out) == (3, "")

    def test_a_written_file_is_described(
        self, segdeploy: Command, files: Path, tmp_path: Path
    ) -> None:
        output = tmp_path / "new" / "net.fp16.onnx"
        found = segdeploy("convert", "-m", files / "net.sim.onnx", "-o", output, "--format", "json")
        described = json.loads(found.out)
        assert output.read_bytes() == (files / "net.fp16.onnx").read_bytes()
        assert described["path"] == str(output)
        assert described["precision"] == "fp16"
        assert described["bytes"] == output.stat().st_size
        assert "net.fp16.onnx: fp16, " in found.err


class TestVerbs:
    def test_calibrate_quantize_parity_benchmark_on_files(
        self, segdeploy: Command, files: Path, image_set: Path, tmp_path: Path
    ) -> None:
        table, int8 = tmp_path / "net.calib.json", tmp_path / "net.int8.onnx"
        model = ("-m", files / "net.sim.onnx")
        made = segdeploy(
            "calibrate", *model, "--calib-data", image_set, "-o", table, "--format", "json"
        )
        assert made.code == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["image_set", "net.calib.json"]
        ranges = json.loads(table.read_text())["ranges"]
        assert json.loads(made.out) == {"written": [str(table)], "tensors": len(ranges)}
        made = segdeploy("quantize", *model, "--calibration", table, "-o", int8)
        assert made.code == 0
        against = ("--reference", files / "unet.safetensors", "--head", 1, "--threads", 1)
        asked = ("-m", int8, files / "net.fp16.onnx", "--data", image_set, "--format", "json")
        on_ort = ("--runtime", "onnxruntime")
        found = segdeploy("parity", *asked, *against, *on_ort, "--max-drop", 100)
        assert found.code == 0
        assert [row["name"] for row in json.loads(found.out)["rows"]] == [
            "PyTorch fp32",
            "net.int8 on ONNX Runtime",
            "net.fp16 on ONNX Runtime",
        ]
        assert "PASS (budget 100 points of IoU)" in found.err
        quick = ("--batch", 1, 2, "--warmup", 0, "--duration", 0.001)
        found = segdeploy("benchmark", *asked, *against, *on_ort, *quick)
        assert found.code == 0
        rows = json.loads(found.out)["rows"]
        assert [row["batch"] for row in rows] == [1, 1, 1, 2, 2, 2]
        assert all(row["p50_ms"] > 0 and row["speedup"] > 0 for row in rows)

    def test_parity_with_an_onnx_reference(
        self, segdeploy: Command, files: Path, image_set: Path
    ) -> None:
        found = segdeploy(
            *("parity", "-m", files / "net.sim.onnx", "--reference", files / "net.fp32.onnx"),
            *("--data", image_set, "--threads", 1, "--runtime", "onnxruntime"),
        )
        assert found.code == 0
        assert "net.fp32.onnx on ONNX Runtime: mean of images IoU" in found.out

    def test_data_prepare_writes_the_layout(
        self, segdeploy: Command, raw_set: Path, tmp_path: Path
    ) -> None:
        output = tmp_path / "prepared"
        found = segdeploy("data", "prepare", raw_set, "-o", output, "--format", "json")
        assert found.code == 0
        assert json.loads(found.out)["images"] == 8
        assert sorted(path.name for path in output.iterdir()) == ["images", "masks", "splits.csv"]


class TestBenchmark:
    def test_throughput_goes_through_streams_and_skips_what_cannot_be(
        self, segdeploy: Command, files: Path, image_set: Path
    ) -> None:
        found = segdeploy(
            *("benchmark", "-m", files / "net.sim.onnx", "--runtime", "onnxruntime"),
            *("--data", image_set, "--hint", "throughput", "--threads", 1, "--streams", 1, 2),
            *("--batch", 2, "--warmup", 0, "--duration", 0.01, "--format", "json"),
        )
        assert found.code == 0
        ran, skipped = json.loads(found.out)["rows"]
        setting = [ran[key] for key in ("hint", "batch", "threads", "streams")]
        assert setting == ["throughput", 2, 1, 1]
        done = sum(len(stamps) for stamps in ran["completions_s"])
        spent = sum(stamps[-1] for stamps in ran["completions_s"])
        assert ran["images_per_s"] == pytest.approx(2 * done / spent)
        assert ran["p50_ms"] is ran["latencies_s"] is ran["speedup"] is None
        assert min(ran["load_s"], ran["first_inference_s"], ran["imports_bytes"]) > 0
        assert ran["peak_bytes"] >= ran["imports_bytes"]
        assert (ran["int8_mac_share"], ran["float_layers"]) == (0, [])
        assert "2 streams cannot share 1 threads" in skipped["skipped"]
        assert skipped["images_per_s"] is skipped["load_s"] is None
        assert "net.sim on ONNX Runtime: skipped, 2 streams" in found.err

    def test_bf16_is_a_skipped_row_where_the_runtime_has_none(
        self, segdeploy: Command, files: Path, image_set: Path
    ) -> None:
        found = segdeploy(
            *("benchmark", "-m", files / "net.sim.onnx", "--runtime", "onnxruntime"),
            *("--data", image_set, "--precision", "bf16", "--threads", 1, "--duration", 0.01),
        )
        assert found.code == 0
        assert "on ONNX Runtime: skipped, onnxruntime runs layers" in found.out

    def test_end_to_end_writes_a_mask_for_every_image(
        self, segdeploy: Command, files: Path, image_set: Path, tmp_path: Path
    ) -> None:
        images, masks = image_set / "images", tmp_path / "new" / "masks"
        found = segdeploy(
            *("benchmark", "-m", files / "net.sim.onnx", "--runtime", "onnxruntime"),
            *("--end-to-end", images, "-o", masks, "--threads", 1, "--batch", 5),
            *("--warmup", 1, "--duration", 0.01, "--format", "json"),
        )
        assert found.code == 0
        (row,) = json.loads(found.out)["rows"]
        assert json.loads(found.out)["images"] == 12
        assert row["masks"] == len(row["written_s"]) >= 15
        assert row["images_per_s"] > 0
        assert row["most_at_once"] <= row["bound"]
        assert row["precision_executed"] == "fp32"
        assert "at most" in found.err
        for image in images.iterdir():
            with Image.open(image) as before, Image.open(masks / image.name) as after:
                assert before.size == after.size
        assert len(list(masks.iterdir())) == 12

    @pytest.mark.parametrize(
        ("flags", "code", "words"),
        [
            (("--streams", 2), 2, "add --hint throughput"),
            (("-o", "masks"), 2, "it needs --end-to-end FOLDER"),
            (("--end-to-end", "absent"), 3, "absent does not exist; expected a folder of images"),
            (("--end-to-end", "FILES"), 3, "is no image"),
            (("--end-to-end", "IMAGES", "-o", "IMAGES"), 2, "masks would replace them"),
            (("--end-to-end", "IMAGES", "--data", "IMAGES"), 2, "--data is not read"),
        ],
    )
    def test_a_mistake_is_told_before_long_work(
        self,
        segdeploy: Command,
        files: Path,
        image_set: Path,
        flags: tuple[object, ...],
        code: int,
        words: str,
    ) -> None:
        real = {"FILES": files, "IMAGES": image_set / "images"}
        asked = [real.get(str(flag), flag) for flag in flags]
        found = segdeploy("benchmark", "-m", files / "net.sim.onnx", *asked)
        assert found.code == code
        assert words in found.err
        assert found.err.startswith("segdeploy: error: ")


class TestExitCodes:
    def test_1_when_the_gate_fails(
        self, segdeploy: Command, files: Path, image_set: Path, tmp_path: Path
    ) -> None:
        worse = spoiled(files / "net.sim.onnx", tmp_path / "worse.onnx", bias=-50.0)
        found = segdeploy(
            *("parity", "-m", worse, "--reference", files / "net.fp32.onnx", "--data", image_set),
            *("--threads", 1, "--runtime", "onnxruntime", "--format", "json"),
        )
        assert found.code == 1
        assert "COLLAPSED\n  " in found.err
        assert "foreground collapse on 4 of 4 images (only background predicted): " in found.err
        assert "FAIL (budget 0.2 points of IoU)" in found.err
        row = json.loads(found.out)["rows"][1]
        assert (row["passed"], row["verdict"], len(row["collapsed_images"])) == (
            False,
            "collapsed",
            4,
        )

    def test_4_when_a_stage_fails(self, segdeploy: Command, files: Path, tmp_path: Path) -> None:
        huge = spoiled(files / "net.sim.onnx", tmp_path / "huge.onnx", bias=1e6)
        found = segdeploy("convert", "-m", huge, "-o", tmp_path / "n.onnx")
        assert found.code == 4
        assert "segdeploy: error: weight 'final1.bias' reaches 1e+06" in found.err

    def test_4_when_the_system_refuses(
        self, segdeploy: Command, files: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        found = segdeploy(
            "convert", "-m", files / "net.sim.onnx", "-o", tmp_path / "file" / "net.onnx"
        )
        assert found.code == 4
        assert "the system refused" in found.err
        assert "Traceback" not in found.err

    def test_130_with_a_message_when_interrupted(
        self, segdeploy: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("segdeploy.cli.doctor.run", interrupted)
        found = segdeploy("doctor", "--format", "json")
        assert (found.code, found.out) == (130, "")
        assert found.err.startswith("interrupted; ")
        assert "To go on: segdeploy doctor --format json" in found.err


MISTAKES = {
    "no verb": ("", 2, "required: VERB"),
    "unknown verb": ("deploy", 2, "'deploy' is no verb; choose from doctor, data"),
    "unknown flag": ("doctor --fast", 2, "unrecognized arguments: --fast"),
    "no output": ("export -c {files}/unet.safetensors", 2, "-o/--output"),
    "no number": ("train --data d -o o --epochs many", 2, "'many' is not a whole number"),
    "zero": ("run --threads 0", 2, "0 must be 1 or more"),
    "negative warm-up": ("run --warmup -1", 2, "-1 must be 0 or more"),
    "negative seed": ("run --seed -1", 2, "-1 must be 0 or more"),
    "endless": ("run --duration inf", 2, "inf must be above 0"),
    "negative budget": ("run --max-drop -0.1", 2, "-0.1 must be 0 or more"),
    "no such head": ("export -c x.pth --head 5 -o n.onnx", 2, "invalid choice: 5"),
    "missing checkpoint": ("export -c no.pth -o {tmp}/n.onnx", 3, "checkpoint no.pth does not"),
    "folder as checkpoint": ("export -c {files} -o {tmp}/n.onnx", 3, "checkpoint {files}"),
    "wrong suffix": ("export -c {tmp}/notes.txt -o {tmp}/n.onnx", 3, "ends in '.txt'; expected"),
    "text as checkpoint": ("export -c {tmp}/notes.pth -o {tmp}/n.onnx", 3, "notes.pth"),
    "model as checkpoint": ("export -c {files}/net.sim.onnx -o {tmp}/n.onnx", 3, "'.onnx'"),
    "wrong network": (
        "export -c {files}/unet.safetensors --arch r2u_net -o {tmp}/n.onnx",
        2,
        "--arch r2u_net, but",
    ),
    "head of the other network": (
        "export -c {files}/r2u.safetensors --head 2 -o {tmp}/n.onnx",
        2,
        "--head chooses a UNet++ head",
    ),
    "t of the other network": (
        "export -c {files}/unet.safetensors --recurrence 3 -o {tmp}/n.onnx",
        2,
        "--recurrence is R2U-Net's t",
    ),
    "size not a multiple of 16": (
        "export -c {files}/unet.safetensors --preprocess {tmp}/size50.json -o {tmp}/n.onnx",
        3,
        "input size 50x100 (height x width) is not a multiple of 16, which unet_plus_plus needs; "
        "the nearest valid size is 48x96",
    ),
    "missing contract": (
        "export -c {files}/unet.safetensors --preprocess no.json -o {tmp}/n.onnx",
        3,
        "--preprocess no.json cannot be read",
    ),
    "output is a folder": (
        "export -c {files}/unet.safetensors -o {tmp}",
        2,
        "-o {tmp} is a folder; give the name of the file to write",
    ),
    "output is here": ("convert -m {files}/net.sim.onnx -o .", 2, "-o . is a folder"),
    "output is the input": (
        "simplify -m {files}/net.fp32.onnx -o {files}/net.fp32.onnx",
        2,
        "would replace its own input",
    ),
    "missing model": ("simplify -m no.onnx -o {tmp}/n.onnx", 3, "model no.onnx does not exist"),
    "folder as model": ("simplify -m {files} -o {tmp}/n.onnx", 3, "{files} holds no finished run"),
    "text as model": (
        "simplify -m {tmp}/notes.txt -o {tmp}/n.onnx",
        3,
        "notes.txt is not a valid ONNX file",
    ),
    "table as model": (
        "simplify -m {tmp}/size50.json -o {tmp}/n.onnx",
        3,
        "size50.json is not a valid ONNX file",
    ),
    "checkpoint as model": (
        "convert -m {files}/unet.safetensors -o {tmp}/n.onnx",
        3,
        "unet.safetensors is not a valid ONNX file",
    ),
    "fp16 twice": (
        "convert -m {files}/net.fp16.onnx -o {tmp}/n.onnx",
        3,
        "is fp16; fp16 is made from fp32",
    ),
    "calibrating fp16": (
        "calibrate -m {files}/net.fp16.onnx --calib-data {data} -o {tmp}/t.json",
        3,
        "is fp16; ranges are observed from fp32",
    ),
    "missing data": (
        "calibrate -m {files}/net.sim.onnx --calib-data nowhere -o {tmp}/t.json",
        3,
        "nowhere holds no images/ folder; expected a folder with images/<name>.png",
    ),
    "file as data": (
        "calibrate -m {files}/net.sim.onnx --calib-data {tmp}/notes.txt -o {tmp}/t.json",
        3,
        "notes.txt holds no images/ folder",
    ),
    "more images than there are": (
        "calibrate -m {files}/net.sim.onnx --calib-data {data} --num-samples 7 -o {tmp}/t.json",
        3,
        "7 images asked of split 'train'",
    ),
    "missing table": (
        "quantize -m {files}/net.sim.onnx --calibration no.json -o {tmp}/n.onnx",
        3,
        "no.json",
    ),
    "contract as table": (
        "quantize -m {files}/net.sim.onnx --calibration {tmp}/size50.json -o {tmp}/n.onnx",
        3,
        "size50.json",
    ),
    "unknown target": (
        "quantize -m {files}/net.sim.onnx --calibration t.json --target gpu -o {tmp}/n.onnx",
        2,
        "invalid choice: 'gpu'",
    ),
    "two models of one name": (
        "parity -m {files}/net.sim.onnx {files}/net.sim.onnx --reference {files}/unet.safetensors",
        2,
        "two of the models have the same file name",
    ),
    "reference with another contract": (
        "parity -m {files}/net.sim.onnx --reference {files}/unet.safetensors --data {data} "
        "--preprocess {tmp}/size64.json",
        2,
        "give the same here",
    ),
    "file as run folder": (
        "run -c {files}/unet.safetensors --data {data} -o {tmp}/notes.txt",
        2,
        "notes.txt is a file; give a folder",
    ),
    "run folder in use": (
        "run -c {files}/unet.safetensors --data {data} -o {files}",
        2,
        "is not empty and holds no manifest.json; choose another -o or --overwrite",
    ),
    "no report": ("report {tmp}", 3, "report.json does not exist"),
    "text as report": ("report {tmp}/notes.txt", 3, "notes.txt is not readable as JSON"),
    "no raw set": (
        "data prepare {data}/masks -o {tmp}/p",
        3,
        "holds no <id>/images/<id>.png folders",
    ),
    "ratios": ("data prepare {tmp} -o {tmp}/p --ratios 0.5 0.5 0.5", 2, "sum to 1"),
    "missing configuration": ("doctor --config no.yaml", 3, "--config no.yaml cannot be read"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_with_its_code_a_message_and_no_traceback(
    segdeploy: Command, files: Path, image_set: Path, tmp_path: Path, mistake: str
) -> None:
    for name in ("notes.txt", "notes.pth"):
        (tmp_path / name).write_text("buy milk")
    for name, size in (("size50.json", [50, 100]), ("size64.json", [64, 64])):
        fields = json.loads(TINY.to_json()) | {"size": size}
        (tmp_path / name).write_text(json.dumps(fields))
    before = {path: path.stat().st_mtime_ns for path in files.iterdir()}
    command, code, message = MISTAKES[mistake]
    places = {"files": files, "tmp": tmp_path, "data": image_set}
    found = segdeploy(*shlex.split(command.format(**places)))
    assert found.code == code, found.err
    assert message.format(**places) in found.err
    assert "Traceback" not in found.err
    assert found.out == ""
    assert not (tmp_path / "n.onnx").exists()
    assert {path: path.stat().st_mtime_ns for path in files.iterdir()} == before
    assert not list(tmp_path.rglob("*.partial*"))


class TestConfig:
    @pytest.fixture
    def write(self, tmp_path: Path) -> Callable[[str], Path]:
        def write(text: str) -> Path:
            path = tmp_path / "flags.yaml"
            path.write_text(text)
            return path

        return write

    def parse(self, *arguments: object) -> dict[str, object]:
        parser = build_parser()
        words = [str(argument) for argument in arguments]
        take_config(words, parser)
        return vars(parser.parse_args(words))

    def test_every_kind_of_flag_can_stand_in_the_file(self, write: Callable[[str], Path]) -> None:
        path = write(
            "checkpoint: best.pth\nnum-samples: 20\nmax_drop: 0.5\ntarget: [ort-x86]\n"
            "exclude: [conv0_0.conv.0, final2]\noverwrite: true\nlogits: false\n"
            "method: mse\nbatch: 4\nruntime: onnxruntime\n"
        )
        found = self.parse("run", "--config", path)
        assert found["checkpoint"] == Path("best.pth")
        assert (found["num_samples"], found["max_drop"], found["batch"]) == (20, 0.5, 4)
        assert found["target"] == ["ort-x86"]
        assert found["exclude"] == ["conv0_0.conv.0", "final2"]
        assert (found["overwrite"], found["logits"]) == (True, False)
        assert (found["method"], found["runtime"]) == ("mse", ["onnxruntime"])

    def test_required_flags_may_stand_in_the_file_alone(self, write: Callable[[str], Path]) -> None:
        found = self.parse("simplify", "--config", write("model: a.onnx\noutput: b.onnx\n"))
        assert (found["model"], found["output"]) == (Path("a.onnx"), Path("b.onnx"))

    @pytest.mark.parametrize("order", [("before", "after"), ("after", "before")])
    def test_a_flag_wins_wherever_it_stands(
        self, write: Callable[[str], Path], order: tuple[str, str]
    ) -> None:
        path = write("seed: 1\noverwrite: true\nexclude: [a, b]\nlogits: true\nbatch: 2\n")
        parts = {
            "before": ["--config", str(path)],
            "after": ["--seed", "7", "--exclude", "c", "--no-logits"],
        }
        found = self.parse("run", *parts[order[0]], *parts[order[1]])
        assert (found["seed"], found["exclude"], found["logits"]) == (7, ["c"], False)
        assert (found["overwrite"], found["batch"]) == (True, 2)

    def test_positional_words_survive(self, write: Callable[[str], Path]) -> None:
        path = write("ratios: [0.5, 0.25, 0.25]\nseed: 3\n")
        found = self.parse("data", "prepare", "raw", "-o", "out", "--config", path)
        assert (found["action"], found["raw"], found["seed"]) == ("prepare", Path("raw"), 3)
        assert found["ratios"] == [0.5, 0.25, 0.25]

    def test_an_empty_file_changes_nothing(self, write: Callable[[str], Path]) -> None:
        found = self.parse("doctor", "--config", write("# nothing yet\n"))
        assert found["format"] == "text"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("treads: 2", "'treads' is no flag of segdeploy run; did you mean 'threads'"),
            ("num_sample: 2", "did you mean 'num-samples'"),
            ("zzz: 2", "'zzz' is no flag of segdeploy run$"),
            ("config: other.yaml", "'config' is no flag"),
            ("overwrite: 3", "'overwrite' is 3; expected true or false"),
            ("overwrite: [true]", "expected true or false"),
            ("seed: true", "'seed' is True; expected a value, not yes or no"),
            ("seed: ", "'seed' is None; expected a value or a list"),
            ("seed: {a: 1}", "expected a value or a list"),
            ("seed: [1, 2]", r"'seed' is \[1, 2\]; expected one value"),
            ("exclude: []", r"'exclude' is \[\]; expected one or more values"),
        ],
    )
    def test_what_no_flag_can_take_is_a_usage_error_that_names_the_file(
        self, write: Callable[[str], Path], text: str, message: str
    ) -> None:
        with pytest.raises(UsageError, match=rf"flags\.yaml: .*{message}"):
            self.parse("run", "--config", write(text))

    @pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "a: [", "a: \x00"])
    def test_a_file_that_is_no_mapping_is_an_input_error(
        self, write: Callable[[str], Path], text: str
    ) -> None:
        with pytest.raises(InputError, match=r"flags\.yaml"):
            self.parse("run", "--config", write(text))

    def test_a_value_out_of_range_names_the_file_and_the_key(
        self, segdeploy: Command, write: Callable[[str], Path]
    ) -> None:
        found = segdeploy("run", "--config", write("threads: 0\n"))
        assert found.code == 2
        assert "flags.yaml: 'threads': 0 must be 1 or more" in found.err


class TestBundled:
    def test_the_sample_has_both_splits(self) -> None:
        rows = (bundled.sample() / "splits.csv").read_text().splitlines()[1:]
        splits = [row.split(",")[1] for row in rows]
        assert (splits.count("train"), splits.count("test")) == (50, 64)

    @pytest.mark.parametrize("arch", [Architecture.R2U_NET, Architecture.UNET_PLUS_PLUS])
    def test_published_networks_have_a_trained_checkpoint(self, arch: Architecture) -> None:
        loaded = load_checkpoint(bundled.checkpoint(arch.value))
        assert loaded.arch is arch
        assert loaded.recurrence == (2 if arch is Architecture.R2U_NET else None)
        assert loaded.preprocess == Preprocess()

    def test_a_network_that_none_is_bundled_of_is_said(self, segdeploy: Command) -> None:
        found = segdeploy("run", "--arch", "u_net")
        assert found.code == 2
        assert "no checkpoint of it is bundled (r2u_net, unet_plus_plus are)" in found.err

    def test_an_incomplete_installation_is_an_input_error(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(bundled, "files", lambda package: tmp_path)
        with pytest.raises(InputError, match="dsb2018_sample is missing from this installation"):
            bundled.sample()

        def absent(package: str) -> Path:
            raise ModuleNotFoundError(package)

        monkeypatch.setattr(bundled, "files", absent)
        with pytest.raises(InputError, match="pip install"):
            bundled.sample()


def test_the_exported_file_is_whole(files: Path) -> None:
    for name in ("net.fp32.onnx", "net.sim.onnx", "net.fp16.onnx"):
        onnx.checker.check_model(onnx.load(files / name), full_check=True)
