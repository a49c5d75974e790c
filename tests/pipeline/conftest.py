"""What the tests of whole jobs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from segdeploy.benchmarks.speed.cold_start import ColdStart


@pytest.fixture(scope="module")
def _no_cold_start() -> Iterator[None]:
    """What a fresh process takes is made up; other tests start one for each row."""
    made_up = ColdStart(load_s=1.0, first_inference_s=1.0, peak_bytes=2, imports_bytes=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segdeploy.benchmarks.speed.run.cold_start", lambda *a, **k: made_up)
        yield
