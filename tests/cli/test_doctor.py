"""What ``segdeploy doctor`` says of a machine."""

from __future__ import annotations

import argparse
import logging
import sys
import sysconfig
from dataclasses import replace

import pytest

from segdeploy.api.doctor import default_precision
from segdeploy.benchmarks.speed.environment import describe as describe_environment
from segdeploy.cli import doctor as cli_doctor
from segdeploy.deploy.runtimes.pytorch_ready import pytorch_availability
from segdeploy.deploy.runtimes.registry import RuntimeName
from segdeploy.deploy.system.isa import ARM, ISA_FLAGS, X86, findings


@pytest.mark.parametrize(("machine", "known"), [("x86_64", X86), ("AMD64", X86), ("aarch64", ARM)])
def test_each_instruction_set_is_there_or_lacking_and_says_what_that_means(
    machine: str, known: tuple[object, ...]
) -> None:
    everything = findings(machine=machine, isa=ISA_FLAGS)
    nothing = findings(machine=machine, isa=["fpu"])
    assert len(everything) == len(nothing) == len(known)
    assert all(finding.present for finding in everything)
    assert not any(finding.present for finding in nothing)
    for with_it, without_it in zip(everything, nothing, strict=True):
        assert with_it.name == without_it.name
        assert with_it.meaning != without_it.meaning


def test_every_flag_is_one_that_is_looked_for() -> None:
    assert {flag for entry in (*X86, *ARM) for flag in entry.flags} <= set(ISA_FLAGS)


def test_one_of_several_flags_is_enough() -> None:
    for flag in ("avx512_vnni", "avx_vnni"):
        found = {f.name: f.present for f in findings(machine="x86_64", isa=["avx2", flag])}
        assert found == {"AVX-512": False, "VNNI": True, "AMX": False, "bf16": False}


@pytest.mark.parametrize(("machine", "isa"), [("x86_64", ()), ("riscv64", ("avx2",))])
def test_what_is_not_known_is_not_guessed(machine: str, isa: tuple[str, ...]) -> None:
    assert findings(machine=machine, isa=isa) == ()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="segdeploy.cli.doctor")
    return caplog


class TestDoctor:
    def test_the_text_and_the_json_carry_the_same(self, said: pytest.LogCaptureFixture) -> None:
        code, found = cli_doctor.run(argparse.Namespace(), [])
        lines = [record.getMessage() for record in said.records]
        assert code == 0
        assert f"{'threads':20} {found['threads']}, all" in "\n".join(lines)
        for finding in found["instruction_sets"]:
            word = "has" if finding["present"] else "lacks"
            assert f"{'':20} {word:5} {finding['name']}: {finding['meaning']}" in lines
        for runtime in found["runtimes"]:
            (line,) = (line for line in lines if line.split()[0] == runtime["name"])
            assert (runtime["reason"] or runtime["version"]) in line
            assert (runtime["reason"] is None) == (runtime["default_precision"] is not None)
        names = [runtime["name"] for runtime in found["runtimes"]]
        pytorch = ["pytorch", "pytorch-compiled", "pytorch-cuda"]
        assert names == [*(name.value for name in RuntimeName), *pytorch]

    def test_a_default_that_is_not_fp32_is_told_with_what_is_asked_instead(
        self, said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("segdeploy.api.doctor.default_precision", lambda name: "bf16")
        cli_doctor.run(argparse.Namespace(), [])
        (line,) = (r.getMessage() for r in said.records if r.getMessage().startswith("pytorch  "))
        assert line.endswith("; its own default here is bf16, this project asks for fp32")

    def test_a_machine_that_tells_little_is_described_all_the_same(
        self, said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bare = replace(describe_environment(), isa=(), memory_bytes=None)
        monkeypatch.setattr("segdeploy.api.doctor.describe_environment", lambda: bare)
        _, found = cli_doctor.run(argparse.Namespace(), [])
        assert found["instruction_sets"] == []
        assert f"{'isa':20} unknown: this system does not tell" in said.messages
        assert f"{'memory':20} unknown" in said.messages

    def test_openvino_is_asked_for_its_default(self) -> None:
        pytest.importorskip("openvino")
        native = {"avx512_bf16", "amx_bf16"} & set(describe_environment().isa)
        assert default_precision("openvino") == ("bf16" if native else "fp32")

    def test_a_gpu_is_not_taken_to_compute_fp32(self) -> None:
        assert default_precision("onnxruntime-cuda") == default_precision("pytorch-cuda") == "tf32"
        assert default_precision("onnxruntime") == default_precision("pytorch") == "fp32"


class TestPyTorchReady:
    def test_headers_are_needed_besides_the_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CXX", sys.executable)
        monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": "/nowhere"})
        state = pytorch_availability(compiled=True, device="cpu")
        assert state.reason is not None
        assert "C headers; install them (apt install python3-dev)" in state.reason

    def test_eager_on_the_cpu_needs_nothing(self) -> None:
        state = pytorch_availability(compiled=False, device="cpu")
        assert (state.name, state.ready) == ("pytorch", True)
