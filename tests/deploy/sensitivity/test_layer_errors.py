"""What int8 costs at each layer: laws of the measure, and that a wrong scale is named first."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from PIL import Image
from tiny import TINY, exported, quantized, write_discs

from segdeploy.benchmarks.parity.evidence import stage_check
from segdeploy.calibration.exchange import imported_range
from segdeploy.calibration.table import CalibrationTable, imported_table
from segdeploy.cli.main import main
from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_set import SegmentationSet, open_set
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.presets import preset
from segdeploy.deploy.models import R2UNet, UNetPlusPlus
from segdeploy.deploy.models.checkpoint import load_checkpoint
from segdeploy.deploy.models.networks import Network
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import (
    describe,
    load_model,
    output_entries,
    save_model,
    set_metadata,
)
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.runtimes.base import Execution, infer_each
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.sensitivity import layer_errors
from segdeploy.deploy.sensitivity.layer_errors import LayerError, compare_layers
from segdeploy.deploy.sensitivity.rows import harmless
from segdeploy.deploy.sensitivity.section import (
    debug_section,
    first_departure,
    noise_power,
    worth_excluding,
)
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.stages.simplify import simplify
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.targets.profiles import OPENVINO_CPU, ORT_X86, PROFILES, TargetProfile
from segdeploy.pipeline.debug_stage import images_to_take
from segdeploy.training.align.layers import align_layers
from segdeploy.training.align.onnx import OnnxValues

FACTOR = np.float32(8)
PLACES = {"input": 0, "weight": 1, "bias": 2}
Pixels = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network in float and in int8, and the images it was calibrated on."""

    source: Artifact
    table: CalibrationTable
    int8: Artifact
    images: list[Pixels]
    layers: tuple[LayerError, ...]

    def in_order(self) -> list[str]:
        return [layer.name for layer in sorted(self.layers, key=lambda each: each.position)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Discs on noise, six to calibrate on and two to test."""
    splits = ["train"] * 6 + ["test"] * 2
    return write_discs(tmp_path_factory.mktemp("data"), splits, seed=23, area=(30, 90))


def case_of(network: Network, folder: Path, images: SegmentationSet, head: int | None) -> Case:
    source = simplify(exported(network, folder, head=head), folder / "net.sim.onnx")
    table = calibrate(source, images, preprocess=TINY, threads=1)
    table.write(folder / "net.calib.json")
    inputs = list(images.inputs(TINY))[:3]
    int8 = quantized(source, folder / "net.int8.onnx", table)
    layers = compare_layers(source, int8, inputs, threads=1)
    return Case(source=source, table=table, int8=int8, images=inputs, layers=layers)


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory, data: Path, _tiny_unet: UNetPlusPlus) -> Case:
    return case_of(_tiny_unet, tmp_path_factory.mktemp("unet"), open_set(data, "train"), 2)


@pytest.fixture(scope="module")
def r2u(tmp_path_factory: pytest.TempPathFactory, data: Path, _tiny_r2u: R2UNet) -> Case:
    return case_of(_tiny_r2u, tmp_path_factory.mktemp("r2u"), open_set(data, "train"), None)


def outputs(artifact: Artifact, images: Sequence[Pixels]) -> Pixels:
    execution = Execution(threads=1)
    with open_runtime(RuntimeName.ONNXRUNTIME, artifact, execution=execution) as runtime:
        return infer_each(runtime, images)


def broken(int8: Artifact, output: Path, *, layer: str, part: str) -> Artifact:
    """A copy with the scale of one layer's input, weight or bias 8 times as large."""
    model = load_model(int8.path)
    maker = {name: node for node in model.graph.node for name in node.output}
    conv = next(node for node in model.graph.node if node.name == layer)
    scale = maker[conv.input[PLACES[part]]].input[1]
    tensor = next(each for each in model.graph.initializer if each.name == scale)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * FACTOR, scale))
    save_model(model, output)
    return describe(output, model=model)


def named(layers: Sequence[LayerError]) -> dict[str, LayerError]:
    return {layer.name: layer for layer in layers}


class TestTheMeasure:
    def test_alone_is_the_file_with_every_other_layer_in_float(
        self, unet: Case, tmp_path: Path
    ) -> None:
        """Where nothing else reads what is rounded: a file rounds a tensor for all its readers."""
        found = named(unet.layers)
        graph = load_model(unet.source.path).graph
        readers = Counter(name for node in graph.node for name in node.input)
        inputs = {node.name: node.input[0] for node in graph.node if node.op_type == "Conv"}
        single = [
            name
            for name in unet.in_order()
            if readers[inputs[name]] == 1 and len(found[name].roundings) == 1
        ]
        assert {"conv0_0.conv.0", "conv0_0.conv.3", "final2"} <= set(single)
        reference = outputs(unet.source, unet.images)
        for name in (*single[:2], single[3], single[-1]):
            others = [node.name for node in graph.node if node.name != name]
            only = quantized(unet.source, tmp_path / "alone.onnx", unet.table, exclude=others)
            check = stage_check(reference, outputs(only, unet.images))
            assert check.sqnr_db == pytest.approx(found[name].sqnr_alone_db, abs=0.1), name
            assert check.disagreement_percent == pytest.approx(
                found[name].disagreement_alone_percent, abs=0.04
            )

    def test_a_layer_behind_a_concat_carries_the_roundings_in_front_of_it(self, unet: Case) -> None:
        layer = named(unet.layers)["conv0_1.conv.0"]
        tensors = [each.tensor for each in layer.roundings]
        assert tensors[0] == layer.input == "Concat@1"
        assert {"conv0_0.conv.3/Relu", "conv1_0.conv.3/Relu"} <= set(tensors)
        assert layer.input_from == ("conv0_0.conv.3", "conv1_0.conv.3")
        rounded_once = layer.roundings[0].sqnr_db
        assert rounded_once is not None
        assert layer.sqnr_input_db is not None
        assert layer.sqnr_input_db <= rounded_once + 0.1

    @pytest.mark.parametrize("name", ["unet", "r2u"])
    def test_accumulated_is_what_the_whole_file_computes_at_the_layer(
        self, name: str, request: pytest.FixtureRequest
    ) -> None:
        """Another road to the same number: layer-by-layer alignment of the two files."""
        case: Case = request.getfixturevalue(name)
        execution = Execution(threads=1)
        with OnnxValues(case.source, RuntimeName.ONNXRUNTIME, execution=execution) as reference:
            (alignment,) = align_layers(
                reference, case.int8, [RuntimeName.ONNXRUNTIME], case.images, execution=execution
            )
        aligned = {layer.name: layer.difference.sqnr_db for layer in alignment.layers}
        relus = {
            node.input[0]: node.output[0]
            for node in load_model(case.source.path).graph.node
            if node.op_type == "Relu"
        }
        convolutions = {
            node.name: node.output[0]
            for node in load_model(case.source.path).graph.node
            if node.op_type == "Conv"
        }
        compared = 0
        for layer in case.layers:
            output = convolutions[layer.name]
            expected = aligned.get(relus.get(output, output))
            if expected is not None:
                assert layer.sqnr_accumulated_db == pytest.approx(expected, abs=0.5), layer.name
                compared += 1
        assert compared == len(case.layers)

    def test_every_convolution_is_there_once_and_worst_first(self, unet: Case, r2u: Case) -> None:
        for case in (unet, r2u):
            graph = load_model(case.source.path).graph
            expected = [node.name for node in graph.node if node.op_type == "Conv"]
            assert case.in_order() == expected
            assert not [layer.name for layer in case.layers if layer.fault]
            alone = [layer.sqnr_alone_db for layer in case.layers]
            assert alone == sorted(alone, key=lambda each: np.inf if each is None else each)

    def test_a_layer_kept_in_float_is_not_listed_and_helps_those_behind(self, unet: Case) -> None:
        worst = unet.layers[0].name
        found = layer_errors.layer_errors(
            unet.source,
            table=unet.table,
            profile=ORT_X86,
            images=unet.images,
            exclude=[worst],
            threads=1,
        )
        assert {layer.name for layer in found} == {layer.name for layer in unet.layers} - {worst}
        last = unet.in_order()[-1]
        with_it, without = named(unet.layers)[last], named(found)[last]
        assert with_it.sqnr_accumulated_db is not None
        assert without.sqnr_accumulated_db is not None
        assert without.sqnr_accumulated_db > with_it.sqnr_accumulated_db

    def test_neither_memory_nor_threads_nor_order_change_it(
        self, unet: Case, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(layer_errors, "VARIANT_BYTES", 1)  # one layer a pass
        steps: list[int] = []

        def count(work: Any) -> Any:
            steps.append(len(work))
            return iter(work)

        found = named(
            compare_layers(unet.source, unet.int8, unet.images[::-1], threads=3, progress=count)
        )
        assert steps == [len(unet.images), len(unet.images) * len(unet.layers)]
        for layer in unet.layers:
            other = found[layer.name]
            assert other.sqnr_alone_db == pytest.approx(layer.sqnr_alone_db, abs=0.05)
            assert other.sqnr_accumulated_db == pytest.approx(layer.sqnr_accumulated_db, abs=0.05)
            assert other.histogram == layer.histogram

    def test_ranges_and_histograms_are_those_of_the_float_activations(self, unet: Case) -> None:
        first = named(unet.layers)[unet.in_order()[0]]
        pixels = np.stack(unet.images)
        assert first.input_from == (first.input,)
        assert (first.observed_min, first.observed_max) == (pixels.min(), pixels.max())
        assert sum(first.histogram.counts) == pixels.size
        for layer in unet.layers:
            assert len(layer.histogram.counts) + 1 == len(layer.histogram.edges) <= 129
            assert layer.histogram.edges[0] == layer.observed_min
            assert layer.histogram.edges[-1] == layer.observed_max
            assert layer.range_min is not None
            assert layer.range_max is not None
            assert layer.range_min <= 0 < layer.range_max
            assert 0 <= layer.clipped_percent < 1
            assert layer.roundings[0].tensor == layer.input
            assert (layer.weight_range_spread or 1) >= 1

    @pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda each: each.name)
    def test_no_target_has_a_fault_of_its_own(self, unet: Case, profile: TargetProfile) -> None:
        found = layer_errors.layer_errors(
            unet.source, table=unet.table, profile=profile, images=unet.images[:1], threads=1
        )
        assert len(found) == len(unet.layers)
        assert not [(layer.name, layer.faults) for layer in found if layer.fault]


class TestAWrongScale:
    @pytest.mark.parametrize("part", PLACES)
    @pytest.mark.parametrize("place", [0, 1, 6, -2, -1])
    def test_is_named_first(self, unet: Case, tmp_path: Path, place: int, part: str) -> None:
        name = unet.in_order()[place]
        faulty = broken(unet.int8, tmp_path / "broken.onnx", layer=name, part=part)
        worst, *others = compare_layers(unet.source, faulty, unet.images[:1], threads=1)
        assert (worst.name, worst.fault) == (name, part)
        assert worst.cause == part
        assert not [layer.name for layer in others if layer.fault]
        assert [each.name for each in worth_excluding((worst, *others))] == [name]

    @pytest.mark.parametrize("place", [1, -3])
    def test_in_a_weight_that_several_layers_share_names_them(
        self, r2u: Case, tmp_path: Path, place: int
    ) -> None:
        name = r2u.in_order()[place]
        faulty = broken(r2u.int8, tmp_path / "broken.onnx", layer=name, part="weight")
        found = compare_layers(r2u.source, faulty, r2u.images[:1], threads=1)
        weights = {
            n.name: n.input[1]
            for n in load_model(r2u.source.path).graph.node[:]
            if n.op_type == "Conv"
        }
        sharing = {each for each, weight in weights.items() if weight == weights[name]}
        assert {layer.name for layer in found if layer.fault} == sharing
        assert {layer.name for layer in found[: len(sharing)]} == sharing

    def test_on_an_activation_that_several_layers_read_is_named_by_its_tensor(
        self, unet: Case, tmp_path: Path
    ) -> None:
        """``conv0_0``'s output goes to a pool and to two concatenations."""
        model = load_model(unet.int8.path)
        tensor = "conv0_0.conv.3/Relu"
        scale = next(
            node.input[1]
            for node in model.graph.node
            if node.op_type == "QuantizeLinear" and node.input[0] == tensor
        )
        for stored in model.graph.initializer:
            if stored.name == scale:
                values = numpy_helper.to_array(stored) * FACTOR
                stored.CopyFrom(numpy_helper.from_array(values, scale))
        save_model(model, tmp_path / "broken.onnx")
        found = compare_layers(
            unet.source, describe(tmp_path / "broken.onnx"), unet.images, threads=1
        )
        faulty = [layer for layer in found if layer.fault]
        assert faulty == list(found[: len(faulty)])
        assert len(faulty) >= 2
        for layer in faulty:
            assert layer.faulty_rounding is not None
            assert layer.faulty_rounding.tensor == tensor
            assert "conv0_0.conv.3" in layer.input_from

    @pytest.mark.parametrize("place", [1, -2])
    def test_fails_the_gate(self, unet: Case, data: Path, tmp_path: Path, place: int) -> None:
        """Beside the float model as the truth, where int8 as it should be passes."""
        truth = tmp_path / "truth"
        (truth / "masks").mkdir(parents=True)
        (truth / "images").symlink_to(data / "images")
        images = open_set(data, None)  # of few images no interval proves anything
        for sample, found in zip(images, outputs(unet.source, images.inputs(TINY)), strict=True):
            size = (44, 40)
            mask = Image.fromarray(np.where(found[0] >= 0.5, 255, 0).astype(np.uint8)).resize(size)
            mask.save(truth / "masks" / f"{sample.name}.png")
        names = [sample.name for sample in images]
        lines = ["image_id,split", *(f"{name},test" for name in names)]
        (truth / "splits.csv").write_text("\n".join(lines) + "\n")
        name = unet.in_order()[place]
        faulty = broken(unet.int8, tmp_path / "broken.onnx", layer=name, part="weight")

        def gate(model: Path) -> int:
            words = ("parity", "-m", model, "--reference", unet.source.path, "--data", truth)
            more = ("--max-drop", 15, "--threads", 1, "--runtime", "onnxruntime")
            return main([str(word) for word in (*words, *more)])

        assert gate(unet.int8.path) == 0
        assert gate(faulty.path) == 1

    def test_in_the_bundled_network_is_named_first_early_and_late(self, tmp_path: Path) -> None:
        """A head of two levels of the trained network, on real nuclei."""
        checkpoint = load_checkpoint(bundled.checkpoint("unet_plus_plus"), head=1)
        source = simplify(export(checkpoint, tmp_path / "net.onnx"), tmp_path / "net.sim.onnx")
        images = open_set(bundled.sample(), "train").take(2, seed=0)
        table = calibrate(source, images, preprocess=checkpoint.preprocess, threads=1)
        int8 = quantized(source, tmp_path / "net.int8.onnx", table)
        inputs = list(images.inputs(checkpoint.preprocess))
        intact = compare_layers(source, int8, inputs, threads=1)
        assert not [layer.name for layer in intact if layer.fault]
        reference = outputs(source, inputs)
        whole = stage_check(reference, outputs(int8, inputs)).disagreement_percent
        order = [layer.name for layer in sorted(intact, key=lambda each: each.position)]
        for place, part in ((1, "weight"), (1, "input"), (-2, "weight"), (-2, "input")):
            faulty = broken(int8, tmp_path / "broken.onnx", layer=order[place], part=part)
            worst, *_ = compare_layers(source, faulty, inputs[:1], threads=1)
            assert (worst.name, worst.fault) == (order[place], part)
            changed = stage_check(reference, outputs(faulty, inputs)).disagreement_percent
            assert changed > whole


class TestFilesFromElsewhere:
    def test_onnx_runtimes_own_int8_file_is_compared_layer_by_layer(
        self, unet: Case, tmp_path: Path
    ) -> None:
        """It quantizes outputs of convolutions, drops ReLUs, and rounds the result."""

        class Reader(CalibrationDataReader):  # type: ignore[misc]  # it has no type stubs
            def __init__(self) -> None:
                self.images = iter(unet.images)

            def get_next(self) -> dict[str, Any] | None:
                image = next(self.images, None)
                return None if image is None else {unet.source.inputs[0].name: image[None]}

        quantize_static(
            unet.source.path,
            tmp_path / "theirs.onnx",
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
        theirs = describe(tmp_path / "theirs.onnx")
        found = compare_layers(unet.source, theirs, unet.images, threads=1)
        assert {layer.name for layer in found} == {layer.name for layer in unet.layers}
        assert not [(layer.name, layer.faults) for layer in found if layer.fault]
        assert all(layer.sqnr_accumulated_db is not None for layer in found)
        ours = named(unet.layers)
        first = unet.in_order()[0]  # which takes the image: exact in ours, rounded in theirs
        for layer in found:
            assert layer.sqnr_alone_db is not None
            expected = ours[layer.name].sqnr_alone_db
            assert expected is not None
            if layer.name == first:
                assert layer.sqnr_alone_db < expected
            else:
                assert layer.sqnr_alone_db == pytest.approx(expected, abs=12)

    def test_a_file_of_another_network_is_refused(self, unet: Case, r2u: Case) -> None:
        with pytest.raises(InputError, match=r"not\s+those of the float model"):
            compare_layers(unet.source, r2u.int8, unet.images)

    def test_a_float_file_as_int8_is_refused(self, unet: Case) -> None:
        with pytest.raises(InputError, match="no layer behind DequantizeLinear"):
            compare_layers(unet.source, unet.source, unet.images)

    def test_an_int8_file_as_the_reference_is_refused(self, unet: Case) -> None:
        with pytest.raises(InputError, match="layers are compared from fp32"):
            compare_layers(unet.int8, unet.int8, unet.images)

    def test_no_image_is_refused(self, unet: Case) -> None:
        with pytest.raises(UsageError, match="no image"):
            compare_layers(unet.source, unet.int8, [])

    def test_a_model_of_two_inputs_is_refused(self, unet: Case, tmp_path: Path) -> None:
        values = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3, 32, 32]) for n in "ab"
        ]
        result = helper.make_tensor_value_info("c", TensorProto.FLOAT, ["n", 3, 32, 32])
        graph = helper.make_graph(
            [helper.make_node("Add", ["a", "b"], ["c"])], "g", values, [result]
        )
        onnx.save(helper.make_model(graph), tmp_path / "two.onnx")
        with pytest.raises(InputError):
            compare_layers(describe(tmp_path / "two.onnx"), unet.int8, unet.images)


class TestWhatToDo:
    def test_the_layers_that_make_half_the_noise_are_to_be_kept(self, unet: Case) -> None:
        chosen = worth_excluding(unet.layers)
        assert chosen == unet.layers[: len(chosen)]
        total = sum(map(noise_power, unet.layers))
        assert len(chosen) == 5 or sum(map(noise_power, chosen)) >= total / 2
        assert sum(map(noise_power, chosen[:-1])) < total / 2

    def test_exact_layers_are_not(self, unet: Case) -> None:
        exact = [dataclasses.replace(layer, sqnr_alone_db=None) for layer in unet.layers]
        assert worth_excluding(exact) == ()
        assert worth_excluding([]) == ()

    def test_noise_that_shows_in_no_output_is_left_alone(self, unet: Case) -> None:
        """One layer at 118 dB makes all of the noise, and nobody can see it."""
        quiet = dataclasses.replace(
            unet.layers[0], sqnr_alone_db=118.8, disagreement_alone_percent=0.0
        )
        assert worth_excluding([quiet]) == ()
        seen = dataclasses.replace(quiet, disagreement_alone_percent=0.01)
        assert worth_excluding([seen]) == (seen,)

    @pytest.mark.parametrize(
        ("output_db", "changed", "expected"),
        [(None, 0, True), (40.0, 0, True), (39.9, 0, False), (80.0, 1, False), (None, 1, False)],
    )
    def test_what_changes_no_pixel_and_hardly_the_output_is_harmless(
        self, output_db: float | None, changed: int, expected: bool
    ) -> None:
        assert harmless(output_db=output_db, changed=changed) is expected

    def test_the_first_departure_is_the_first_in_the_order_they_run(self, unet: Case) -> None:
        assert first_departure([]) is None
        low = [dataclasses.replace(layer, sqnr_accumulated_db=3.0) for layer in unet.layers]
        first = first_departure(low)
        assert first is not None
        assert first.position == 0

    def test_a_run_looks_at_fewer_images_of_a_large_network(self) -> None:
        assert images_to_take(31, 10 * 4_850_000_000) == 4
        assert images_to_take(0, 0) >= 4


class TestTheCommand:
    def words(self, case: Case, data: Path, *more: object) -> list[str]:
        words = ("debug", "--calib-data", data, "--num-samples", 1, "--threads", 1, *more)
        return [str(word) for word in words]

    def table(self, case: Case) -> Path:
        return case.source.path.with_name("net.calib.json")

    def test_a_float_file_with_its_table(
        self, unet: Case, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        written = tmp_path / "debug.json"
        arguments = ("-m", unet.source.path, "--calibration", self.table(unet))
        more = ("-o", written, "--format", "json")
        assert main(self.words(unet, data, *arguments, *more)) == 0
        captured = capsys.readouterr()
        section = json.loads(captured.out)
        assert section == json.loads(written.read_text())
        assert section["images"] == 1
        assert section["target"] == "ort-x86"
        names = [layer["name"] for layer in section["layers"]]
        lines = [line.split()[0] for line in captured.err.splitlines()]
        assert [word for word in lines if word in names] == names, "worst first, each once"
        assert f"--exclude {' '.join(section['exclude'])}" in captured.err

    def test_the_line_to_paste_works(self, unet: Case, data: Path) -> None:
        section = debug_section(unet.layers, file="f", reference="r", target=None, images=1)
        arguments = ("-m", unet.source.path, "--calibration", self.table(unet))
        assert main(self.words(unet, data, *arguments, "--exclude", *section.exclude)) == 0

    def test_a_broken_file_with_its_reference(
        self, unet: Case, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        name = unet.in_order()[3]
        faulty = broken(unet.int8, tmp_path / "broken.onnx", layer=name, part="weight")
        arguments = ("-m", faulty.path, "--reference", unet.source.path)
        assert main(self.words(unet, data, *arguments)) == 0
        shown = capsys.readouterr().out.splitlines()
        assert shown[2].split()[0] == name
        assert shown[2].endswith("weight: FAULT")
        assert any(line.startswith(f"{name}: its weight has ") for line in shown)
        assert f"--exclude {name}" in shown

    def test_mistakes_are_one_line_and_their_exit_code(
        self, unet: Case, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        table, source, int8 = self.table(unet), unet.source.path, unet.int8.path
        for arguments, code, message in (
            (("-m", source), 2, "give -m FLOAT.onnx --calibration"),
            (("-m", int8, "--calibration", table, "--reference", source), 2, "give -m FLOAT"),
            (("-m", int8, "--calibration", table), 2, "is int8 already"),
            (("-m", source, "--reference", source), 2, "is fp32; with --reference"),
            (("-m", int8, "--reference", source, "--target", "ort-arm"), 2, "go with --calib"),
            (("-m", source, "--calibration", tmp_path / "no.json"), 3, "no.json"),
            (("-m", tmp_path / "no.onnx", "--calibration", table), 3, "does not exist"),
            (("-m", source, "--calibration", table, "--exclude", "x"), 2, "no layer"),
            (("-m", source, "--calibration", table, "-o", tmp_path), 2, "is a folder"),
            (("-m", source, "--calibration", table, "-o", table), 2, "replace its own input"),
        ):
            assert main(self.words(unet, data, *arguments)) == code, arguments
            error = capsys.readouterr().err.strip().splitlines()
            assert len(error) == 1, error
            assert message in error[0]

    def test_more_images_than_there_are_are_refused_and_by_default_all_are_taken(
        self, unet: Case, data: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["debug", "-m", str(unet.source.path), "--calibration", str(self.table(unet))]
        arguments += ["--calib-data", str(data), "--threads", "1"]
        assert main([*arguments, "--num-samples", "7"]) == 3
        assert "holds 6" in capsys.readouterr().err
        assert main([*arguments, "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["images"] == 6


def test_a_transposed_convolution_and_matrix_products_have_rows_too(tmp_path: Path) -> None:
    """Each alone costs what the file with it alone in int8 costs."""
    draw = np.random.default_rng(3)
    shapes = {"up.w": (3, 6, 2, 2), "up.b": (6,), "rows.w": (6, 4), "head.w": (1, 4, 1, 1)}
    stored = [
        numpy_helper.from_array(draw.normal(0, 0.5, shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("ConvTranspose", ["image", "up.w", "up.b"], ["up"], name="up"),
        helper.make_node("Relu", ["up"], ["relu"], name="relu"),
        helper.make_node("Transpose", ["relu"], ["last"], name="last", perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["last", "rows.w"], ["rows"], name="rows"),
        helper.make_node("Transpose", ["rows"], ["first"], name="first", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "head.w"], ["head"], name="head"),
        helper.make_node("Sigmoid", ["head"], ["probability"], name="probability"),
    ]
    ends = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 7, 7]),
        helper.make_tensor_value_info("probability", TensorProto.FLOAT, [1, 1, 8, 8]),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    entries = output_entries(OutputContract()) | {
        "preprocess": preset("zero-one", (7, 7)).to_json()
    }
    set_metadata(model, entries | {"task": "semantic segmentation", "precision": "fp32"})
    save_model(model, tmp_path / "net.onnx")
    source = describe(tmp_path / "net.onnx")
    lows = {"image": 0.0, "relu": 0.0, "rows": -6.0}
    table = imported_table({n: imported_range(low, 6.0, "a test") for n, low in lows.items()})
    images = [draw.uniform(0, 1, (3, 7, 7)).astype(np.float32)]
    found = layer_errors.layer_errors(
        source, table=table, profile=OPENVINO_CPU, images=images, threads=1
    )
    assert {layer.name for layer in found} == {"up", "rows", "head"}
    assert all(layer.sqnr_alone_db is not None and layer.sqnr_alone_db > 20 for layer in found)
