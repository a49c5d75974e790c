"""ONNX files that are damaged, hostile or of another network: each refused in one clean line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from bad_input import assert_refused, device, loop, nothing, run_command
from bad_onnx import (
    Build,
    at,
    attribute,
    constant_outside,
    contract,
    cut,
    decides,
    dims,
    domain,
    draws,
    edited,
    endless,
    file,
    functions,
    half,
    joined,
    kind,
    nested,
    node,
    other,
    outside,
    reverse,
    said,
    second_input,
    second_output,
    sequence,
    shape,
    sparse,
    three_gib,
    trains,
    values,
    weight,
    weights_outside,
)
from onnx import TensorProto

from segdeploy.cli.main import main
from segdeploy.deploy.onnx_model.file import contract_of, describe, load_model
from segdeploy.deploy.system.errors import InputError

MAKERS = ("simplify", "convert", "rewrite", "calibrate", "quantize")
READERS = ("parity", "reference", "benchmark", "debug", "predict", "package")
ALL = (*MAKERS, *READERS, "check")
IMAGES = ("calibrate", *READERS)
"""Verbs that need to know what the model takes."""


@dataclass(frozen=True)
class Case:
    """One bad file, what must be said, and the verbs that must say it."""

    name: str
    build: Build
    message: str
    verbs: tuple[str, ...] = ("simplify",)
    exit_code: int = 3


CASES = (
    Case("missing", at(nothing), "x.onnx does not exist; expected an ONNX file", ALL),
    Case(
        "folder",
        at(Path.mkdir),
        "x.onnx (holds no finished run .*give|is a folder; expected) an ONNX file",
        ALL,
    ),
    Case("link loop", at(loop), "x.onnx cannot be reached", ALL),
    Case("pipe", at(os.mkfifo), "x.onnx is a pipe or a device", ALL),
    Case("device", at(device), "x.onnx is a pipe or a device"),
    Case("3 GiB", at(three_gib), "x.onnx has 3.0 GiB; an ONNX file has less than 2", ALL),
    Case("empty", file(b""), "x.onnx", ALL),
    Case("zeros", file(bytes(4096)), "is not a valid ONNX file"),
    Case("text", file(b"no model\n" * 30), "is not a valid ONNX file", ALL),
    Case("JSON", file(b'{"irVersion": 8}'), "is not a valid ONNX file"),
    Case("a third of it", cut(0.33), "is not a valid ONNX file"),
    Case("nearly all of it", cut(0.999), "x.onnx", ALL),
    # --- files beside it
    Case("weights up the tree", weights_outside("../../etc/passwd"), "outside the file", ALL),
    Case("weights at the root", weights_outside("/etc/passwd"), "keeps weights outside the file"),
    Case("weights beside it", weights_outside("weights.bin"), "save it as one file"),
    Case("weights nowhere", weights_outside(""), "keeps weights outside the file"),
    Case(
        "a constant outside", edited(constant_outside), "outside the file; .*found: 'outside'", ALL
    ),
    Case("outside in a branch", edited(decides(1, outside("/etc/passwd"))), "without If, Loop"),
    Case(
        "a location beside the bytes",
        edited(lambda m: weight(m).external_data.add(key="location", value="/etc/passwd")),
        "keeps weights outside the file",
    ),
    # --- no end
    Case("endless loop", edited(endless), "may never end; expected a network without", ALL),
    Case("25 branches deep", edited(decides(25)), "expected a network without If, Loop and Scan"),
    Case("3000 levels deep", file(nested(1000)), "is not a valid ONNX file"),
    Case("2**40 calls", edited(functions(40)), "has functions of its own .'F0'", ALL),
    Case("calls itself", edited(functions(1, itself=True)), "has functions of its own"),
    Case("joins 2**40", edited(joined(40)), "joins values of more than 1024", ("calibrate",)),
    Case("cycle", edited(lambda m: node(m, "high").input.__setitem__(0, "merge")), "sorted"),
    # --- versions and operators
    Case("opset 9999", edited(lambda m: setattr(m.opset_import[0], "version", 9999)), "9999", ALL),
    Case("opset 1", edited(lambda m: setattr(m.opset_import[0], "version", 1)), "not a valid"),
    Case("opset -5", edited(lambda m: setattr(m.opset_import[0], "version", -5)), r"opset \[-5\]"),
    Case(
        "no opset",
        edited(lambda m: m.ClearField("opset_import")),
        "not a valid ONNX file .it states no opset",
        ALL,
    ),
    Case("two opsets", edited(lambda m: m.opset_import.add(domain="", version=17)), r"\[18, 17\]"),
    Case("IR 999", edited(lambda m: setattr(m, "ir_version", 999)), "ir_version 999 is higher"),
    Case("IR 0", edited(lambda m: setattr(m, "ir_version", 0)), "not a valid ONNX file"),
    Case(
        "unknown operator", edited(lambda m: setattr(node(m, "high/Relu"), "op_type", "Foo")), "Foo"
    ),
    Case(
        "custom operator",
        edited(domain("evil", declared=True)),
        "evil:Relu.* is not a registered|shape of tensor|no fp16 form|custom",
        ("rewrite", "calibrate", "parity", "reference", "benchmark"),
    ),
    Case("custom, undeclared", edited(domain("evil", declared=False)), "opset import for domain"),
    Case(
        "escapes in a name",
        edited(lambda m: setattr(node(m, "high/Relu"), "op_type", "\x1b[2J\n")),
        "valid",
    ),
    Case("trains", edited(trains), "'bn' .BatchNormalization.*; .* after model.eval", ALL),
    Case("draws at random", edited(draws), "'high/Relu' .RandomNormalLike. draws at", ALL),
    # --- tensors
    Case(
        "short weight",
        edited(lambda m: setattr(weight(m), "raw_data", b"1234")),
        "has 4 bytes, expected 432",
        ALL,
    ),
    Case(
        "long weight",
        edited(lambda m: setattr(weight(m), "raw_data", bytes(999))),
        "has 999 bytes, expected 432",
    ),
    Case("negative shape", edited(lambda m: dims(m, -4, 3, 3, 3)), "has 432 bytes, expected -432"),
    Case("shape of 2**40", edited(lambda m: dims(m, 2**40, 3, 3, 3)), "has 432 bytes, expected"),
    Case("shape beyond 2**64", edited(lambda m: dims(m, 2**33, 2**33)), "has 432 bytes, expected"),
    Case(
        "unknown type",
        edited(lambda m: setattr(weight(m), "data_type", 99)),
        "of the unknown type 99",
    ),
    Case("sparse", edited(sparse), "holds sparse weights or a training graph; expected dense"),
    Case(
        "missing weight",
        edited(lambda m: m.graph.initializer.remove(weight(m))),
        "high.weight",
        ALL,
    ),
    Case("a weight twice", edited(lambda m: m.graph.initializer.append(weight(m))), "not unique"),
    Case("fp16 weights", edited(half), "is fp16; .* from fp32", MAKERS),
    Case(
        "NaN",
        edited(lambda m: values(m, "high.weight", lambda a: a * np.nan)),
        "values hold NaN",
        ("calibrate",),
    ),
    # --- graphs
    Case("no graph", edited(lambda m: m.ClearField("graph")), "x.onnx has no output", ALL),
    Case("no output", edited(lambda m: m.graph.ClearField("output")), "has no output"),
    Case("no input", edited(lambda m: m.graph.ClearField("input")), "not a valid ONNX file"),
    Case("out of order", edited(reverse), "topologically sorted", ALL),
    Case("a name twice", edited(lambda m: node(m, "low").output.__setitem__(0, "high")), "SSA"),
    Case("output of nothing", edited(lambda m: setattr(m.graph.output[0], "name", "x")), "'x'"),
    Case(
        "node without inputs", edited(lambda m: node(m, "high").ClearField("input")), "input size 0"
    ),
    Case(
        "node without outputs",
        edited(lambda m: node(m, "high/Relu").ClearField("output")),
        "output size 0",
    ),
    Case(
        "pool of 0",
        edited(lambda m: attribute(m, "pool", "kernel_shape", [0, 0])),
        "x.onnx|shape",
        ("calibrate", "parity"),
    ),
    Case(
        "stride 0",
        edited(lambda m: attribute(m, "pool", "strides", [0, 0])),
        "x.onnx|shape",
        ("calibrate", "parity"),
    ),
    Case(
        "pads of 2**40",
        edited(lambda m: attribute(m, "high", "pads", [2**40] * 4)),
        "x.onnx|shape|failed",
        ("convert",),
    ),
    Case(
        "pads of 2**40 when run",
        edited(lambda m: attribute(m, "high", "pads", [2**40] * 4)),
        "ONNX Runtime failed on .*Integer overflow",
        ("calibrate", "rewrite"),
        4,
    ),
    Case(
        "scales of 10**9",
        edited(lambda m: values(m, "scales", lambda a: a * 1e9)),
        "resizes to 4e.36 times",
        ("calibrate",),
    ),
    Case(
        "scales of NaN",
        edited(lambda m: values(m, "scales", lambda a: a * np.nan)),
        "resizes to nan times",
        ("calibrate",),
    ),
    Case(
        "axis 99",
        edited(lambda m: attribute(m, "both", "axis", 99)),
        "x.onnx|shape",
        ("calibrate", "convert", "rewrite"),
    ),
    # --- inputs and outputs
    Case(
        "unknown input type", edited(lambda m: kind(m, 99)), "'image' is no tensor of numbers", ALL
    ),
    Case("text input", edited(lambda m: kind(m, TensorProto.STRING)), "is no tensor of numbers"),
    Case("a sequence as input", edited(sequence), "is no tensor of numbers", ALL),
    Case("int64 input", edited(lambda m: kind(m, TensorProto.INT64)), "x.onnx|inputs", IMAGES),
    Case("fp16 input", edited(lambda m: kind(m, TensorProto.FLOAT16)), "x.onnx|inputs", IMAGES),
    Case("side 0", edited(lambda m: shape(m, 2, 0)), "expected sides from 1", ALL),
    Case("side -32", edited(lambda m: shape(m, 2, -32)), "expected sides from 1"),
    Case("side 2**40", edited(lambda m: shape(m, 3, 2**40)), "expected sides from 1"),
    Case("side 64", edited(lambda m: shape(m, 3, 64)), r"takes images of \(3, 32, 64\)", IMAGES),
    Case("4 channels", edited(lambda m: shape(m, 1, 4)), r"takes images of \(4, 32, 32\)", IMAGES),
    Case(
        "rank 3",
        edited(lambda m: m.graph.input[0].type.tensor_type.shape.dim.pop()),
        "inputs",
        IMAGES,
    ),
    Case(
        "no shape",
        edited(lambda m: m.graph.input[0].type.tensor_type.ClearField("shape")),
        "not a valid",
    ),
    Case("two inputs", edited(second_input), "x.onnx: the model has inputs .*'more'", IMAGES),
    Case("two outputs", edited(second_output), "x.onnx: the model has .* outputs .*'more'", IMAGES),
    # --- models that have been through another verb
    Case("int8", other("int8.onnx"), "is int8; .* from fp32", MAKERS),
    Case("fp16", other("fp16.onnx"), "is fp16; .* from fp32", MAKERS),
    Case("image interface", other("image.onnx"), "takes 8-bit images; .* added last", MAKERS),
    Case(
        "int8 that says fp32",
        other("int8.onnx", lambda m: said(m, precision="fp32")),
        "is int8; .* from fp32",
        MAKERS,
    ),
    # --- metadata
    Case(
        "no contract",
        edited(lambda m: said(m, preprocess=None)),
        "carries no preprocessing contract",
        IMAGES,
    ),
    Case(
        "contract {}",
        edited(lambda m: said(m, preprocess="{}")),
        "hold a preprocessing contract",
        IMAGES,
    ),
    Case(
        "contract of lists",
        edited(lambda m: said(m, preprocess="[" * 10**5)),
        "hold a preprocessing",
        IMAGES,
    ),
    Case("contract size 0", contract(size=[0, 0]), "holds no pixel", IMAGES),
    Case("contract size 10**6", contract(size=[10**6, 10**6]), "beyond 4096", IMAGES),
    Case("contract std 0", contract(std=[0, 1, 1]), "std above zero", IMAGES),
    Case("contract std NaN", contract(std=[float("nan"), 1, 1]), "finite numbers", IMAGES),
    Case(
        "contract of another size", contract(size=[64, 64]), "takes images of .3, 32, 32.", IMAGES
    ),
    Case(
        "int8 by its own words",
        edited(lambda m: said(m, precision="int8")),
        "is int8; .* from fp32",
        MAKERS,
    ),
)


@pytest.fixture(scope="module")
def good(
    tmp_path_factory: pytest.TempPathFactory,
    make_image_set: Callable[[Path, list[str]], Path],
    small_onnx: Callable[..., Path],
) -> Path:
    """A folder with an image set, a model and its table that are as they should be."""
    folder = tmp_path_factory.mktemp("good")
    make_image_set(folder / "set", ["train", "train", "val", "test"])
    small_onnx(folder / "good.onnx")
    for line in (
        "calibrate -m good.onnx --calib-data set -o table.json",
        "quantize -m good.onnx --calibration table.json --target ort-x86 -o int8.onnx",
        "convert -m good.onnx -o fp16.onnx",
        "rewrite -m good.onnx --rewrites image-interface -o image.onnx",
    ):
        words = [
            folder / word if (word.islower() and "." in word) or word == "set" else word
            for word in line.split()
        ]
        assert main([str(word) for word in words]) == 0
    return folder


def command(verb: str, path: Path, good: Path) -> list[object]:
    """The command line that gives a model to a verb."""
    output, model = path.parent / "output", good / "good.onnx"
    images = ("--calib-data", good / "set")
    data = ("--data", good / "set")
    return {
        "simplify": ["simplify", "-m", path, "-o", output],
        "convert": ["convert", "-m", path, "-o", output],
        "rewrite": ["rewrite", "-m", path, *images, "-o", output],
        "calibrate": ["calibrate", "-m", path, *images, "-o", output],
        "quantize": [
            "quantize", "-m", path, "--calibration", good / "table.json", "--target", "ort-x86",
            "-o", output,
        ],
        "parity": ["parity", "-m", path, "--reference", model, *data],
        "reference": ["parity", "-m", model, "--reference", path, *data],
        "benchmark": ["benchmark", "-m", path, *data],
        "debug": ["debug", "-m", path, "--calibration", good / "table.json", *images],
        "predict": ["predict", path, good / "set" / "images", "-o", output],
        "package": ["package", "--target", "onnx", "-m", path, "-o", output],
        "check": ["package", "--target", "tensorrt", "--check", "-m", path],
    }[verb]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "verb"),
    [pytest.param(case, verb, id=f"{case.name}-{verb}") for case in CASES for verb in case.verbs],
)
def test_refused_in_one_line(case: Case, verb: str, good: Path, tmp_path: Path) -> None:
    path = case.build(good / "good.onnx", tmp_path)
    assert_refused(
        run_command(command(verb, path, good), tmp_path), code=case.exit_code, message=case.message
    )


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_adopting_it_writes_a_file_of_ours_or_is_refused_in_one_line(
    case: Case, good: Path, tmp_path: Path
) -> None:
    """Adopting mends some of them: a missing contract, other metadata, functions that end."""
    path, output = case.build(good / "good.onnx", tmp_path), tmp_path / "output"
    words = ["adopt", path, "--preprocess", "published", "--data", good / "set", "-o", output]
    outcome = run_command(words, tmp_path)
    if outcome.code == 0:
        contract_of(describe(output))
    else:
        assert_refused(outcome, code=outcome.code, message="x.onnx|ONNX Runtime")
        assert outcome.code in (3, 4)


def refusal(path: Path) -> str | None:
    """What is said of a file, in one line; ``None`` where it is read."""
    try:
        load_model(path)
    except InputError as error:
        return str(error)
    return None


def test_every_prefix_is_refused_or_lacks_metadata_alone(good: Path, tmp_path: Path) -> None:
    whole, content = load_model(good / "good.onnx"), (good / "good.onnx").read_bytes()
    path, size = tmp_path / "x.onnx", len(content)
    lengths = {*range(40), *range(0, size, size // 200), *range(size - 40, size)}
    read = []
    for length in lengths:
        path.write_bytes(content[:length])
        message = refusal(path)
        assert message is None or re.fullmatch(r".*x\.onnx.*", message)
        if message is None:
            read.append(length)
            found = load_model(path)
            assert (found.graph, found.opset_import) == (whole.graph, whole.opset_import)
    # Protobuf has no end mark: what is cut off between two entries of metadata is not missed.
    assert len(read) < 10
    assert all(length > size - 400 for length in read)
