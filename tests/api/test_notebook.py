"""The notebook of examples/: it runs from top to bottom, and is committed without its outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from tiny import write_some

from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models import UNetPlusPlus
from segdeploy.deploy.models.checkpoint import save_checkpoint

NOTEBOOK = Path(__file__).parents[2] / "examples" / "segdeploy_in_a_notebook.ipynb"
TIME_LIMIT_S = 300


@pytest.fixture(scope="module")
def cells(
    tmp_path_factory: pytest.TempPathFactory, _tiny_unet: UNetPlusPlus
) -> list[dict[str, Any]]:
    """Every cell after a run on some of the bundled sample, with a small network to be quick."""
    root = tmp_path_factory.mktemp("notebook")
    write_some(bundled.sample(), root / "data", train=8, test=4)
    save_checkpoint(_tiny_unet, root / "net.safetensors", preprocess=Preprocess())
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, timeout=TIME_LIMIT_S, resources={"metadata": {"path": str(root)}}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOTEBOOK_CHECKPOINT", str(root / "net.safetensors"))
        patch.setenv("NOTEBOOK_DATA", str(root / "data"))
        patch.setenv("OMP_NUM_THREADS", "1")
        client.execute()
    return list(notebook.cells)


def result(cells: list[dict[str, Any]], code: str) -> dict[str, str]:
    """What a cell that ends with some code shows, by MIME type."""
    cell = next(cell for cell in cells if "".join(cell["source"]).splitlines()[-1:] == [code])
    found = [out["data"] for out in cell["outputs"] if out["output_type"] == "execute_result"]
    return dict(found[-1])


def streams(cells: list[dict[str, Any]], name: str) -> str:
    return "".join(
        out["text"]
        for cell in cells
        for out in cell.get("outputs", ())
        if out["output_type"] == "stream" and out["name"] == name
    )


def test_it_is_committed_without_outputs():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_a_run_shows_itself_with_verdict_table_and_chart(cells: list[dict[str, Any]]):
    shown = result(cells, "run")
    assert shown["text/plain"].startswith("<Run notebook-out: ")
    for part in ("segdeploy-run", "<table>", "<svg"):
        assert part in shown["text/html"]


def test_the_recommended_model_makes_a_mask(cells: list[dict[str, Any]]):
    shown = result(cells, "image.shape, mask.shape, mask.dtype, sorted(set(mask.ravel().tolist()))")
    assert shown["text/plain"].startswith("((256, 256, 3), (256, 256), dtype('uint8'), [0")


def test_progress_is_shown(cells: list[dict[str, Any]]):
    assert "calibrate" in streams(cells, "stderr")
    assert streams(cells, "stdout") == ""
