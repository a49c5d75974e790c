"""``run -m`` ends with a report for the networks that people deploy, from each exporter.

Minutes a network, so only where ``SEGDEPLOY_FOREIGN_NETWORKS`` is set; those of installed packages
only where the packages are. What the gate runs is ``tests/deploy/test_foreign_networks.py``.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
from foreign_networks import EXPORTERS, INSTALLED, REPOSITORIES, SIDE, Make, trained
from tiny import nuclei, write_png_file

from segdeploy.cli.main import main

pytestmark = pytest.mark.skipif(
    not os.environ.get("SEGDEPLOY_FOREIGN_NETWORKS"), reason="SEGDEPLOY_FOREIGN_NETWORKS is not set"
)

NETWORKS: dict[str, Make] = {
    **{name: make for name, (_, make) in INSTALLED.items()},
    **REPOSITORIES,
}

FORMS = [(name, 3, classes) for name in NETWORKS for classes in (1, 4)]
FORMS += [("4uiiurz1 UNet++", 3, 3), ("4uiiurz1 UNet++", 1, 1)]


def image_set(root: Path, classes: int) -> Path:
    """Twelve images of nuclei: one label, or label maps whose nuclei take turns."""
    generator = np.random.default_rng(1)
    splits = ["train", "train", "val", "test"] * 3
    for index in range(len(splits)):
        image, masks = nuclei(generator, height=SIDE, width=SIDE)
        truth = np.zeros((SIDE, SIDE), np.uint8)
        for place, mask in enumerate(masks):
            truth[mask > 0] = 255 if classes == 1 else 1 + place % (classes - 1)
        write_png_file(root / "images" / f"{index}.png", image)
        write_png_file(root / "masks" / f"{index}.png", truth)
    with (root / "splits.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["image_id", "split"], *enumerate(splits)])
    return root


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("name", "channels", "classes"), FORMS)
def test_a_run_ends_with_a_report(
    name: str, channels: int, classes: int, exporter: str, tmp_path: Path
) -> None:
    package = INSTALLED[name][0] if name in INSTALLED else "torch"
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    network = trained(NETWORKS[name], channels=channels, classes=classes)
    theirs = EXPORTERS[exporter](network, tmp_path / "theirs.onnx", channels=channels)
    words = ["run", "-m", theirs, "-o", tmp_path / "run", "--preprocess", "zero-one"]
    words += ["--data", image_set(tmp_path / "set", classes), "--size", SIDE, SIDE]
    words += ["--output-kind", "logits", "--num-samples", 6, "--max-drop", 100]
    words += ["--duration", "0.05", "--warmup", 1, "--batch", 1]
    assert main([str(word) for word in words]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (tmp_path / "run" / "report.html").exists()
    assert len(report["parity"]["rows"]) > 3
