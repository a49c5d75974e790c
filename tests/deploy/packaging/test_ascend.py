"""The package for Ascend: preprocessing that computes the contract, skip lists, scripts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segdeploy.calibration.estimate import Method
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.name_order import counted
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.packaging.ascend.aipp import Aipp, read_aipp
from segdeploy.deploy.packaging.ascend.amct import SCHEMA, long_form, short_form
from segdeploy.deploy.packaging.ascend.target import ASCEND, aipp_error
from segdeploy.deploy.packaging.base import PackagedModel, Request
from segdeploy.deploy.packaging.package import package
from segdeploy.deploy.packaging.text_protobuf import fields_of
from segdeploy.deploy.system.errors import InputError, UsageError

HALF = 2.0**-11
"""Largest relative rounding error of fp16."""


@pytest.fixture
def request_(tmp_path: Path, small_onnx: Callable[..., Path], image_set: Path) -> Request:
    return Request(
        sources=(PackagedModel.open(small_onnx(tmp_path / "net.onnx")),),
        calibration=open_set(image_set, "train").take(3, seed=0),
        evaluation=open_set(image_set, "test"),
    )


three = st.tuples(*[st.floats(0.05, 0.95)] * 3)


class TestAipp:
    @settings(max_examples=50, deadline=None)
    @given(mean=three, std=three, order=st.sampled_from(["RGB", "BGR"]), unit=st.booleans())
    def test_it_computes_the_contract_to_the_rounding_of_its_numbers(
        self,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        order: str,
        unit: bool,
    ) -> None:
        factor = 1.0 if unit else 255.0
        contract = Preprocess(
            size=(32, 32),
            scale=factor / 255,
            mean=(mean[0] * factor, mean[1] * factor, mean[2] * factor),
            std=(std[0] * factor, std[1] * factor, std[2] * factor),
            channel_order=order,
        )
        image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
        found, expected = Aipp.of(contract).apply(image), contract.normalise(image)
        # the factor is off by HALF at most, the rest of the offset (below 1) by HALF, too
        bound = HALF * (np.abs(expected) + 1.01 * contract.scale / np.min(contract.std)) + 1e-4
        assert (np.abs(found - expected) <= bound).all()

    def test_red_and_blue_change_places_exactly_for_bgr(self) -> None:
        image = np.zeros((32, 32, 3), np.uint8)
        image[..., 0] = 255  # red
        for order, plane in (("RGB", 0), ("BGR", 2)):
            found = Aipp.of(Preprocess(size=(32, 32), channel_order=order)).apply(image)
            assert found[plane].min() > 0.99
            assert np.delete(found, plane, axis=0).max() < -0.99

    def test_what_is_written_reads_back(self) -> None:
        for contract in (
            Preprocess(),
            Preprocess(size=(48, 96), channel_order="RGB", mean=(0.485, 0.456, 0.406)),
            Preprocess(mean=(-0.1, 0.0, 1.2), std=(0.229, 0.224, 0.225)),
        ):
            aipp = Aipp.of(contract)
            assert read_aipp(aipp.text(), source="aipp.cfg") == aipp
            assert aipp_error(aipp, contract) < 5e-3

    def test_the_published_contract_in_numbers(self) -> None:
        aipp = Aipp.of(Preprocess())
        assert (aipp.swap, aipp.whole, aipp.rest) == (True, (127, 127, 127), (0.5, 0.5, 0.5))
        assert aipp.factor == (float(np.float16(2 / 255)),) * 3
        assert "input_format: RGB888_U8" in aipp.text()
        assert "csc_switch: false" in aipp.text()

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "aipp_op { aipp_mode: static }",
            Aipp.of(Preprocess()).text().replace("rbuv_swap_switch", "rbuv_swap"),
            Aipp.of(Preprocess()).text().replace("crop: false", "crop: true"),
            Aipp.of(Preprocess()).text() * 2,
        ],
    )
    def test_another_file_is_refused(self, text: str) -> None:
        with pytest.raises(InputError, match=r"aipp.cfg"):
            read_aipp(text, source="aipp.cfg")

    def test_numbers_that_fp16_does_not_hold_are_refused(self) -> None:
        with pytest.raises(InputError, match="which fp16 does not hold"):
            Aipp.of(Preprocess(mean=(400.0, 0.0, 0.0)))
        with pytest.raises(InputError, match="scale is 0"):
            Aipp.of(Preprocess(scale=0.0))


class TestAmct:
    def test_both_forms_skip_the_same_layers(self) -> None:
        layers, skip = ["a", 'odd"name', "c"], ["c", 'odd"name']
        short = fields_of(SCHEMA.read(short_form(skip, batches=5), source="amct.cfg"))
        long = long_form(layers, skip, batches=5)
        assert short["skip_layers"] == skip
        assert [name for name in layers if not long[name]["quant_enable"]] == ['odd"name', "c"]
        assert (short["batch_num"], long["batch_num"]) == (5, 5)
        search = short["common_config"]["ifmr_quantize"]
        entry = long["a"]["activation_quant_params"]
        ends = [search["search_range_start"], search["search_range_end"]]
        assert entry["search_range"] == pytest.approx(ends)
        assert entry["max_percentile"] == pytest.approx(search["max_percentile"])
        weights = short["common_config"]["arq_quantize"]
        assert long["a"]["weight_quant_params"]["channel_wise"] is weights["channel_wise"] is True

    def test_no_layer_skipped_is_no_skip_list(self) -> None:
        assert "skip_layers" not in short_form([], batches=1)


class TestFolder:
    def test_tensors_inputs_and_their_order(self, request_: Request, tmp_path: Path) -> None:
        folder = package(request_, target=ASCEND, output=tmp_path / "out").folder
        contract = request_.sources[0].preprocess
        for sample in request_.images("calibration"):
            stored = np.fromfile(folder / "calibration" / f"{sample.name}.bin", "<f4")
            np.testing.assert_array_equal(
                stored.reshape(3, *contract.size), contract.apply(sample.image())
            )
        for sample in request_.images("evaluation"):
            (pixels,) = np.load(folder / "inputs" / f"{sample.name}.npy")
            np.testing.assert_array_equal(
                contract.normalise(pixels), contract.apply(sample.image())
            )
        lines = (folder / "outputs.txt").read_text().splitlines()
        assert all((folder / line).is_file() for line in lines)

    def test_the_list_is_in_the_order_in_which_outputs_are_sorted(
        self, request_: Request, tmp_path: Path
    ) -> None:
        """``img10`` comes after ``img2``, for whoever writes the list and for whoever reads it."""
        evaluation = request_.images("evaluation")
        samples = [
            replace(sample, name=f"img{number}")
            for sample, number in zip(evaluation, (10, 2, 1, 100), strict=False)
        ]
        named = replace(request_, evaluation=replace(evaluation, samples=tuple(samples)))
        folder = package(named, target=ASCEND, output=tmp_path / "out").folder
        stems = [Path(line).stem for line in (folder / "outputs.txt").read_text().splitlines()]
        assert stems == sorted((sample.name for sample in samples), key=counted)
        assert stems[:2] == ["img1", "img2"]

    def test_skip_layers_are_names_of_the_model(self, request_: Request, tmp_path: Path) -> None:
        named = replace(request_, exclude=("head", "pool"))
        written = package(named, target=ASCEND, output=tmp_path / "out")
        content = json.loads((written.folder / "amct.json").read_text())
        layers = {name: v["quant_enable"] for name, v in content.items() if isinstance(v, dict)}
        assert layers == {"high": True, "low": True, "merge": True, "head": False}
        assert 'skip_layers: "head"' in (written.folder / "amct.cfg").read_text()
        assert any("Not carried over" in note and "pool" in note for note in written.contents.notes)

    def test_the_scripts_are_shell_and_ask_for_the_processor(
        self, request_: Request, tmp_path: Path
    ) -> None:
        folder = package(request_, target=ASCEND, output=tmp_path / "out").folder
        for script in ("quantize.sh", "convert.sh", "run.sh"):
            subprocess.run(["sh", "-n", script], cwd=folder, check=True)
        asked = subprocess.run(
            ["sh", "convert.sh"], cwd=folder, capture_output=True, text=True, check=False
        )
        assert asked.returncode == 2
        assert "usage: sh convert.sh SOC_VERSION" in asked.stdout + asked.stderr
        convert = (folder / "convert.sh").read_text()
        assert '--input_shape="image:1,3,32,32"' in convert
        assert "--insert_op_conf=aipp.cfg" in convert
        assert "--framework=5" in convert

    def test_convert_builds_int8_where_amct_has_been(
        self, request_: Request, tmp_path: Path
    ) -> None:
        """With a stand-in for atc that writes its arguments down."""
        folder = package(request_, target=ASCEND, output=tmp_path / "out").folder
        tools = tmp_path / "tools"
        tools.mkdir()
        (tools / "atc").write_text('#!/bin/sh\necho "$@" >> calls.txt\n')
        (tools / "atc").chmod(0o755)
        environment = {"PATH": f"{tools}:/usr/bin:/bin"}
        command = ["sh", "convert.sh", "Ascend310P3"]
        subprocess.run(command, cwd=folder, env=environment, check=True)
        (folder / "amct").mkdir()
        (folder / "amct" / "net_deploy_model.onnx").write_text("")
        subprocess.run(command, cwd=folder, env=environment, check=True)
        calls = (folder / "calls.txt").read_text().splitlines()
        models = [call.split("--model=")[1].split()[0] for call in calls]
        assert models == ["net.onnx", "net.onnx", "amct/net_deploy_model.onnx"]
        assert all("--soc_version=Ascend310P3" in call for call in calls)

    def test_what_amct_cannot_be_told_is_refused(self, request_: Request, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="--method means nothing to this target"):
            package(replace(request_, method=Method.MSE), target=ASCEND, output=tmp_path / "x")

    @pytest.mark.parametrize(
        ("file", "find", "put"),
        [
            ("aipp.cfg", "mean_chn_0: 127", "mean_chn_0: 126"),
            ("amct.cfg", "batch_num: 3", "batch_num: 4"),
            ("amct.cfg", "batch_num: 3", 'batch_num: 3\nskip_layers: "nothing"'),
            ("amct.json", '"quant_enable": true', '"quant_enable": false'),
            ("convert.sh", "1,3,32,32", "1,3,64,32"),
            ("quantize.sh", "image:", "input:"),
            ("outputs.txt", "inputs/", "outputs/"),
        ],
    )
    def test_a_file_that_says_something_else_is_found(
        self, request_: Request, tmp_path: Path, file: str, find: str, put: str
    ) -> None:
        folder = package(request_, target=ASCEND, output=tmp_path / "out").folder
        text = (folder / file).read_text()
        assert find in text
        (folder / file).write_text(text.replace(find, put))
        with pytest.raises(InputError, match=file):
            ASCEND.verify(folder)
