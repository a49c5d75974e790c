from __future__ import annotations

import json
import os
import platform
import socket
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import pytest

from segdeploy.benchmarks.speed import environment
from segdeploy.benchmarks.speed.environment import describe
from segdeploy.deploy.system import isa as processor_isa
from segdeploy.deploy.system.isa import ISA_FLAGS, parse_cpuinfo

X86 = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8488C: test
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni amx_bf16 amx_tile amx_int8

processor\t: 1
model name\t: another
flags\t\t: fpu avx_vnni
"""

ARM = """\
processor\t: 0
Features\t: fp asimd asimdhp asimddp i8mm bf16
CPU part\t: 0xd40
"""


def test_x86_lists_the_flags_of_its_first_processor() -> None:
    model, isa = parse_cpuinfo(X86)
    assert model == "Intel(R) Xeon(R) Platinum 8488C: test"
    assert isa == ("avx2", "avx512f", "avx512_vnni", "amx_int8", "amx_bf16")


def test_arm_lists_features_and_no_model() -> None:
    assert parse_cpuinfo(ARM) == (None, ("asimdhp", "asimddp", "i8mm", "bf16"))


def test_flags_are_whole_words() -> None:
    assert parse_cpuinfo("flags : avx512_bf16x xavx2") == (None, ())


@pytest.mark.parametrize("text", ["", "\n\n", "no colon here"])
def test_an_unknown_file_tells_nothing(text: str) -> None:
    assert parse_cpuinfo(text) == (None, ())


def test_this_machine_is_described_and_fits_json() -> None:
    found = describe()
    fields = json.loads(json.dumps(asdict(found)))
    assert fields["python"] == platform.python_version()
    assert found.os.startswith(platform.system())
    assert found.cpu
    assert found.cores is None or 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.memory_bytes is None or found.memory_bytes > 2**28
    assert set(found.isa) <= set(ISA_FLAGS)
    assert found.versions["numpy"] == metadata.version("numpy")
    assert set(found.versions) == {"torch", "onnx", "onnxruntime", "onnxsim", "openvino", "numpy"}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_cores_are_those_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert describe().cores == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_nothing_names_the_machine_or_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "secret-host")
    text = json.dumps(asdict(describe()))
    assert "secret-host" not in text
    for private in (socket.gethostname(), str(Path.home()), sys.prefix):
        assert len(private) < 4 or private not in text


def test_without_proc_the_platform_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processor_isa, "CPUINFO", tmp_path / "absent")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    found = describe()
    assert found.cpu == "riscv64"
    assert found.isa == ()


def test_an_absent_package_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "surely-not-installed"))
    assert describe().versions == {
        "numpy": metadata.version("numpy"),
        "surely-not-installed": None,
    }
