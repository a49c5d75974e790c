"""The law of every verb: the function writes the same bytes as the command."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import segdeploy as sd
from segdeploy.calibration.table import CalibrationTable
from segdeploy.cli.main import main


class Inputs:
    """What the verbs work on."""

    def __init__(self, models: dict[str, Path], checkpoint: Path, images: Path, table: Path):
        self.fp32 = models["fp32"]
        self.int8 = models["int8 ort-x86"]
        self.checkpoint, self.images, self.table = checkpoint, images, table


@pytest.fixture(scope="module")
def calibrated(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = tmp_path_factory.mktemp("calibrated") / "net.calib.json"
    sd.calibrate(tiny_models["fp32"], tiny_models["fp32"].parent / "set", out=table, threads=1)
    return table


@pytest.fixture
def inputs(
    tiny_models: dict[str, Path],
    tiny_unet_checkpoint: Path,
    image_set: Path,
    calibrated: Path,
    tmp_path: Path,
) -> Inputs:
    table = Path(shutil.copy(calibrated, tmp_path))
    return Inputs(tiny_models, tiny_unet_checkpoint, image_set, table)


def written(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


Verb = tuple[Callable[[Inputs, Path], list[object]], Callable[[Inputs, Path], object]]

VERBS: dict[str, Verb] = {
    "export": (
        lambda i, o: ["export", "-c", i.checkpoint, "--head", 1, "-o", o / "n.onnx"],
        lambda i, o: sd.export(sd.load(i.checkpoint, head=1), o / "n.onnx"),
    ),
    "adopt": (
        lambda i, o: [
            *("adopt", i.fp32, "--preprocess", "published", "--calib-data", i.images),
            *("--num-samples", 2, "-o", o / "n.onnx"),
        ],
        lambda i, o: sd.adopt(
            i.fp32, "published", sd.Data(i.images, num_samples=2), out=o / "n.onnx"
        ),
    ),
    "simplify": (
        lambda i, o: ["simplify", "-m", i.fp32, "-o", o / "n.onnx"],
        lambda i, o: sd.simplify(i.fp32, o / "n.onnx"),
    ),
    "convert": (
        lambda i, o: ["convert", "-m", i.fp32, "-o", o / "n.onnx"],
        lambda i, o: sd.convert(sd.load(i.fp32), o / "n.onnx"),
    ),
    "rewrite": (
        lambda i, o: [
            *("rewrite", "-m", i.fp32, "-o", o / "n.onnx", "--calib-data", i.images),
            *("--num-samples", 4, "--seed", 3),
        ],
        lambda i, o: sd.rewrite(i.fp32, sd.Data(i.images, num_samples=4, seed=3), out=o / "n.onnx"),
    ),
    "rewrite ends": (
        lambda i, o: [
            *("rewrite", "-m", i.int8, "-o", o / "n.onnx", "--rewrites", "any-size"),
            "image-interface",
        ],
        lambda i, o: sd.rewrite(i.int8, rewrites=["any-size", "image-interface"], out=o / "n.onnx"),
    ),
    "calibrate": (
        lambda i, o: [
            *("calibrate", "-m", i.fp32, "--calib-data", i.images, "--method", "mse"),
            *("--num-samples", 5, "--export", "tensorrt", "onnxruntime", "-o", o / "t.json"),
        ],
        lambda i, o: sd.calibrate(
            i.fp32,
            sd.Data(i.images, num_samples=5),
            method="mse",
            export=["tensorrt", "onnxruntime"],
            out=o / "t.json",
        ),
    ),
    "calibrate import": (
        lambda i, o: ["calibrate", "-m", i.fp32, "--import", i.table, "-o", o / "t.json"],
        lambda i, o: sd.calibrate(i.fp32, imported=i.table, out=o / "t.json"),
    ),
    "quantize": (
        lambda i, o: [
            *("quantize", "-m", i.fp32, "--calibration", i.table, "--target", "openvino-cpu"),
            *("-o", o / "n.onnx"),
        ],
        lambda i, o: sd.quantize(
            i.fp32, CalibrationTable.read(i.table), target="openvino-cpu", out=o / "n.onnx"
        ),
    ),
    "quantize max-drop": (
        lambda i, o: [
            *("quantize", "-m", i.fp32, "--calibration", i.table, "--max-drop", 100),
            *("--data", i.images, "--reference", i.fp32, "--threads", 1, "-o", o / "n.onnx"),
        ],
        lambda i, o: sd.quantize(
            i.fp32, i.table, max_drop=100, data=i.images, reference=i.fp32, out=o / "n.onnx"
        ),
    ),
    "package": (
        lambda i, o: [
            *("package", "--target", "onnx", "-m", i.int8, "-o", o / "package"),
            *("--batch", 2),
        ],
        lambda i, o: sd.package(i.int8, o / "package", target="onnx", batches=2),
    ),
    "align dump": (
        lambda i, o: [
            *("align", "dump", "-c", i.checkpoint, "--data", i.images, "--steps", 2),
            *("--threads", 1, "-o", o / "dump"),
        ],
        lambda i, o: sd.align.dump(i.checkpoint, i.images, steps=2, threads=1, out=o / "dump"),
    ),
    "data prepare": (
        lambda i, o: ["data", "prepare", i.images.parent / "raw" / "stage1_train", "-o", o / "set"],
        lambda i, o: sd.prepare(i.images.parent / "raw" / "stage1_train", o / "set"),
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_function_and_command_write_the_same_bytes(
    verb: str, inputs: Inputs, raw_set: Path, tmp_path: Path
):
    words, call = VERBS[verb]
    folders = [tmp_path / "by_command", tmp_path / "by_function"]
    for folder in folders:
        folder.mkdir()
    assert main([str(word) for word in words(inputs, folders[0])]) == 0
    call(inputs, folders[1])
    command, function = map(written, folders)
    assert command
    assert function == command


def test_a_table_that_was_never_written_gives_the_same_model(inputs: Inputs, tmp_path: Path):
    table = sd.calibrate(inputs.fp32, inputs.images, threads=1)
    assert table == CalibrationTable.read(inputs.table)
    models = [
        sd.quantize(inputs.fp32, each, out=tmp_path / f"{index}.onnx")
        for index, each in enumerate((table, inputs.table))
    ]
    assert models[0].path.read_bytes() == models[1].path.read_bytes()


def test_outputs_have_their_usual_names_beside_the_model(inputs: Inputs, tmp_path: Path):
    model = sd.export(inputs.checkpoint)
    assert model.path == inputs.checkpoint.with_name("tiny_unet.fp32.onnx")
    names = [
        sd.simplify(model).path.name,
        sd.convert(model).path.name,
        (rewritten := sd.rewrite(model, inputs.images)).path.name,
        sd.quantize(rewritten, sd.calibrate(rewritten, inputs.images)).path.name,
        sd.rewrite(model, rewrites=["any-size"]).path.name,
    ]
    assert names == [
        "tiny_unet.sim.onnx",
        "tiny_unet.fp16.onnx",
        "tiny_unet.opt.onnx",
        "tiny_unet.int8.ort-x86.onnx",
        "tiny_unet.fp32.any-size.onnx",
    ]


def test_nothing_is_replaced_in_silence(inputs: Inputs, tmp_path: Path):
    output = tmp_path / "mine.onnx"
    output.write_bytes(b"mine")
    calls = (
        lambda more: sd.export(inputs.checkpoint, output, **more),
        lambda more: sd.simplify(inputs.fp32, output, **more),
        lambda more: sd.convert(inputs.fp32, output, **more),
        lambda more: sd.rewrite(inputs.fp32, inputs.images, out=output, **more),
        lambda more: sd.calibrate(inputs.fp32, inputs.images, out=output, **more),
        lambda more: sd.quantize(inputs.fp32, inputs.table, out=output, **more),
    )
    for call in calls:
        with pytest.raises(sd.UsageError, match=r"mine\.onnx exists.*overwrite=True"):
            call({})
        assert output.read_bytes() == b"mine"
        call({"overwrite": True})
        assert output.read_bytes() != b"mine"
        output.write_bytes(b"mine")


def test_a_model_is_never_its_own_output(inputs: Inputs):
    with pytest.raises(sd.UsageError, match="would replace its own input"):
        sd.convert(inputs.fp32, inputs.fp32, overwrite=True)


def test_a_checkpoint_where_an_onnx_file_is_wanted_is_refused(inputs: Inputs):
    with pytest.raises(sd.UsageError, match="is a checkpoint; export it first"):
        sd.simplify(sd.load(inputs.checkpoint))  # type: ignore[arg-type]  # the mistake
    with pytest.raises(sd.UsageError, match="is an ONNX file; this takes a checkpoint"):
        sd.export(sd.load(inputs.fp32))
    with pytest.raises(sd.UsageError, match="a int is no model"):
        sd.convert(3)  # type: ignore[arg-type]  # the mistake


def test_a_budget_that_cannot_be_kept_is_an_error_and_the_best_stays(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("segdeploy.benchmarks.mixed.state.Trial.within", lambda self, drop: False)
    output = tmp_path / "n.onnx"
    with pytest.raises(sd.RunError, match="keeps the budget of 0 points") as failed:
        sd.quantize(
            inputs.fp32,
            inputs.table,
            max_drop=0,
            data=inputs.images,
            reference=inputs.fp32,
            out=output,
        )
    assert failed.value.exit_code == 4
    assert output.is_file()


def test_a_table_of_another_model_has_an_exit_code(inputs: Inputs, tmp_path: Path):
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(sd.SegdeployError) as refused:
        sd.quantize(inputs.fp32, tmp_path / "bad.json", out=tmp_path / "n.onnx")
    assert refused.value.exit_code == 3


def test_a_checkpoint_agrees_with_its_own_file_and_a_perturbed_layer_is_named(
    inputs: Inputs, tiny_models: dict[str, Path]
):
    net = sd.load(tiny_models["fp32"].with_name("net.safetensors"), head=2)
    found = sd.align.layers(net, tiny_models["fp32"], data=inputs.images, num_samples=1)
    assert found.passed
    layer = [each.name for each in found.alignments[0].layers if each.operator == "Conv"][1]
    faulty = sd.align.layers(
        tiny_models["fp32"],
        tiny_models["fp32"],
        data=inputs.images,
        num_samples=1,
        runtimes="onnxruntime",
        perturbed=layer,
    )
    assert not faulty.passed
    first = faulty.alignments[0].first_departure
    assert first is not None
    assert first.name == layer


def test_two_dumps_of_one_network_agree(inputs: Inputs):
    dumps = [
        sd.align.dump(inputs.checkpoint, inputs.images, steps=1, threads=1, plain_kernels=plain)
        for plain in (False, True)
    ]
    assert sd.align.compare(*dumps).passed


def test_training_goes_from_a_folder_to_a_checkpoint(inputs: Inputs, tmp_path: Path):
    contract = sd.Preprocess(size=(32, 32))
    recipe = sd.Recipe(epochs=1, width=4, batch=2)
    out = tmp_path / "trained"
    result = sd.train(inputs.images, out, recipe=recipe, preprocess=contract, quiet=True)
    assert result.epochs == 1
    net = sd.load(result.checkpoint)
    assert net.preprocess == contract
    assert sd.verify(out).unchanged


def test_doctor_names_every_runtime():
    machine = sd.doctor()
    states = {state.name: state for state in machine.runtimes}
    assert states["onnxruntime"].ready
    assert states["onnxruntime"].default_precision == "fp32"
    assert all(state.ready or state.reason for state in machine.runtimes)
    assert not states["pytorch-cuda"].hardware_run


def test_a_graph_is_checked_for_a_toolchain(inputs: Inputs):
    found = sd.check([inputs.fp32, inputs.int8], target="tensorrt")
    assert list(found.findings) == [inputs.fp32, inputs.int8]
    assert found.accepted == (
        main(
            ["package", "--target", "tensorrt", "--check", "-m", str(inputs.fp32), str(inputs.int8)]
        )
        == 0
    )
