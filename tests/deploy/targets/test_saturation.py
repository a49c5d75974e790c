"""Which files saturate on which processors, and which target mends it."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from segdeploy.deploy.onnx_model.file import save_model
from segdeploy.deploy.runtimes.registry import RuntimeName
from segdeploy.deploy.system import isa
from segdeploy.deploy.system.isa import ONEDNN_LIMIT, left_to_onednn, saturates
from segdeploy.deploy.targets.saturation import saturation, weights_of_8_bits

ORT, OPENVINO = RuntimeName.ONNXRUNTIME, RuntimeName.OPENVINO
VNNI = "flags : avx2 avx512f avx512_vnni"


UNSIGNED = np.uint8(0)


def file(path: Path, *, weight: int, zero_point: np.generic = UNSIGNED) -> Path:
    """A file that holds integers as an int8 model does; its graph reads none of them."""
    held = {"weight": np.full((1, 1, 1, 1), weight, np.int8), "zero": np.asarray(zero_point)}
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "net",
        ends[:1],
        ends[1:],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )
    save_model(helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), path)
    return path


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What this machine says of its processor, to be written by the test."""
    monkeypatch.setattr(isa, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.delenv(ONEDNN_LIMIT, raising=False)
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize(
    ("weight", "zero_point", "expected"),
    [
        (65, np.uint8(0), True),
        (-65, np.uint8(0), True),
        (-128, np.uint8(0), True),
        (64, np.uint8(0), False),
        (127, np.int8(0), False),
    ],
)
def test_bytes_times_weights_beyond_7_bits_can_saturate(
    tmp_path: Path, weight: int, zero_point: np.generic, expected: bool
) -> None:
    path = file(tmp_path / "net.onnx", weight=weight, zero_point=zero_point)
    assert weights_of_8_bits(path) is expected


def test_two_products_of_7_bits_fit_in_16_bits_and_of_8_bits_do_not() -> None:
    assert 2 * 255 * 64 < 2**15 <= 2 * 255 * 127


@pytest.mark.parametrize(
    ("machine", "names", "expected"),
    [
        ("x86_64", ["avx2"], True),
        ("AMD64", ["avx2", "avx512f"], True),
        ("x86_64", ["avx2", "avx_vnni"], False),
        ("x86_64", ["avx512f", "amx_int8"], False),
        ("x86_64", [], False),
        ("aarch64", ["asimddp"], False),
    ],
)
def test_x86_without_vnni_saturates(machine: str, names: list[str], expected: bool) -> None:
    assert saturates(machine=machine, isa=names) is expected


@pytest.mark.parametrize(
    ("limit", "left"),
    [
        ("AVX2", ("avx2",)),
        ("avx512_core", ("avx2",)),
        ("AVX2_VNNI", ("avx2", "avx_vnni")),
        ("ALL", ("avx2", "avx_vnni")),
        (None, ("avx2", "avx_vnni")),
    ],
)
def test_a_limit_takes_instruction_sets_away(limit: str | None, left: tuple[str, ...]) -> None:
    assert left_to_onednn(["avx2", "avx_vnni"], limit) == left


class TestOnAProcessor:
    def test_the_row_names_the_reason_and_the_target(self, processor: Path, tmp_path: Path) -> None:
        processor.write_text("flags : avx2")
        path = file(tmp_path / "net.onnx", weight=127)
        assert "no VNNI" in str(saturation(path, OPENVINO))
        assert "--target openvino-cpu-no-vnni, whose weights have 7" in str(
            saturation(path, OPENVINO)
        )
        assert "--target ort-x86-no-vnni, whose weights have 7" in str(saturation(path, ORT))

    def test_7_bits_need_nothing(self, processor: Path, tmp_path: Path) -> None:
        processor.write_text("flags : avx2")
        path = file(tmp_path / "net.onnx", weight=64)
        assert saturation(path, OPENVINO) is saturation(path, ORT) is None

    def test_with_vnni_nothing_is_said(self, processor: Path, tmp_path: Path) -> None:
        processor.write_text(VNNI)
        path = file(tmp_path / "net.onnx", weight=127)
        assert saturation(path, OPENVINO) is saturation(path, ORT) is None

    def test_what_is_taken_from_onednn_is_taken_from_openvino_alone(
        self, processor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        processor.write_text(VNNI)
        monkeypatch.setenv(ONEDNN_LIMIT, "AVX2")
        path = file(tmp_path / "net.onnx", weight=127)
        assert saturation(path, OPENVINO)
        assert saturation(path, ORT) is None
