"""What the runtimes here execute of every operator in the tables, read from their own graphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tiny import quantized

from segdeploy.calibration.exchange import imported_range
from segdeploy.calibration.table import imported_table
from segdeploy.deploy.onnx_model.file import describe, load_model, save_model, set_metadata
from segdeploy.deploy.quantize.activations import every_activation
from segdeploy.deploy.runtimes.ort_session import OrtSession, session_options
from segdeploy.deploy.targets import kernels
from segdeploy.deploy.targets.profiles import OPENVINO_CPU, ORT_X86, TargetProfile

SIDE, WIDTH = 8, 8
RUNTIMES = (OPENVINO_CPU, ORT_X86)

Constants = Mapping[str, NDArray[np.generic]]


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A node between two convolutions: its operator, constants behind the data, and attributes."""

    operator: str
    constants: Sequence[NDArray[np.generic] | None] = ()
    attributes: Mapping[str, object] = dataclasses.field(default_factory=dict)
    width: int = WIDTH
    both: bool = False


def floats(*values: float) -> NDArray[np.generic]:
    return np.array(values, np.float32)


def ints(*values: int) -> NDArray[np.generic]:
    return np.array(values, np.int64)


def weight(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)


NEAREST = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
TWICE = (None, floats(1, 1, 2, 2))
POOL = {"kernel_shape": [2, 2], "strides": [2, 2]}
PATTERNS = {
    "Add": Pattern("Add", both=True),
    "AveragePool": Pattern("AveragePool", attributes=POOL),
    "Concat": Pattern("Concat", attributes={"axis": 1}, width=2 * WIDTH, both=True),
    "Conv": Pattern("Conv", [weight(WIDTH, 1, 3, 3)], {"group": WIDTH, "pads": [1] * 4}),
    "ConvTranspose": Pattern("ConvTranspose", [weight(WIDTH, WIDTH, 2, 2)], {"strides": [2, 2]}),
    "DepthToSpace": Pattern("DepthToSpace", attributes={"blocksize": 2}, width=WIDTH // 4),
    "Flatten": Pattern("Flatten"),
    "Gemm": Pattern("Gemm", [weight(WIDTH, WIDTH), weight(WIDTH)], {"transB": 1}),
    "GlobalAveragePool": Pattern("GlobalAveragePool"),
    "MatMul": Pattern("MatMul", [weight(SIDE, SIDE)]),
    "MaxPool": Pattern("MaxPool", attributes=POOL),
    "Mul": Pattern("Mul", both=True),
    "Pad": Pattern("Pad", [ints(0, 0, 1, 1, 0, 0, 1, 1)]),
    "ReduceMean": Pattern("ReduceMean", [ints(2, 3)]),
    "Reshape": Pattern("Reshape", [ints(1, WIDTH, 4, 16)]),
    "Resize": Pattern("Resize", TWICE, {"mode": "nearest", **NEAREST}),
    "Slice": Pattern("Slice", [ints(1), ints(5), ints(2)]),
    "Split": Pattern("Split", attributes={"axis": 1, "num_outputs": 1}),
    "Squeeze": Pattern("Squeeze", [ints(0)]),
    "Transpose": Pattern("Transpose", attributes={"perm": [0, 1, 3, 2]}),
    "Unsqueeze": Pattern("Unsqueeze", [ints(0)]),
    "LeakyRelu": Pattern("LeakyRelu", attributes={"alpha": 0.1}),
    "Sigmoid": Pattern("Sigmoid"),
    "Clip": Pattern("Clip", [np.float32(0), np.float32(6)]),
    "Elu": Pattern("Elu"),
    "HardSwish": Pattern("HardSwish"),
    "PRelu": Pattern("PRelu", [np.full((WIDTH, 1, 1), 0.1, np.float32)]),
    "Relu": Pattern("Relu"),
    "Tanh": Pattern("Tanh"),
    "grouped ConvTranspose": Pattern(
        "ConvTranspose", [weight(WIDTH, WIDTH // 2, 2, 2)], {"strides": [2, 2], "group": 2}
    ),
    "HardSigmoid": Pattern("HardSigmoid"),
    "InstanceNormalization": Pattern("InstanceNormalization", [weight(WIDTH), weight(WIDTH)]),
    "linear Resize": Pattern("Resize", TWICE, {"mode": "linear"}),
    "SpaceToDepth": Pattern("SpaceToDepth", attributes={"blocksize": 2}, width=4 * WIDTH),
}
RESHAPED = {"Flatten", "Gemm", "Squeeze", "Unsqueeze"}
"""What does not give four axes, or does not take them."""


def graph_of(pattern: Pattern, *, rectified: bool = True, gate: bool = False) -> onnx.ModelProto:
    """image -> convolution (-> ReLU) -> the node -> convolution."""
    stored: list[TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def constant(name: str, values: NDArray[np.generic]) -> str:
        stored.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(operator: str, inputs: list[str], name: str, **attributes: object) -> str:
        nodes.append(helper.make_node(operator, inputs, [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    def convolved(source: str, name: str, channels: int) -> str:
        kernel = constant(f"{name}.weight", weight(WIDTH, channels, 3, 3))
        inputs = [source, kernel, constant(f"{name}.bias", weight(WIDTH))]
        made = add("Conv", inputs, name, pads=[1] * 4)
        return add("Relu", [made], f"{name}/relu") if rectified and name != "last" else made

    tensor = convolved("image", "first", 3)
    data = [tensor, convolved("image", "second", 3)] if pattern.both else [tensor]
    if pattern.operator in ("Gemm",):
        pooled = add("GlobalAveragePool", data, "pooled")
        data = [add("Flatten", [pooled], "flat")]
    if gate:
        data = [tensor, add("Sigmoid", [tensor], "gate")]
    held = [
        "" if values is None else constant(f"held{place}", values)
        for place, values in enumerate(pattern.constants)
    ]
    made = add(pattern.operator, [*data, *held], "probe", **pattern.attributes)
    if pattern.operator in RESHAPED:
        shape = [1, WIDTH, 1, 1] if pattern.operator == "Gemm" else [1, WIDTH, SIDE, SIDE]
        made = add("Reshape", [made, constant("shape", ints(*shape))], "back")
    convolved(made, "last", pattern.width)
    ends = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE]),
        helper.make_tensor_value_info("last.out", TensorProto.FLOAT, ["n", "c", "h", "w"]),
    ]
    graph = helper.make_graph(nodes, "pattern", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def written(
    folder: Path, pattern: Pattern, profile: TargetProfile, *, rectified: bool = True, **form: bool
) -> Path:
    """The pattern in int8: values up to 4, from -2 where no ReLU makes them."""
    path = folder / "pattern.onnx"
    model = graph_of(pattern, rectified=rectified, **form)
    set_metadata(model, {"precision": "fp32"})
    save_model(model, path)
    names = every_activation(load_model(path), kernels=[profile.kernels])
    ranges = {n: imported_range(0.0 if rectified else -2.0, 4.0, "a test") for n in names}
    table = imported_table(ranges)
    return quantized(describe(path), folder / "int8.onnx", table, profile=profile).path


@dataclasses.dataclass(frozen=True)
class Ran:
    """A node as executed: what it is, the nodes of the file it came from, and its precision."""

    kind: str
    names: tuple[str, ...]
    int8: bool


def ran_on_openvino(path: Path) -> list[Ran]:
    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(path), "CPU", hints)
    found = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        said = {key: value.astype(str) for key, value in node.get_rt_info().items()}
        names = tuple(said.get("originalLayersNames", "").split(","))
        found.append(Ran(said["layerType"], names, said["runtimePrecision"] in ("u8", "i8")))
    return found


def ran_on_onnxruntime(path: Path) -> list[Ran]:
    options = session_options(threads=1)
    optimised = path.with_name("optimised.onnx")
    options.optimized_model_filepath = str(optimised)
    OrtSession(path, options)
    model = onnx.load(optimised)
    integers = {t.name for t in model.graph.initializer if t.data_type == TensorProto.UINT8}
    found = []
    for node in model.graph.node:
        linear = node.op_type.startswith("QLinear")
        moved = bool(node.input) and node.input[0] in integers
        if linear or node.op_type == "QuantizeLinear" or moved:
            integers.update(node.output if node.op_type != "DequantizeLinear" else [])
        found.append(Ran(node.op_type, (node.name,), linear or moved))
    return found


READ: dict[str, Callable[[Path], list[Ran]]] = {
    OPENVINO_CPU.name: ran_on_openvino,
    ORT_X86.name: ran_on_onnxruntime,
}


def on_integers(path: Path, profile: TargetProfile) -> bool:
    """Whether no kernel of the probe computes in float; one that vanished computes nothing."""
    found = READ[profile.name](path)
    probes = [each for each in found if any(name.startswith("probe") for name in each.names)]
    return all(each.int8 for each in probes)


def with_kernels(profile: TargetProfile, **changed: object) -> TargetProfile:
    return dataclasses.replace(profile, kernels=dataclasses.replace(profile.kernels, **changed))


@pytest.mark.parametrize(
    ("profile", "operator"),
    [(each, name) for each in RUNTIMES for name in sorted(each.kernels.integers)],
    ids=lambda value: getattr(value, "name", value),
)
def test_what_the_table_names_runs_on_integers(
    profile: TargetProfile, operator: str, tmp_path: Path
) -> None:
    assert on_integers(written(tmp_path, PATTERNS[operator], profile), profile)


@pytest.mark.parametrize(
    ("profile", "name"),
    [
        *((OPENVINO_CPU, n) for n in ("HardSigmoid", "InstanceNormalization", "SpaceToDepth")),
        *((OPENVINO_CPU, n) for n in ("grouped ConvTranspose", "linear Resize")),
        *((ORT_X86, n) for n in ("ConvTranspose", "Gemm", "Pad", "ReduceMean", "linear Resize")),
        *((ORT_X86, n) for n in ("InstanceNormalization", "HardSigmoid", "PRelu", "SpaceToDepth")),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_what_it_leaves_out_would_run_in_float_all_the_same(
    profile: TargetProfile, name: str, tmp_path: Path
) -> None:
    operators = profile.kernels.integers | {PATTERNS[name].operator}
    asked = with_kernels(profile, integers=operators, ungrouped=frozenset())
    rectified = name != "InstanceNormalization"  # OpenVINO's takes integers without an offset
    path = written(tmp_path, PATTERNS[name], asked, rectified=rectified)
    assert not on_integers(path, profile)


@pytest.mark.parametrize("operator", sorted(kernels.ONNXRUNTIME_CPU.after_integers))
def test_onnxruntime_runs_an_activation_behind_a_layer_on_integers(
    operator: str, tmp_path: Path
) -> None:
    path = written(tmp_path, PATTERNS[operator], ORT_X86, rectified=False)
    assert on_integers(path, ORT_X86)
    assert any(each.kind == f"QLinear{operator}" for each in ran_on_onnxruntime(path))


@pytest.mark.parametrize(
    ("profile", "operator"),
    [(each, name) for each in RUNTIMES for name in sorted(each.kernels.fused)],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_fused_operator_has_no_kernel_of_its_own(
    profile: TargetProfile, operator: str, tmp_path: Path
) -> None:
    path = written(tmp_path, PATTERNS[operator], profile, rectified=operator in ("Relu", "Clip"))
    found = READ[profile.name](path)
    alone = [each for each in found if "probe" in each.names]
    assert {each.kind for each in alone} <= {"Convolution"}
    convolutions = [each for each in found if each.kind in ("Convolution", "QLinearConv")]
    assert convolutions
    assert all(each.int8 for each in convolutions)


def test_openvino_fuses_a_tensor_times_its_own_sigmoid(tmp_path: Path) -> None:
    path = written(tmp_path, Pattern("Mul"), OPENVINO_CPU, rectified=False, gate=True)
    found = ran_on_openvino(path)
    assert {each.kind for each in found if "probe" in each.names} == {"Convolution"}


def test_a_layer_of_onnxruntime_without_a_rounded_output_runs_in_float(tmp_path: Path) -> None:
    pattern = PATTERNS["InstanceNormalization"]
    counts = {}
    for rounds in (True, False):
        profile = with_kernels(ORT_X86, rounds_outputs=rounds)
        found = ran_on_onnxruntime(written(tmp_path, pattern, profile))
        counts[rounds] = sum(each.kind == "QLinearConv" for each in found)
    assert counts == {True: 1, False: 0}  # the last convolution ends the network, in float


@pytest.mark.parametrize("operator", sorted(kernels.OPENVINO_CPU.passed))
def test_a_second_pair_behind_what_openvino_passes_costs_a_kernel(
    operator: str, tmp_path: Path
) -> None:
    counts = {}
    for passed in (kernels.OPENVINO_CPU.passed, frozenset[str]()):
        profile = with_kernels(OPENVINO_CPU, passed=passed)
        path = written(tmp_path, PATTERNS[operator], profile, rectified=False)
        counts[bool(passed)] = sum(each.kind == "Subgraph" for each in ran_on_openvino(path))
    assert counts[True] < counts[False]


def test_openvino_wants_zero_point_0_in_front_of_a_transposed_convolution(tmp_path: Path) -> None:
    pattern = PATTERNS["ConvTranspose"]
    assert on_integers(written(tmp_path, pattern, OPENVINO_CPU, rectified=False), OPENVINO_CPU)
    other = with_kernels(OPENVINO_CPU, no_zero_point=frozenset())
    assert not on_integers(written(tmp_path, pattern, other, rectified=False), OPENVINO_CPU)


NINTHS = {"kernel_shape": [3, 3], "count_include_pad": 1}


@pytest.mark.parametrize("excluded", [False, True], ids=["on integers", "in float"])
@pytest.mark.parametrize("form", ["pads", "auto_pad", "Pad"])
def test_openvino_counts_zeros_in_an_average(form: str, excluded: bool, tmp_path: Path) -> None:
    """Beside zero point 128 it would count -2, the number that the integer 0 stands for there."""
    said = {"pads": {"pads": [1] * 4}, "auto_pad": {"auto_pad": "SAME_UPPER"}, "Pad": {}}[form]
    pattern = Pattern("AveragePool", attributes={**NINTHS, **said})
    path = written(tmp_path, pattern, OPENVINO_CPU, rectified=False)
    model = graph_of(pattern, rectified=False)
    if form == "Pad":
        (probe,) = (node for node in model.graph.node if node.name == "probe")
        pads = numpy_helper.from_array(ints(0, 0, 1, 1, 0, 0, 1, 1), "pads")
        model.graph.initializer.append(pads)
        padded = helper.make_node("Pad", [probe.input[0], "pads"], ["padded"], name="padded")
        model.graph.node.insert(list(model.graph.node).index(probe), padded)
        (probe,) = (node for node in model.graph.node if node.name == "probe")
        probe.input[0] = "padded"
    set_metadata(model, {"precision": "fp32"})
    save_model(model, path.with_name("pattern.onnx"))
    names = every_activation(model, kernels=[OPENVINO_CPU.kernels])
    table = imported_table({name: imported_range(-2.0, 2.0, "a test") for name in names})
    source = describe(path.with_name("pattern.onnx"))
    exclude = ["probe"] if excluded else []
    made = quantized(source, path, table, profile=OPENVINO_CPU, exclude=exclude).path
    image = np.random.default_rng(1).uniform(-2, 2, (1, 3, SIDE, SIDE)).astype(np.float32)
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    (found,) = openvino.Core().compile_model(str(made), "CPU", hints)([image]).values()
    (expected,) = OrtSession(source.path, session_options(threads=1)).run({"image": image}, None)
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())
