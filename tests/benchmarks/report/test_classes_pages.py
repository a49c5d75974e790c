"""Several classes on every page of a report, in compare and in verify."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from held_images import AS_IT_IS, Echo, set_of
from numpy.typing import NDArray
from PIL import Image
from report_builders import report_of, sample_report

from segdeploy.benchmarks.parity.answers import ModelAnswers
from segdeploy.benchmarks.parity.evaluation import Evaluation
from segdeploy.benchmarks.parity.records import ClassLook, GatedScore, ParitySection
from segdeploy.benchmarks.parity.rows import candidate_row, reference_row
from segdeploy.benchmarks.parity.tallies import compared
from segdeploy.benchmarks.parity.verdict import Verdict
from segdeploy.benchmarks.parity.worst_images import Chosen, pictured
from segdeploy.benchmarks.report.compare import compare_reports
from segdeploy.benchmarks.report.files import pages_of
from segdeploy.benchmarks.report.notebook import notebook
from segdeploy.benchmarks.report.records import Report
from segdeploy.benchmarks.report.scores import scores_in_words
from segdeploy.benchmarks.speed.entries import RowIdentity
from segdeploy.deploy.data.output_contract import Activation, OutputContract

CLASSES = ("ground", "road | way", "<sign>")
THREE = OutputContract(
    activation=Activation.SOFTMAX,
    classes=CLASSES,
    colours=((1, 2, 3), (40, 50, 60), (255, 0, 0)),
)

SHAPE = (8, 8, 8)
NAMES = tuple(f"image{i}" for i in range(SHAPE[0]))


def one_hot(labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (labels[:, None] == np.arange(3).reshape(1, 3, 1, 1)).astype(np.float32)


def identity(name: str) -> RowIdentity:
    return RowIdentity(
        name=name, file=f"{name}.onnx", target=None, runtime="echo", precision_requested=None
    )


def section_of(candidate: NDArray[np.uint8], *, max_drop_class: float = 5) -> ParitySection:
    truth = np.zeros(SHAPE, np.uint8)
    truth[:, 4:] = 1
    truth[:, 0, :2] = 2
    fed = np.concatenate([one_hot(truth), one_hot(candidate)], axis=1)
    evaluation = Evaluation(
        images=set_of(NAMES, fed, truth),
        preprocess=AS_IT_IS,
        output=THREE,
        progress=lambda samples, label: samples,
    )
    answers = [ModelAnswers.of(Echo(first, 3), evaluation.contracts) for first in (0, 3)]
    expected = evaluation.reference(answers[0], "reference")
    found = evaluation.candidate(answers[1], "candidate")
    report = compared(
        expected,
        found,
        names=("reference", "candidate"),
        max_drop=1,
        max_drop_class=max_drop_class,
        seed=0,
    )
    rows = (
        reference_row(identity("reference"), "fp32", expected, ranks=True),
        candidate_row(identity("candidate"), "int8", report, found, ranks=True),
    )
    return ParitySection(
        reference="reference",
        score=GatedScore.MIOU,
        classes=tuple(
            ClassLook(name=name, colour=colour)
            for name, colour in zip(CLASSES, THREE.palette, strict=True)
        ),
        max_drop_percentage_points=1,
        max_drop_class_percentage_points=max_drop_class,
        images=len(NAMES),
        image_names=NAMES,
        rows=rows,
    )


@pytest.fixture
def report() -> Report:
    candidate = np.zeros(SHAPE, np.uint8)
    candidate[:, 3:] = 1
    return replace(report_of(sample_report()), parity=section_of(candidate))


def test_markdown_shows_every_class_and_the_matrix(report: Report) -> None:
    text = pages_of(report)["report.md"].decode()
    assert "| mIoU % |" in text
    assert "IoU of the foreground" not in text
    lines = text.splitlines()
    (road,) = (line for line in lines if line.startswith("| candidate | road"))
    assert road.startswith("| candidate | road \\| way | 80.00 | 88.89 | -20.000 |")
    (sign,) = (line for line in lines if line.startswith("| candidate | &lt;sign&gt;"))
    assert sign.endswith("| NEVER PREDICTED |")
    assert "#010203" in text
    (matrix,) = (
        lines[i : i + 6] for i, line in enumerate(lines) if line.startswith("### candidate: true")
    )
    assert "| ground | 73.33 | 26.67 | 0.00 |" in "\n".join(matrix)


def test_the_page_shows_legend_classes_and_matrix(report: Report) -> None:
    text = pages_of(report)["report.html"].decode()
    assert text.count("background:rgb(40,50,60)") >= 1
    assert "Confusion matrix of candidate" in text
    assert "&lt;sign&gt;" in text
    assert "<sign>" not in text
    assert "No class may lose more than 5 percentage points of IoU." in text
    assert "percentage points of mIoU below" in text


def test_a_notebook_shows_every_class(report: Report) -> None:
    text = notebook(report)
    assert text.count("<td>road | way</td>") == 2
    assert "mIoU %" in text


def test_a_report_of_one_label_shows_none_of_it() -> None:
    pages = pages_of(report_of(sample_report()))
    for name in ("report.md", "report.html"):
        text = pages[name].decode()
        assert "Confusion matrix of" not in text
        assert "## Classes" not in text
        assert "mIoU %" not in text


def test_a_line_of_scores_is_of_one_averaging(report: Report) -> None:
    assert report.parity is not None
    shown = scores_in_words(report.parity.rows[1])
    assert shown.startswith("over all pixels mIoU ")


def test_two_runs_are_compared_by_the_classes_of_their_images(report: Report) -> None:
    same = np.zeros(SHAPE, np.uint8)
    same[:, 4:] = 1
    same[:, 0, :2] = 2
    other = replace(report, parity=section_of(same))
    found = {row.name: row for row in compare_reports(report, other).parity}
    assert found["reference"].change_percentage_points == 0
    rows = [each.parity.rows[1] for each in (report, other) if each.parity]
    expected = rows[1].iou - rows[0].iou
    assert found["candidate"].change_percentage_points == pytest.approx(expected)
    assert found["candidate"].verdict_a == Verdict.COLLAPSED.value


def test_pictures_have_the_colours_of_the_classes() -> None:
    labels = np.array([[0, 1], [2, 255]], np.uint8)
    image = np.zeros((2, 2, 3), np.uint8)
    shown = pictured(
        Chosen(image="a", candidate="b"), image, labels, labels, 0 * labels, output=THREE
    )
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.truth_png_base64))))
    assert decoded.tolist() == [[[1, 2, 3], [40, 50, 60]], [[255, 0, 0], [128, 128, 128]]]
