"""What a row says beyond its scores: of saturation, and of half precision that was not computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_builders import compared_row

from segdeploy.benchmarks.parity import proof
from segdeploy.benchmarks.parity.proof import RANGE_IMAGES, Proof, in_half_precision
from segdeploy.benchmarks.parity.records import ParityRow
from segdeploy.benchmarks.parity.verdict import Verdict
from segdeploy.benchmarks.speed.entries import Entry
from segdeploy.calibration.json_record import record_of
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.runtimes.executed import Executed, Layer
from segdeploy.deploy.runtimes.fp16_range import Fp16Range
from segdeploy.deploy.runtimes.registry import RuntimeName
from segdeploy.deploy.system.errors import RunError


def entry(precision: Precision, sha256: str = "a") -> Entry:
    artifact = Artifact(
        path=Path("net.onnx"), precision=precision, opset=17, inputs=(), outputs=(), sha256=sha256
    )
    return Entry(label="net", artifact=artifact, runtime=RuntimeName.OPENVINO, skipped=None)


def executed(precision: str) -> Executed:
    layer = Layer(name="c", operator="Conv", precision=precision, macs=1)
    return Executed(layers=(layer,), requested=Precision.FP16)


def reaching(largest: float, lost: int = 0) -> Fp16Range:
    return Fp16Range(images=2, largest=largest, node="total (ReduceSum)", lost=lost, outputs=8)


@pytest.fixture
def kept() -> ParityRow:
    row = record_of(compared_row("fp16 on OpenVINO", -0.01, -0.02, 0.0), ParityRow)
    return replace(row, verdict=Verdict.KEPT, passed=True, failures=())


IMAGES = np.zeros((100, 3, 4, 4), np.float32)


class TestHalfPrecision:
    def test_within_the_range_nothing_changes(self, kept: ParityRow) -> None:
        assert in_half_precision(kept, reaching(100.0)) == kept

    def test_near_its_end_the_row_passes_and_says_so(self, kept: ParityRow) -> None:
        found = in_half_precision(kept, reaching(60000.0))
        assert (found.passed, found.verdict, found.failures) == (True, Verdict.KEPT, ())
        assert found.cautions == (reaching(60000.0).words,)

    @pytest.mark.parametrize("found", [reaching(70000.0, 8), reaching(1.0, 2), "it crashed"])
    def test_beyond_it_or_unknown_kept_is_not_proven(
        self, kept: ParityRow, found: Fp16Range | str
    ) -> None:
        row = in_half_precision(kept, found)
        assert row.passed is False
        assert row.verdict is Verdict.NOT_PROVEN_FP16
        (failure,) = row.failures
        assert failure.startswith("not proven for fp16 arithmetic: this processor computed in")

    @pytest.mark.parametrize("verdict", [Verdict.LOST, Verdict.COLLAPSED, Verdict.NOT_PROVEN])
    def test_a_worse_verdict_stays(self, kept: ParityRow, verdict: Verdict) -> None:
        lost = replace(kept, verdict=verdict, passed=False, failures=("lost",))
        row = in_half_precision(lost, reaching(70000.0))
        assert (row.verdict, row.passed, len(row.failures)) == (verdict, False, 2)

    def test_a_file_is_looked_at_once_and_on_some_images(
        self, kept: ParityRow, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[int] = []

        def look(artifact: Artifact, images: list[object], *, threads: int) -> Fp16Range:
            seen.append(len(images))
            return reaching(70000.0)

        monkeypatch.setattr(proof, "fp16_range", look)
        monkeypatch.setattr(proof, "call_isolated", lambda call, **_: call())
        looking = Proof(threads=1)
        for sha256 in "aab":
            row = looking.of(kept, entry(Precision.FP16, sha256), executed("fp32"), IMAGES)
            assert row.verdict is Verdict.NOT_PROVEN_FP16
        assert seen == [RANGE_IMAGES, RANGE_IMAGES]

    def test_a_crash_proves_nothing(self, kept: ParityRow, monkeypatch: pytest.MonkeyPatch) -> None:
        def crash(*_: object, **__: object) -> Fp16Range:
            raise RunError("crashed with signal 11")

        monkeypatch.setattr(proof, "call_isolated", crash)
        row = Proof(threads=1).of(kept, entry(Precision.FP16), executed("fp32"), IMAGES)
        assert "crashed with signal 11" in row.failures[0]

    @pytest.mark.parametrize(
        ("precision", "ran"), [(Precision.FP16, "fp16"), (Precision.FP32, "fp32")]
    )
    def test_what_ran_in_fp16_and_what_is_no_fp16_file_needs_no_look(
        self, kept: ParityRow, precision: Precision, ran: str
    ) -> None:
        assert Proof(threads=1).of(kept, entry(precision), executed(ran), IMAGES) == kept


def test_an_int8_row_says_that_its_products_can_saturate(
    kept: ParityRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "saturation", lambda path, runtime: "no VNNI")
    row = Proof(threads=1).of(kept, entry(Precision.INT8), executed("int8"), IMAGES)
    assert (row.cautions, row.passed) == (("no VNNI",), True)
