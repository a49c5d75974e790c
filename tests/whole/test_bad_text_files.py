"""Bad text files through the real command line: one line says what, where and how to go on.

Nothing is written, and no name in a file leads out of its folder. A case is one line of ``CASES``.
"""

# ruff: noqa: E501 - a case is one line, however long
from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from report_builders import bare_report
from tiny import TINY, write_image_set

from segdeploy.cli.main import main
from segdeploy.deploy.models import UNetPlusPlus
from segdeploy.deploy.models.checkpoint import save_checkpoint
from segdeploy.deploy.prediction.settings import Write

Edit = Callable[[Any], Any]

QUANTIZE = "quantize -m net.onnx --calibration net.calib.json -o net.int8.onnx"
SEARCH = f"{QUANTIZE} --max-drop 5 --data set --reference net.pth.safetensors"
IMPORT = "calibrate -m net.onnx --import file.cache -o new.json"
CALIBRATE = "calibrate -m net.onnx --calib-data set -o new.json"
RUN = "run -c net.pth.safetensors --calib-data set --data set -o run"
PREDICT = "predict net.onnx set/images -o predicted"
CONFIG = "simplify -m net.onnx -o new.onnx --config flags.yaml"
TRAIN = "train --data set -o trained --config recipe.yaml"
EXPORT = "export -c net.pth.safetensors --preprocess contract.json -o new.onnx"
REPORT = "report reported"
COMPARE = "report --compare reported compared -o both"
PACKAGE = "package --target onnx -m net.onnx -o packaged --overwrite"
ORDER = "parity --reference net.onnx --data set --predictions outputs --predictions-order order.txt"
CURVES = "align curves one.csv two.csv --column val_iou"
DUMPS = "align compare dumped dumped"

TABLE, MANIFEST, JOURNAL = "net.calib.json", "run/manifest.json", "predicted/index.jsonl"
FLAGS, RECIPE, SPLITS = "flags.yaml", "recipe.yaml", "set/splits.csv"
CACHE, CONTRACT, STATE = "file.cache", "contract.json", "net.int8.onnx.search.json"
REPORTED, INDEX = "reported/report.json", "dumped/index.json"

PLANNED = 5
"""Lines in which `run` says what it is going to do."""

ENTRY = {"file": "net.fp32.onnx", "sha256": "0" * 64, "key": "0" * 64}
ROW = {"image": "a.png", "name": "cells_00", "status": "done", "outputs": {}}
LAUGHS = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
MANY_LAUGHS = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
)
ORT_CACHE = '{"CLS": "TensorsData", "data": {"x": {"lowest": %s, "highest": %s}}}'
TRT = "TRT-8601-EntropyCalibration2\n"
NESTED = "[" * 100_000


@dataclass(frozen=True)
class Case:
    """A file with a fault, the command that reads it, and what is said.

    ``content`` is the text or bytes of the file, a function that edits what a run wrote there as
    JSON or as text, or ``None`` for a folder in its place.
    """

    name: str
    command: str
    file: str
    content: str | bytes | Edit | None
    code: int
    message: str


def put(*path: str | int, value: Any) -> Edit:
    """Another value somewhere in a JSON file."""

    def edit(content: Any) -> Any:
        inner = content
        for key in path[:-1]:
            inner = inner[key if key != "*" else min(inner)]
        inner[path[-1]] = value
        return content

    return edit


def drop(*path: str) -> Edit:
    """A key gone from a JSON file."""

    def edit(content: Any) -> Any:
        inner = content
        for key in path[:-1]:
            inner = inner[key if key != "*" else min(inner)]
        del inner[path[-1] if path[-1] != "*" else min(inner)]
        return content

    return edit


def manifest(entry: Any = None, **changes: Any) -> str:
    stages = {"net.fp32.onnx": ENTRY if entry is None else entry}
    return json.dumps({"schema_version": 1, "inputs": {}, "stages": stages} | changes)


def row(**changes: Any) -> str:
    return json.dumps(ROW | changes) + "\n"


def text(old: str, new: str) -> Edit:
    """Other characters in a text file."""

    def edit(content: str) -> str:
        assert old in content
        return content.replace(old, new, 1)

    edit.raw = True  # type: ignore[attr-defined]  # a mark on a function
    return edit


CASES = (
    # the calibration table
    Case("table of another model", QUANTIZE, TABLE, put("model_sha256", value="0" * 64), 3, "another model"),
    Case("table of another schema", QUANTIZE, TABLE, put("schema_version", value=2), 3, "schema_version is 2; this release reads 1"),
    Case("table, min above max", QUANTIZE, TABLE, put("ranges", "*", "min", value=1e9), 3, r"ranges\['[^']+'\]: range ends .* out of order"),
    Case("table, NaN", QUANTIZE, TABLE, put("ranges", "*", "max", value=float("nan")), 3, "NaN among the values; expected finite"),
    Case("table, beyond floats", QUANTIZE, TABLE, text('"num_bins": 2048', '"num_bins": 1e999'), 3, "1e999 among the values"),
    Case("table, beyond float32", QUANTIZE, TABLE, put("ranges", "*", "max", value=1e200), 3, r"ranges\[.*finite in float32"),
    Case("table, many digits", QUANTIZE, TABLE, text("2048", "9" * 5000), 3, "num_bins has a whole number of more than 19 digits"),
    Case("table, text for a number", QUANTIZE, TABLE, put("ranges", "*", "max", value="1"), 3, r"ranges\[.*\]\.max is '1'; expected a number"),
    Case("table, true for a number", QUANTIZE, TABLE, put("num_samples", value=True), 3, "num_samples is True; expected a whole number"),
    Case("table, a tensor missing", QUANTIZE, TABLE, drop("ranges", "*"), 3, "the calibration table has no range for"),
    Case("table, a tensor too many", QUANTIZE, TABLE, lambda t: put("ranges", "no such\ntensor", value=t["ranges"][min(t["ranges"])])(t), 3, r"no such\\ntensor"),
    Case("table, a key missing", QUANTIZE, TABLE, drop("num_bins"), 3, "it lacks 'num_bins'"),
    Case("table, a key too many", QUANTIZE, TABLE, put("colour\x1b[31m", value=1), 3, r"unknown key 'colour\\x1b\[31m'; expected method, num_bins"),
    Case("table, a key twice", QUANTIZE, TABLE, text('"num_bins"', '"num_bins": 1, "num_bins"'), 3, "keys given twice: num_bins"),
    Case("table, half a surrogate pair", QUANTIZE, TABLE, put("fallback", value="\ud800"), 3, "half a surrogate pair"),
    Case("table, no ranges", QUANTIZE, TABLE, put("ranges", value={}), 3, "at least one range"),
    Case("table, half of it", QUANTIZE, TABLE, lambda t: json.dumps(t)[:200], 3, r"net\.calib\.json:\d+: not JSON"),
    Case("table, nested deeply", QUANTIZE, TABLE, NESTED, 3, "more than 50 levels"),
    Case("table, binary", QUANTIZE, TABLE, b"\x89PNG\xff\0", 3, "is not UTF-8 text"),
    Case("table, with a mark", QUANTIZE, TABLE, b"\xef\xbb\xbf{}", 3, "not JSON .*BOM"),
    Case("table, empty", QUANTIZE, TABLE, "", 3, r"net\.calib\.json:1: not JSON"),
    Case("table, a folder", QUANTIZE, TABLE, None, 3, "cannot read .*Is a directory"),
    # caches of other tools
    Case("ONNX Runtime, text for a number", IMPORT, CACHE, ORT_CACHE % ('"-1"', "1"), 3, r"file\.cache:1: tensor 'x': lowest is '-1'; expected a number"),
    Case("ONNX Runtime, out of order", IMPORT, CACHE, ORT_CACHE % ("2", "1"), 3, "tensor 'x': the range 2.0 to 1.0 is out of order"),
    Case("ONNX Runtime, NaN", IMPORT, CACHE, ORT_CACHE % ("NaN", "1"), 3, "NaN among the values"),
    Case("ONNX Runtime, a tensor twice", IMPORT, CACHE, '{"CLS": 1, "CLS": 2}', 3, "keys given twice: CLS"),
    Case("ONNX Runtime, of another model", IMPORT, CACHE, ORT_CACHE % ("0", "1"), 3, "no range for .* was it made for another model"),
    Case("TensorRT, a malformed line", IMPORT, CACHE, TRT + "a\x1b[31m: zz\n", 3, r"file\.cache:2: .*8 hexadecimal digits"),
    Case("TensorRT, a scale of 0", IMPORT, CACHE, TRT + "a: 00000000\n", 3, "file.cache:2: the scale of 'a' is 0.0"),
    Case("TensorRT, another header", IMPORT, CACHE, "TRT-8601-Other\n", 3, "file.cache:1: header is"),
    # the manifest of a run
    Case("manifest of another schema", RUN, MANIFEST, manifest(schema_version=2), 3, "schema_version is 2; this release reads 1.*use --overwrite"),
    Case("manifest of another version", RUN, MANIFEST, manifest(inputs={"segdeploy": "0"}), 2, r"other inputs \(.*segdeploy.*--overwrite"),
    Case("manifest, a file above", RUN, MANIFEST, manifest(ENTRY | {"file": "../../outside/kept.txt"}), 3, r"stages\['net.fp32.onnx'\]: file is '../../outside/kept.txt', outside the folder.*--overwrite"),
    Case("manifest, the folder above", RUN, MANIFEST, manifest(ENTRY | {"file": ".."}), 3, r"file is '\.\.', outside the folder"),
    Case("manifest, an absolute file", RUN, MANIFEST, manifest(ENTRY | {"file": "/etc/passwd"}), 3, "file is '/etc/passwd', outside the folder"),
    Case("manifest, a list for a file", RUN, MANIFEST, manifest(ENTRY | {"file": ["a"]}), 3, r"stages\['net.fp32.onnx'\]\.file is \['a'\]; expected text"),
    Case("manifest, a stage that is none", RUN, MANIFEST, manifest([1]), 3, r"stages\['net.fp32.onnx'\] is \[1\]; expected keys and values"),
    Case("manifest, a key twice", RUN, MANIFEST, '{"inputs": {}, "inputs": {}}', 3, "keys given twice: inputs.*--overwrite"),
    Case("manifest, half of it", RUN, MANIFEST, manifest()[:50], 3, "cannot be read .*--overwrite"),
    Case("manifest, binary", RUN, MANIFEST, b"\xff\0", 3, "cannot be read .*--overwrite"),
    Case("manifest, nested deeply", RUN, MANIFEST, NESTED, 3, "more than 50 levels.*--overwrite"),
    # the journal of a prediction
    Case("journal, a file above", PREDICT, JOURNAL, row(outputs={"../../outside/kept.txt": "0" * 64}), 3, "damaged at byte 0 .*no output '../../outside/kept.txt'.*--overwrite"),
    Case("journal, an absolute file", PREDICT, JOURNAL, row(outputs={"/etc/passwd": "0" * 64}), 3, "no output '/etc/passwd'"),
    Case("journal, the files of another image", PREDICT, JOURNAL, row(outputs={"b.png": "0" * 64}), 3, "no output 'b.png'"),
    Case("journal, a list of outputs", PREDICT, JOURNAL, row(outputs=["a.png"]), 3, r"outputs is \['a.png'\]"),
    Case("journal, text for a number", PREDICT, JOURNAL, row(width="4"), 3, "width is '4'"),
    Case("journal, another status", PREDICT, JOURNAL, row(status="half\n"), 3, r"status is 'half\\n'; expected one of done, unreadable, failed"),
    Case("journal, a column too many", PREDICT, JOURNAL, row(colour=1), 3, "unknown key 'colour'; expected image, name, status"),
    Case("journal, binary", PREDICT, JOURNAL, b"\xff\n", 3, "damaged at byte 0"),
    Case("journal, nested deeply", PREDICT, JOURNAL, NESTED + "\n", 3, "more than 50 levels"),
    Case("journal, damaged later", PREDICT, JOURNAL, row() + "[]\n", 3, r"damaged at byte \d\d+"),
    Case("list, binary", "predict net.onnx @list.txt -o new", "list.txt", b"\xff\n", 3, "list list.txt cannot be read"),
    Case("list, a NUL", "predict net.onnx @list.txt -o new", "list.txt", "a\0.png\n", 3, "list list.txt:1 is no path"),
    # reports
    Case("report of another schema", REPORT, REPORTED, put("schema_version", value=2), 3, "has schema_version 2, expected 1"),
    Case("report, a section missing", REPORT, REPORTED, drop("model"), 3, "the report lacks 'model'; `segdeploy run`"),
    Case("report, an unknown section", REPORT, REPORTED, put("notes", value=1), 3, "unknown key 'notes'"),
    Case("report, text for a number", REPORT, REPORTED, put("model", "parameters", value="9"), 3, "model.parameters is '9'; expected a whole number"),
    Case("report, NaN", REPORT, REPORTED, put("model", "parameters", value=float("nan")), 3, "NaN among the values"),
    Case("report, half of it", REPORT, REPORTED, lambda r: json.dumps(r)[:99], 3, "not readable as JSON"),
    Case("report, nested deeply", REPORT, REPORTED, NESTED, 3, "more than 50 levels"),
    Case("report, binary", REPORT, REPORTED, b"\xff", 3, "not readable as JSON"),
    Case("compared report, half of it", COMPARE, REPORTED, lambda r: json.dumps(r)[:99], 3, r"reported/report\.json is not readable"),
    Case("compared report, rows that are none", COMPARE, REPORTED, put("stages", value=[1]), 3, r"stages\[0\] is 1; expected keys and values"),
    # configuration
    Case("config, an unknown key", CONFIG, FLAGS, "modell: a.onnx\n", 2, "'modell' is no flag of segdeploy simplify; did you mean 'model'"),
    Case("config, a key of many lines", CONFIG, FLAGS, '"a\\nb": 1\n', 2, r"'a\\nb' is no flag"),
    Case("config, a list for a value", CONFIG, FLAGS, "output: [a, b]\n", 2, "'output' is .*; expected one value"),
    Case("config, a mapping for a value", CONFIG, FLAGS, "output: {a: 1}\n", 2, "expected a value or a list"),
    Case("config, not one of the choices", CONFIG, FLAGS, "format: xml\n", 2, "flags.yaml: 'format': invalid choice: 'xml'"),
    Case("config, a word for a number", CALIBRATE + " --config flags.yaml", FLAGS, "num_samples: few\n", 2, "flags.yaml: 'num_samples': .*few"),
    Case("config, a flag among values", QUANTIZE + " --config flags.yaml", FLAGS, 'exclude: ["--overwrite"]\n', 2, "flags.yaml: 'exclude'"),
    Case("config, a NUL", CONFIG, FLAGS, 'output: "a\\0"\n', 2, "flags.yaml: 'output' holds a NUL"),
    Case("config, half a surrogate pair", CONFIG, FLAGS, 'output: "\\ud800"\n', 3, "half a surrogate pair"),
    Case("config, a key twice", CONFIG, FLAGS, "output: a\noutput: b\n", 3, "keys given twice: output"),
    Case("config, a key in two spellings", QUANTIZE + " --config flags.yaml", FLAGS, "max_drop: 1\nmax-drop: 2\n", 3, "a flag twice"),
    Case("config, laughs", CONFIG, FLAGS, LAUGHS, 3, r"alias \*a; write the value out"),
    Case("config, a billion laughs", CONFIG, FLAGS, MANY_LAUGHS, 3, r"alias \*a0; write the value out"),
    Case("config, no YAML", CONFIG, FLAGS, "a: [\n", 3, "--config flags.yaml cannot be read"),
    Case("config, no date", CONFIG, FLAGS, "output: !!timestamp 2024-13-45\n", 3, "timestamp"),
    Case("config, code", CONFIG, FLAGS, "output: !!python/object/apply:os.system [ls]\n", 3, "python/object/apply"),
    Case("config, many digits", CONFIG, FLAGS, f"output: {'9' * 5000}\n", 3, "19 digits|4300 digits"),
    Case("config, nested deeply", CONFIG, FLAGS, NESTED, 3, "more than 50 levels"),
    Case("config, binary", CONFIG, FLAGS, b"\x89PNG\xff\0", 3, "--config flags.yaml cannot be read"),
    Case("config, large", CONFIG, FLAGS, "# " + "x" * (1 << 18), 3, "more than 262144 bytes"),
    Case("config, a list", CONFIG, FLAGS, "- a\n", 3, "holds a list; expected flag: value"),
    Case("config, a folder", CONFIG, FLAGS, None, 3, "--config flags.yaml cannot be read .*Is a directory"),
    # recipes
    Case("recipe, an unknown key", TRAIN, RECIPE, "lerning_rate: 1\n", 2, "did you mean 'learning-rate'"),
    Case("recipe, a word for a number", TRAIN, RECIPE, "epochs: many\n", 2, "recipe.yaml: 'epochs': .*many"),
    Case("recipe, not a number", TRAIN, RECIPE, "learning_rate: .nan\n", 2, "learning.rate"),
    Case("recipe, not a loss", TRAIN, RECIPE, "loss: mse\n", 2, "recipe.yaml: 'loss': invalid choice"),
    Case("recipe, a patch that does not divide", TRAIN, RECIPE, "patch: 17\n", 2, "patch"),
    Case("recipe, laughs", TRAIN, RECIPE, LAUGHS, 3, "alias"),
    Case("recipe, binary", TRAIN, RECIPE, b"\xff", 3, "recipe.yaml cannot be read"),
    Case("recipe, a folder", TRAIN, RECIPE, None, 3, "recipe.yaml cannot be read"),
    # splits
    Case("splits, a name above", CALIBRATE, SPLITS, "image_id,split\n../../outside/kept,train\n", 3, "lists '../../outside/kept', but .* no such image"),
    Case("splits, an absolute name", CALIBRATE, SPLITS, "image_id,split\n/etc/passwd,train\n", 3, "lists '/etc/passwd'"),
    Case("splits, another split", CALIBRATE, SPLITS, "image_id,split\ncells_00,training\n", 3, r"splits\.csv:2: split 'training'"),
    Case("splits, no name", CALIBRATE, SPLITS, "split,image_id\ntrain\n", 3, r"splits\.csv:2: no image_id"),
    Case("splits, twice", CALIBRATE, SPLITS, "image_id,split\na,train\na,test\n", 3, r"splits\.csv:3: 'a' is listed twice"),
    Case("splits, other columns", CALIBRATE, SPLITS, "a,b\n1,2\n", 3, "expected image_id and split"),
    Case("splits, a field of many lines", CALIBRATE, SPLITS, f'image_id,split\n"{"a" * 140_000}",train\n', 3, "field larger than field limit"),
    Case("splits, binary", CALIBRATE, SPLITS, b"\xff\0", 3, "is not a UTF-8 CSV file"),
    # the input contract
    Case("contract, true for a side", EXPORT, CONTRACT, put("size", value=[True, 32]), 3, r"size\[0\] is True; expected a whole number"),
    Case("contract, an endless side", EXPORT, CONTRACT, put("size", value=[16 * 10**9, 16]), 3, "beyond 4096"),
    Case("contract, many digits", EXPORT, CONTRACT, put("scale", value=10**400), 3, "19 digits|4300 digits"),
    Case("contract, text for numbers", EXPORT, CONTRACT, put("mean", value="abc"), 3, "does not hold a preprocessing contract"),
    Case("contract, an unknown key", EXPORT, CONTRACT, put("colour", value=1), 3, "colour"),
    Case("contract, NaN", EXPORT, CONTRACT, put("scale", value=float("nan")), 3, "NaN among the values"),
    Case("contract, nested deeply", EXPORT, CONTRACT, NESTED, 3, "more than 50 levels"),
    # a search for mixed precision, histories, dumps, orders, packages
    Case("search, half of it", SEARCH, STATE, '{"schema_version": 1', 3, "delete it"),
    Case("history, no number", CURVES, "one.csv", "epoch,val_iou\n1,many\n", 3, "one.csv:2: .*expected numbers"),
    Case("history, NaN for an epoch", CURVES, "one.csv", "epoch,val_iou\nnan,1\nnan,2\n", 3, "NaN or infinite positions"),
    Case("dump, names that are none", DUMPS, INDEX, '{"schema_version": 1, "settings": {}, "environment": {}, "tensors": [{}]}', 3, r"tensors\[0\] is \{\}; expected text"),
    Case("dump, nested deeply", DUMPS, INDEX, NESTED, 3, "more than 50 levels"),
    Case("order, binary", ORDER, "order.txt", b"\xff", 3, "--predictions-order order.txt cannot be read"),
    Case("package of another tool", PACKAGE, "packaged/package.json", '{"name": "page", "version": "1.0.0"}', 2, "is no package"),
    Case("package, half of its manifest", PACKAGE, "packaged/package.json", '{"tool": "segdeploy', 2, "is no package"),
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, _tiny_unet: UNetPlusPlus) -> Path:
    """A folder with good files of every kind; tests copy it."""
    folder = tmp_path_factory.mktemp("made")
    write_image_set(folder / "set", ["train"] * 2 + ["val"] + ["test"] * 2)
    save_checkpoint(_tiny_unet, folder / "net.pth.safetensors", preprocess=TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in (
            "export -c net.pth.safetensors -o net.onnx",
            "calibrate -m net.onnx --calib-data set -o net.calib.json",
        ):
            assert main(shlex.split(command)) == 0
    (folder / CONTRACT).write_text(TINY.to_json())
    for name in ("reported", "compared"):
        (folder / name).mkdir()
        (folder / name / "report.json").write_text(json.dumps(bare_report()))
    for name in ("one.csv", "two.csv"):
        (folder / name).write_text("epoch,val_iou\n1,70\n2,71\n")
    (folder / "outputs").mkdir()
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the good files, two folders below a file that no command may touch."""
    folder = tmp_path / "work"
    shutil.copytree(made, folder)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept.txt").write_text("kept")
    monkeypatch.chdir(folder)
    return folder


def files_below(folder: Path) -> dict[str, str | None]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


def damage(path: Path, content: str | bytes | Edit | None) -> None:
    if callable(content):
        before = path.read_text()
        found = content(before if hasattr(content, "raw") else json.loads(before))
        content = found if isinstance(found, str) else json.dumps(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.unlink(missing_ok=True)
        path.mkdir()
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def run(command: str) -> int:
    try:
        return main(shlex.split(command))
    except SystemExit as left:
        return int(left.code or 0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_file_is_one_line_and_changes_nothing(
    case: Case, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(here / case.file, case.content)
    before = files_below(here.parent)
    capsys.readouterr()
    code = run(case.command)
    said = capsys.readouterr()
    assert said.out == ""
    *plan, line = said.err.splitlines()
    assert len(plan) == (PLANNED if case.command == RUN else 0), said.err
    assert line.startswith("segdeploy: error: ")
    assert line.isprintable()
    assert re.search(case.message, line), line
    path = Path(case.file)
    named = (path.name, path.parent.name or path.name, "the calibration table")
    assert any(name in line for name in named), line
    assert code == case.code
    assert files_below(here.parent) == before


@pytest.mark.parametrize("command", [QUANTIZE, EXPORT, REPORT, COMPARE, CURVES, PREDICT])
def test_the_good_files_are_read(command: str, here: Path) -> None:
    """Otherwise the cases above might be refused for another reason."""
    assert run(command) == 0


def test_overwriting_a_damaged_journal_touches_no_file_outside(here: Path) -> None:
    escape = {write.file("../../outside/kept"): "0" * 64 for write in Write}
    damage(here / JOURNAL, row(outputs={"../../outside/kept.txt": "0" * 64} | escape))
    assert run(f"{PREDICT} --overwrite") == 0
    assert (here.parent / "outside" / "kept.txt").read_text() == "kept"


def test_a_name_of_the_journal_that_leads_out_is_never_a_path(here: Path) -> None:
    """A row of such an image may stand there: it is of no image that is asked for."""
    name = "../../outside/kept"
    outputs = {write.file(name): "0" * 64 for write in Write}
    damage(here / JOURNAL, row(name=name, outputs=outputs))
    assert run(PREDICT) == 0
    assert files_below(here.parent / "outside").keys() == {"kept.txt"}
    assert "outside" not in (here / JOURNAL).read_text(), "the index is of what was asked for"


def test_an_image_whose_name_is_no_utf8_is_predicted(here: Path) -> None:
    source = next((here / "set" / "images").iterdir())
    odd = here / "odd"
    odd.mkdir()
    shutil.copyfile(source, odd / "a\udcff.png")
    for _ in range(2):
        assert run("predict net.onnx odd -o named") == 0
    assert (here / "named" / "a\udcff.png").is_file()
