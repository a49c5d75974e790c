"""Any input contract in a package: expressed exactly, or refused in one line with what to do."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from numpy.typing import NDArray
from PIL import Image
from tiny import write_image_set, write_small_onnx

from segdeploy.deploy.data import placement, resizing
from segdeploy.deploy.data.image_set import SegmentationSet, open_set
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.file import describe, load_model, save_model
from segdeploy.deploy.packaging import segment
from segdeploy.deploy.packaging.base import Package, PackagedModel, Request
from segdeploy.deploy.packaging.package import package, reread
from segdeploy.deploy.packaging.preprocessing import Preprocessing
from segdeploy.deploy.packaging.registry import PACKAGE_TARGETS
from segdeploy.deploy.rewrites.image_interface import image_interface
from segdeploy.deploy.runtimes.base import Execution
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.system.errors import InputError
from tests.deploy.data.test_preprocess import SIZES, any_contract, image_of

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)

ONE = {"mean": (0.4,), "std": (0.3,)}
KINDS = {
    "grey": Preprocess(size=(32, 32), channel_order="GREY", **ONE),  # type: ignore[arg-type]
    "aspect": Preprocess(size=(32, 48), aspect="longer", interpolation="area", pad="reflect"),
    "cropped": Preprocess(
        size=(32, 32), channel_order="RGB", resize_to=(40, 40), aspect="shorter", antialias=True
    ),
    "bands": Preprocess(
        size=(32, 32), channel_order="BANDS", mean=(0.1, 0.2, 0.3, 0.4), std=(0.5,) * 4
    ),
    "deep": Preprocess(
        size=(32, 32),
        channel_order="GREY",
        source_bits=16,
        source_range=(10, 4000),
        **ONE,  # type: ignore[arg-type]
    ),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SegmentationSet]:
    """A small set for each kind, as its contract takes them."""
    root = tmp_path_factory.mktemp("sets")
    found = {}
    for kind, contract in KINDS.items():
        write_image_set(root / kind, ["train", "test", "test"])
        for path in sorted((root / kind / "images").iterdir()):
            with Image.open(path) as image:
                size = image.size[::-1]
            if kind in ("bands", "deep"):
                path.unlink()
                pixels = image_of(contract, size, seed=len(found))
                tifffile.imwrite(
                    path.with_suffix(".tif"),
                    pixels if kind == "bands" else pixels[..., 0],
                    photometric="minisblack",
                    planarconfig="contig" if kind == "bands" else None,
                )
        found[kind] = open_set(root / kind, "test")
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        kind: write_small_onnx(root / f"{kind}.sim.onnx", contract)
        for kind, contract in KINDS.items()
    }


def packed(
    target: str,
    model: Path,
    images: SegmentationSet,
    out: Path,
    *,
    forms: Preprocessing = Preprocessing.BOTH,
) -> Package:
    holds = target in ("ascend", "vacc")
    request = Request(
        sources=(PackagedModel.open(model),),
        evaluation=images,
        calibration=images if holds else None,
        preprocessing=forms,
    )
    return package(request, target=PACKAGE_TARGETS[target], output=out)


@settings(max_examples=80, deadline=None)
@given(any_contract(), SIZES)
@example(KINDS["deep"], (40, 37))
def test_the_example_prepares_any_image_as_any_contract_does(
    contract: Preprocess, size: tuple[int, int]
) -> None:
    sys.modules.update(placement=placement, resizing=resizing)  # as if beside the script
    image = image_of(contract, size, seed=4)
    stated = json.loads(contract.to_json())
    form = {"shape": [-1, contract.channels, *contract.size], "dtype": "float32"}
    found = segment.prepared(image, stated, **form)  # type: ignore[arg-type]  # of two types
    assert np.array_equal(found, contract.apply(image))  # type: ignore[arg-type]  # unsigned


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["onnx", pytest.param("openvino", marks=needs_openvino)])
def test_packages_run_as_the_file_does(
    target: str,
    kind: str,
    models: dict[str, Path],
    images: dict[str, SegmentationSet],
    tmp_path: Path,
) -> None:
    found = packed(target, models[kind], images[kind], tmp_path / "out")
    reread(found.folder, target=PACKAGE_TARGETS[target])
    forms = sorted(p.name for p in found.folder.rglob("*") if p.suffix in (".onnx", ".xml"))
    expected = {"onnx": 2, "openvino": 4}[target]
    assert len(forms) == (expected if kind != "deep" else expected // 2)
    if not KINDS[kind].departures:
        return
    assert KINDS[kind].words in (found.folder / "README.md").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_program_alone_gives_the_mask_of_the_file(
    kind: str, models: dict[str, Path], images: dict[str, SegmentationSet], tmp_path: Path
) -> None:
    contract, sample = KINDS[kind], images[kind].samples[0]
    folder = packed("onnx", models[kind], images[kind], tmp_path / "out").folder
    given = sample.image_path
    if kind in ("bands", "deep"):
        given = tmp_path / "image.npy"
        np.save(given, sample.image(contract))
    artifact = describe(models[kind])
    with open_runtime(RuntimeName.ONNXRUNTIME, artifact, execution=Execution(threads=1)) as runtime:
        (values,) = runtime.infer({"image": sample.input(contract)[None]}).values()
    for model in folder.glob("*.onnx"):
        done = subprocess.run(
            [sys.executable, folder / "segment.py", model, given, "-o", tmp_path / "mask.png"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        mask = np.asarray(Image.open(tmp_path / "mask.png"))
        assert np.array_equal(mask, np.where(values[0, 0] >= 0.5, 255, 0))


def test_the_example_says_what_it_cannot_decode(
    models: dict[str, Path], images: dict[str, SegmentationSet], tmp_path: Path
) -> None:
    folder = packed("onnx", models["deep"], images["deep"], tmp_path / "out").folder
    image = images["deep"].samples[0].image_path
    done = subprocess.run(
        [sys.executable, folder / "segment.py", next(folder.glob("*.onnx")), image, "-o", "x.png"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith("and give (height, width, channels) as .npy")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("kind", ["grey", "bands"])
def test_image_interface_takes_the_contracts_channels_bit_for_bit(
    kind: str, models: dict[str, Path], images: dict[str, SegmentationSet], tmp_path: Path
) -> None:
    contract = KINDS[kind]
    made = image_interface(load_model(models[kind]), contract).model
    save_model(made, tmp_path / "image.onnx")
    masks = {}
    for path, feeds in (
        (models[kind], images[kind].inputs(contract)),
        (tmp_path / "image.onnx", images[kind].pixels(contract)),
    ):
        artifact, run = describe(path), Execution(threads=1, batch=2)
        with open_runtime(RuntimeName.ONNXRUNTIME, artifact, execution=run) as runtime:
            (found,) = runtime.infer({artifact.inputs[0].name: feeds}).values()
        masks[path] = found if found.ndim == 3 else found[:, 0] >= 0.5
    first, second = masks.values()
    assert np.array_equal(first, second.astype(bool))


def test_levels_in_a_range_have_no_image_model(
    models: dict[str, Path], images: dict[str, SegmentationSet], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="16 bits in a range, and image-interface takes 8-bit"):
        image_interface(load_model(models["deep"]), KINDS["deep"])
    with pytest.raises(InputError, match="leave --preprocessing out"):
        packed("onnx", models["deep"], images["deep"], tmp_path / "out", forms=Preprocessing.INSIDE)


@pytest.mark.parametrize("target", ["vacc", "ascend"])
@pytest.mark.parametrize("kind", ["grey", "bands", "deep"])
def test_devices_that_take_8_bit_colours_refuse_others_by_name(
    target: str,
    kind: str,
    models: dict[str, Path],
    images: dict[str, SegmentationSet],
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match=r"cannot express the input contract's .*8-bit RGB"):
        packed(target, models[kind], images[kind], tmp_path / "out")


@pytest.mark.parametrize("target", ["vacc", "ascend"])
def test_devices_take_images_that_are_padded_before(
    target: str, models: dict[str, Path], images: dict[str, SegmentationSet], tmp_path: Path
) -> None:
    found = packed(target, models["aspect"], images["aspect"], tmp_path / "out")
    reread(found.folder, target=PACKAGE_TARGETS[target])


def test_a_model_of_other_images_than_the_sample_asks_for_some(
    models: dict[str, Path], tmp_path: Path
) -> None:
    request = Request(sources=(PackagedModel.open(models["bands"]),))
    with pytest.raises(InputError, match=r"no set of images for this model .*give some: --data"):
        package(request, target=PACKAGE_TARGETS["onnx"], output=tmp_path / "out")


def test_a_package_of_the_published_kind_needs_no_more_than_the_example(
    tmp_path: Path, images: dict[str, SegmentationSet]
) -> None:
    model = write_small_onnx(tmp_path / "plain.sim.onnx", Preprocess(size=(32, 32)))
    folder = packed("onnx", model, images["aspect"], tmp_path / "out").folder
    assert not (folder / "resizing.py").exists()
    words: NDArray[np.str_] = np.array((folder / "README.md").read_text().splitlines())
    assert not any("in words" in line for line in words)
