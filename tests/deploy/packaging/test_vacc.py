"""The package for Vastai cards: the published files of these two networks, from our metadata."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from segdeploy.calibration.estimate import Method
from segdeploy.cli.main import main
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.packaging.base import PackagedModel, Request
from segdeploy.deploy.packaging.package import package
from segdeploy.deploy.packaging.vacc.target import VACC, build_file, process_operators
from segdeploy.deploy.packaging.vacc.vdsp import (
    half_bits,
    older_operator_json,
    operator_json,
    unit_range,
)
from segdeploy.deploy.system.checksums import files_of, write_checksums
from segdeploy.deploy.system.errors import InputError, UsageError

PUBLISHED_SIZE = 96
PUBLISHED_OPERATORS = ["DecodeImage", "CvtColor", "Resize", "Normalize", "ToTensor"]
"""``dataset.process_ops`` of both published build files, in order."""

PUBLISHED_BACKEND = {
    "type": "tvm_vacc",
    "dtype": "int8",
    "compile": {"data_transport_mode": 1},
    "quantize": {"calibrate_mode": "kl_divergence", "quantize_per_channel": True},
}
PUBLISHED_OLDER = {
    "iimage_format": "RGB_PLANAR",
    "iimage_width": 96,
    "iimage_height": 96,
    "iimage_width_pitch": 96,
    "iimage_height_pitch": 96,
    "oimage_width": 96,
    "oimage_height": 96,
    **{f"{kind}{channel}": 14336 for kind in ("mean", "std") for channel in "rgb"},
    "norma_type": "DIV255_MINUSMEAN_DIVSTD",
    "resize_type": "BILINEAR_CV",
    "color_cvt_code": "COLOR_RGB2BGR",
    "color_space": "COLOR_SPACE_BT709",
}
"""Property to value of the published ``unetzoo-r2u_net-vdsp_params.json``."""


@pytest.fixture
def published(tmp_path: Path, small_onnx: Callable[..., Path]) -> PackagedModel:
    """A model with the published networks' contract, which is the default."""
    return PackagedModel.open(small_onnx(tmp_path / "r2u_net.onnx", Preprocess()))


@pytest.fixture
def request_(tmp_path: Path, small_onnx: Callable[..., Path], image_set: Path) -> Request:
    source = PackagedModel.open(small_onnx(tmp_path / "net.onnx"))
    return Request(
        sources=(source,),
        calibration=open_set(image_set, "train").take(3, seed=0),
        evaluation=open_set(image_set, "test"),
    )


class TestPublishedFiles:
    def test_the_build_file_has_the_published_keys_and_values(
        self, published: PackagedModel
    ) -> None:
        found = build_file(published, dtype="int8", mode="kl_divergence", samples=50, skip=[])
        assert list(found) == ["name", "frontend", "backend", "dataset", "workspace"]
        assert found["backend"] == PUBLISHED_BACKEND
        frontend = found["frontend"]
        assert set(frontend) == {"shape", "type", "checkpoint", "dtype"}
        assert (frontend["type"], frontend["dtype"]) == ("onnx", "fp32")
        assert list(frontend["shape"].values()) == [[1, 3, PUBLISHED_SIZE, PUBLISHED_SIZE]]
        assert found["workspace"] == {"path": "./deploy_weights/"}
        dataset = found["dataset"]
        assert set(dataset) == {"type", "path", "sampler", "process_ops"}
        assert dataset["type"] == "tvm"
        assert dataset["sampler"] == {"suffix": "png", "get_data_num": 50}
        operators = dataset["process_ops"]
        assert [operator["type"] for operator in operators] == PUBLISHED_OPERATORS
        assert operators[1]["code"] == "COLOR_RGB2BGR"
        assert operators[2]["size"] == [PUBLISHED_SIZE, PUBLISHED_SIZE]
        assert operators[3]["mean"] == operators[3]["std"] == [0.5, 0.5, 0.5]

    def test_the_preprocessing_has_the_published_keys_and_values(
        self, published: PackagedModel
    ) -> None:
        found = operator_json(published.preprocess)
        assert found["OpType"] == "FUSION_OP_RGB_RESIZE_CVTCOLOR_NORM_TENSOR"
        sides = {f"{end}image{side}" for end in "IO" for side in ("Width", "Height")}
        pitches = {"IimageWidthPitch", "IimageHeightPitch"}
        assert {key: found["OpConfig"].pop(key) for key in sides | pitches} == dict.fromkeys(
            sides | pitches, PUBLISHED_SIZE
        )
        assert found["OpConfig"] == {
            "IimageFormat": "RGB_PLANAR",
            "Mean": [0.5, 0.5, 0.5],
            "Std": [0.5, 0.5, 0.5],
            "NormaType": "DIV255_MINUSMEAN_DIVSTD",
            "ColorCvtCode": "RGB2BGR",
            "ResizeType": "BILINEAR_CV",
        }

    def test_so_has_its_older_form(self, published: PackagedModel) -> None:
        found = older_operator_json(published.preprocess)
        assert found is not None
        assert found["vdsp_op_type"] == "RGB_RESIZE_CVTCOLOR_NORMALIZATION_TENSORIZATION_U8"
        assert {row["Property"]: row["Value"] for row in found["config"]} == PUBLISHED_OLDER
        assert {row["ParamType"] for row in found["config"]} == {"ELEMENT"}


class TestNumbers:
    def test_every_scale_gives_the_same_tensor_after_a_division_by_255(self) -> None:
        pixels = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2)
        for scale, mean, std in (
            (1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            (1.0, (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
            (1 / 127.5, (1.0, 1.0, 1.0), (1.0, 0.5, 2.0)),
        ):
            contract = Preprocess(scale=scale, mean=mean, std=std, channel_order="RGB")
            unit_mean, unit_std = unit_range(contract)
            found = (pixels / 255 - np.array(unit_mean)) / np.array(unit_std)
            expected = contract.normalise(pixels).transpose(1, 2, 0)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)

    def test_half_bits_are_those_of_fp16(self) -> None:
        for value in (0.5, 0.229, -1.0, 0.0):
            assert np.uint16(half_bits(value)).view(np.float16) == np.float16(value)

    def test_an_rgb_contract_converts_no_colour(self) -> None:
        contract = Preprocess(channel_order="RGB", mean=(0.1, 0.2, 0.3))
        assert "CvtColor" not in [o["type"] for o in process_operators(contract)]
        assert operator_json(contract)["OpConfig"]["ColorCvtCode"] == "NO_CHANGE"
        older = older_operator_json(contract)
        assert older is not None
        values = {row["Property"]: row["Value"] for row in older["config"]}
        assert values["color_cvt_code"] == "NO_CHANGE"
        assert [values[f"mean{c}"] for c in "rgb"] == [half_bits(v) for v in (0.1, 0.2, 0.3)]

    def test_the_older_form_is_left_out_where_its_names_are_ambiguous(self) -> None:
        assert older_operator_json(Preprocess(mean=(0.1, 0.2, 0.3))) is None


class TestFolder:
    def test_files_are_read_by_parsers_of_their_formats(
        self, request_: Request, tmp_path: Path
    ) -> None:
        folder = package(request_, target=VACC, output=tmp_path / "out").folder
        source, evaluation = request_.sources[0], request_.images("evaluation")
        build: dict[str, Any] = yaml.safe_load((folder / "build_int8.yaml").read_text())
        assert build["dataset"]["sampler"]["get_data_num"] == 3
        assert (folder / build["frontend"]["checkpoint"]).is_file()
        assert len(list((folder / build["dataset"]["path"]).glob("*.png"))) == 3
        fp16 = yaml.safe_load((folder / "build_fp16.yaml").read_text())
        assert fp16["backend"]["dtype"] == "fp16"
        assert "dataset" not in fp16
        assert "quantize" not in fp16["backend"]
        assert json.loads((folder / "vdsp_params.json").read_text()) == operator_json(
            source.preprocess
        )
        lines = (folder / "npz_datalist.txt").read_text().splitlines()
        assert lines == [f"inputs/{sample.name}.npz" for sample in evaluation]

    def test_inputs_and_calibration_images_are_the_pixels_of_the_contract(
        self, request_: Request, tmp_path: Path
    ) -> None:
        folder = package(request_, target=VACC, output=tmp_path / "out").folder
        contract = request_.sources[0].preprocess
        for sample in request_.images("evaluation"):
            with np.load(folder / "inputs" / f"{sample.name}.npz") as arrays:
                planes = arrays["input_0"]
            tensor = contract.normalise(planes.transpose(1, 2, 0))
            np.testing.assert_array_equal(tensor, contract.apply(sample.image()))
        for sample in request_.images("calibration"):
            with Image.open(folder / "calibration" / f"{sample.name}.png") as image:
                pixels = np.asarray(image)
            np.testing.assert_array_equal(
                contract.normalise(pixels), contract.apply(sample.image())
            )

    def test_a_card_that_does_what_the_parameters_say_feeds_the_network_its_contract(
        self, request_: Request, tmp_path: Path
    ) -> None:
        folder = package(request_, target=VACC, output=tmp_path / "out").folder
        config = json.loads((folder / "vdsp_params.json").read_text())["OpConfig"]
        mean, std = (np.array(config[key])[:, None, None] for key in ("Mean", "Std"))
        samples = {sample.name: sample for sample in request_.images("evaluation")}
        lines = (folder / "npz_datalist.txt").read_text().splitlines()
        assert len(lines) == len(samples)
        for line in lines:
            with np.load(folder / line) as arrays:
                planes = arrays["input_0"]
            swapped = planes[::-1] if config["ColorCvtCode"] == "RGB2BGR" else planes
            expected = request_.sources[0].preprocess.apply(samples[Path(line).stem].image())
            np.testing.assert_allclose((swapped / 255 - mean) / std, expected, atol=1e-6)

    def test_the_evaluation_folder_scores_like_the_one_it_came_from(
        self, request_: Request, tmp_path: Path
    ) -> None:
        folder = package(request_, target=VACC, output=tmp_path / "out").folder
        inside, outside = open_set(folder / "evaluation", "test"), request_.images("evaluation")
        assert inside.sha256() == outside.sha256()
        contract = request_.sources[0].preprocess
        np.testing.assert_array_equal(inside.truths(contract), outside.truths(contract))

    def test_layers_in_float_become_a_skip_list(self, request_: Request, tmp_path: Path) -> None:
        named = replace(request_, exclude=("head", "low", "pool"))
        written = package(named, target=VACC, output=tmp_path / "out")
        build = yaml.safe_load((written.folder / "build_int8.yaml").read_text())
        # inputs first: both = Concat(up(low(pool(high))), high), so high 0, low 1, merge 2, head 3
        assert build["backend"]["quantize"]["skip_conv_layers"] == [1, 3]
        names = json.loads((written.folder / "float_layers.json").read_text())
        assert names == {"low": 1, "head": 3}
        assert any("Not carried over" in note and "pool" in note for note in written.contents.notes)

    @pytest.mark.parametrize(
        ("method", "mode"),
        [
            (None, "kl_divergence"),
            (Method.ENTROPY, "kl_divergence"),
            (Method.PERCENTILE, "percentile"),
            (Method.MSE, "mse"),
            (Method.MINMAX, "max"),
        ],
    )
    def test_range_searches_have_vamcs_names(
        self, request_: Request, tmp_path: Path, method: Method | None, mode: str
    ) -> None:
        folder = package(
            replace(request_, method=method), target=VACC, output=tmp_path / "out"
        ).folder
        build = yaml.safe_load((folder / "build_int8.yaml").read_text())
        assert build["backend"]["quantize"]["calibrate_mode"] == mode

    def test_imported_ranges_ask_how_vamc_should_search(
        self, request_: Request, tmp_path: Path
    ) -> None:
        with pytest.raises(UsageError, match="the ranges were imported"):
            package(replace(request_, method=Method.IMPORTED), target=VACC, output=tmp_path / "out")

    def test_it_is_for_one_image_a_call(self, request_: Request, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="--batch 1 4 8: this package is for one image a call"):
            package(replace(request_, batches=(1, 4, 8)), target=VACC, output=tmp_path / "out")
        package(replace(request_, batches=(1, 1, 1)), target=VACC, output=tmp_path / "out")

    @pytest.mark.parametrize("missing", ["calibration", "evaluation"])
    def test_without_images_it_says_which_flag_gives_them(
        self, request_: Request, tmp_path: Path, missing: str
    ) -> None:
        flag = {"calibration": "--calib-data", "evaluation": "--data"}[missing]
        with pytest.raises(UsageError, match=f"holds {missing} images; give a folder with {flag}"):
            package(replace(request_, **{missing: None}), target=VACC, output=tmp_path / "out")

    @pytest.mark.parametrize(
        ("file", "find", "put"),
        [
            ("build_int8.yaml", "mean: [0.5", "mean: [0.6"),
            ("build_int8.yaml", "size: [32, 32]", "size: [32, 64]"),
            ("build_fp16.yaml", "[1, 3, 32, 32]", "[8, 3, 32, 32]"),
            ("vdsp_params.json", "RGB2BGR", "NO_CHANGE"),
            ("npz_datalist.txt", "cells", "other"),
        ],
    )
    def test_a_file_that_says_something_else_is_found(
        self, request_: Request, tmp_path: Path, file: str, find: str, put: str
    ) -> None:
        folder = package(request_, target=VACC, output=tmp_path / "out").folder
        text = (folder / file).read_text()
        assert find in text
        (folder / file).write_text(text.replace(find, put))
        write_checksums(folder, files_of(folder))
        with pytest.raises(InputError, match=r"does not say|is no npz"):
            VACC.verify(folder)


def test_from_the_command_line_and_back(
    tmp_path: Path, small_onnx: Callable[..., Path], image_set: Path
) -> None:
    model, output = small_onnx(tmp_path / "net.onnx"), tmp_path / "out"
    command = ["package", "--target", "vacc", "-m", str(model), "-o", str(output)]
    data = ["--calib-data", str(image_set), "--num-samples", "2", "--data", str(image_set)]
    assert main([*command, *data, "--method", "percentile", "--exclude", "head"]) == 0
    build = yaml.safe_load((output / "build_int8.yaml").read_text())
    assert build["dataset"]["sampler"]["get_data_num"] == 2
    assert build["backend"]["quantize"]["calibrate_mode"] == "percentile"
    assert main(command) == 2
