"""Parity of several classes: counts, scores, intervals and the gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from held_images import AS_IT_IS, Echo, set_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix as by_scikit_learn
from sklearn.metrics import jaccard_score
from tiny import write_png_file

from segdeploy.benchmarks.parity import run as parity_run
from segdeploy.benchmarks.parity.predictions import Predictions, Values, read_predictions
from segdeploy.benchmarks.parity.records import GatedScore, ParityRow, ParitySection
from segdeploy.benchmarks.parity.verdict import Verdict
from segdeploy.benchmarks.scores.classes import (
    ClassCounts,
    averaged_classes,
    change_of_images,
    class_counts,
    confusion_matrix,
    inside_of,
)
from segdeploy.benchmarks.scores.paired_interval import paired_interval
from segdeploy.benchmarks.speed.entries import Entry
from segdeploy.calibration.json_record import json_of, record_of
from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.runtimes.base import Execution
from segdeploy.deploy.runtimes.registry import RuntimeName
from segdeploy.deploy.system.errors import InputError, UsageError

CLASSES = ("ground", "road", "tree", "sign")
FOUR = OutputContract(activation=Activation.SOFTMAX, classes=CLASSES)
LABELS = OutputContract(classes=CLASSES)
SHAPE = (10, 8, 8)
NAMES = tuple(f"image{i:02}" for i in range(SHAPE[0]))

label_maps = hnp.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 3))
fields = hnp.arrays(np.bool_, (3, 4, 5))


def one_hot(labels: NDArray[np.uint8], *, sure: float = 0.7) -> NDArray[np.float32]:
    """Probabilities (N, 4, H, W) whose largest is that of each label."""
    rest = (1 - sure) / 3
    found = np.where(labels[:, None] == np.arange(4).reshape(1, 4, 1, 1), sure, rest)
    return found.astype(np.float32)


def scene(seed: int) -> NDArray[np.uint8]:
    """Label maps (N, H, W): ground, a road, some trees, and a sign of few pixels."""
    draw = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 5:] = 1
    labels[draw.random(SHAPE) < 0.2] = 2
    labels[:, 0, :2] = 3
    return labels


def disturbed(labels: NDArray[np.uint8], share: float, seed: int) -> NDArray[np.uint8]:
    draw = np.random.default_rng(seed)
    other = draw.integers(0, 3, labels.shape).astype(np.uint8)
    return np.where(draw.random(labels.shape) < share, other, labels).astype(np.uint8)


Compare = Callable[..., ParitySection]


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Function (truth, reference, candidate, ...): both sides given as probabilities."""

    def compare(
        truth: NDArray[Any],
        reference: NDArray[np.float32],
        candidate: NDArray[np.float32],
        *,
        output: OutputContract = FOUR,
        fields: NDArray[np.bool_] | None = None,
        predictions: Sequence[Predictions] = (),
        **budgets: Any,
    ) -> ParitySection:
        classes = output.channels
        monkeypatch.setattr(
            parity_run, "open_isolated", lambda *file, **asked: Echo(classes, classes)
        )
        artifact = Artifact(
            path=Path("net.onnx"),
            precision=Precision.FP32,
            opset=18,
            inputs=Echo.inputs,
            outputs=Echo.outputs,
            sha256="0" * 64,
        )
        entry = Entry(
            label="fp32", artifact=artifact, runtime=RuntimeName.ONNXRUNTIME, skipped=None
        )
        fed = np.concatenate([reference, candidate], axis=1)
        return parity_run.parity_section(
            Echo(0, classes),
            "reference",
            [entry],
            images=set_of(NAMES, fed, truth, fields=fields),
            preprocess=AS_IT_IS,
            output=output,
            seed=0,
            execution=Execution(threads=1),
            progress=lambda samples, label: samples,
            predictions=predictions,
            **({"max_drop": 1.0} | budgets),
        )

    return compare


def counted(
    predicted: NDArray[np.uint8], truth: NDArray[np.uint8], output: OutputContract = FOUR
) -> ClassCounts:
    """Of all images, (N, H, W) each."""
    insides = [inside_of(output, image, None) for image in truth]
    found = [
        class_counts(one, other, inside, output)
        for one, other, inside in zip(predicted, truth, insides, strict=True)
    ]
    shared, seen, true = np.stack([counts for counts, _ in found], axis=1)
    return ClassCounts(
        shared=shared,
        predicted=seen,
        true=true,
        pixels=true.sum(axis=1),
        matrix=sum(matrix for _, matrix in found if matrix is not None),
        averaged=averaged_classes(output),
    )


class TestCounts:
    @settings(deadline=None)
    @given(label_maps, label_maps, fields)
    def test_the_matrix_is_scikit_learn_s(
        self, predicted: NDArray[np.uint8], truth: NDArray[np.uint8], field: NDArray[np.bool_]
    ) -> None:
        found = sum(
            confusion_matrix(p, t, classes=4, inside=f)
            for p, t, f in zip(predicted, truth, field, strict=True)
        )
        if field.any():
            expected = by_scikit_learn(truth[field], predicted[field], labels=range(4))
            assert np.array_equal(found, expected)
        else:
            assert not np.any(found)

    @settings(deadline=None)
    @given(label_maps, label_maps)
    def test_scores_are_scikit_learn_s(
        self, predicted: NDArray[np.uint8], truth: NDArray[np.uint8]
    ) -> None:
        counts = counted(predicted, truth)
        labels = [index for index in range(4) if (truth == index).any()]
        expected = jaccard_score(truth.ravel(), predicted.ravel(), labels=labels, average=None)
        assert counts.iou[labels] == pytest.approx(100 * expected)
        assert counts.scores().miou == pytest.approx(100 * float(np.mean(expected)))
        assert counts.scores().accuracy == pytest.approx(100 * float((predicted == truth).mean()))
        assert np.flatnonzero(counts.held).tolist() == labels

    @settings(deadline=None)
    @given(label_maps, label_maps)
    def test_dice_is_never_below_iou(
        self, predicted: NDArray[np.uint8], truth: NDArray[np.uint8]
    ) -> None:
        counts = counted(predicted, truth)
        assert (counts.dice >= counts.iou).all()
        assert counts.scores().dice >= counts.scores().miou

    @pytest.mark.parametrize("ignored", [255, 0])
    def test_the_ignored_index_counts_nowhere(self, ignored: int) -> None:
        truth, predicted = scene(0), disturbed(scene(0), 0.3, 1)
        truth[:, :, 6:] = ignored
        counts = counted(predicted, truth, replace(FOUR, ignored_index=ignored))
        seen = truth != ignored
        labels = [index for index in range(4) if index != ignored]
        matrix = by_scikit_learn(truth[seen], predicted[seen], labels=range(4))
        either = matrix.sum(axis=0) + matrix.sum(axis=1) - matrix.diagonal()
        expected = 100 * matrix.diagonal()[labels] / either[labels]
        assert counts.iou[labels] == pytest.approx(expected)
        assert counts.scores().miou == pytest.approx(expected.mean())
        assert counts.pixels.sum() == seen.sum()

    def test_masks_of_no_class_are_refused(self) -> None:
        empty = np.full(SHAPE, 255, np.uint8)
        with pytest.raises(InputError, match="no pixel of any class"):
            counted(np.zeros_like(empty), empty, replace(FOUR, ignored_index=255))

    @settings(deadline=None)
    @given(label_maps, label_maps, label_maps)
    def test_images_bear_on_the_change_so_that_their_mean_is_it(
        self, truth: NDArray[np.uint8], one: NDArray[np.uint8], other: NDArray[np.uint8]
    ) -> None:
        sides = [counted(predicted, truth) for predicted in (one, other)]
        bearing = change_of_images(*((each.shared, each.either) for each in sides))
        held = sides[0].held
        change = (sides[1].iou - sides[0].iou)[held]
        assert bearing.mean(axis=0)[held] == pytest.approx(change, abs=1e-9)


def test_the_interval_of_a_pooled_change_holds_the_true_one() -> None:
    """Objects of very different size, one model slightly worse: in 95 of 100 sets, about."""
    draw = np.random.default_rng(4)
    images, sets, held = 60, 300, 0
    found = np.array([0.90, 0.88])  # share of an object's pixels that each side finds
    for _ in range(sets):
        size = draw.lognormal(4, 1, (images, 1)).astype(np.int64) + 1
        shared = draw.binomial(size, draw.beta(18, 2, (images, 1)) * found / 0.9)
        either = size + draw.binomial(size, 0.05, (images, 2))
        sides = [(shared[:, [side]], either[:, [side]]) for side in (0, 1)]
        bearing = change_of_images(sides[0], sides[1])[:, 0]
        low, high = paired_interval(bearing.tolist(), seed=0, resamples=499)
        held += low <= 100 * (found[1] - found[0]) / 1.05 <= high
    assert 0.91 <= held / sets <= 0.99


class TestTable:
    def test_every_figure_is_that_of_the_counts(self, compare: Compare) -> None:
        truth, reference, candidate = scene(0), disturbed(scene(0), 0.1, 1), scene(0)
        candidate = disturbed(candidate, 0.2, 2)
        section = compare(truth, one_hot(reference), one_hot(candidate))
        assert section.score is GatedScore.MIOU
        assert [(look.name, look.colour) for look in section.classes] == list(
            zip(CLASSES, FOUR.palette, strict=True)
        )
        scored = []
        for row, labels in zip(section.rows, (reference, candidate), strict=True):
            each = 100 * jaccard_score(truth.ravel(), labels.ravel(), average=None)
            scored.append(each)
            assert [found.iou for found in row.classes] == pytest.approx(each)
            assert row.iou == pytest.approx(each.mean())
            assert row.scores is not None
            assert row.scores.iou is row.scores.auc is row.image_scores is None
            expected = by_scikit_learn(truth.ravel(), labels.ravel())
            assert np.array_equal(row.confusion or (), expected)
        row = section.rows[1]
        assert row.delta_iou_percentage_points == pytest.approx((scored[1] - scored[0]).mean())
        for found, change in zip(row.classes, scored[1] - scored[0], strict=True):
            assert found.delta_percentage_points == pytest.approx(change)
            low, high = found.ci95_percentage_points or (0, 0)
            assert low <= change <= high
        assert row.disagreement_percent == pytest.approx(100 * (reference != candidate).mean())
        record_of(json_of(section), ParitySection, whole="the section")

    def test_the_same_model_changes_nothing(self, compare: Compare) -> None:
        labels = one_hot(disturbed(scene(0), 0.3, 5))
        row = compare(scene(0), labels, labels, max_drop=0, max_drop_class=0).rows[1]
        assert (row.delta_iou_percentage_points, row.ci95_percentage_points) == (0, (0, 0))
        assert row.verdict is Verdict.KEPT
        assert {found.verdict for found in row.classes} == {Verdict.KEPT}

    def test_a_class_that_is_lost_fails_though_the_mean_holds(self, compare: Compare) -> None:
        truth = scene(0)
        lost = np.where(truth == 3, 0, truth).astype(np.uint8)
        row = compare(truth, one_hot(truth), one_hot(lost), max_drop=60).rows[1]
        assert row.delta_iou_percentage_points is not None
        assert row.delta_iou_percentage_points > -60
        assert row.verdict is Verdict.COLLAPSED
        assert row.collapsed_classes == ("sign",)
        assert row.failures == ("never predicted: sign",)

    def test_a_class_that_loses_more_than_its_budget_fails_though_the_mean_holds(
        self, compare: Compare
    ) -> None:
        truth = scene(0)
        half = truth.copy()
        half[:, 0, 0] = 0  # one of the two pixels of each sign
        passed = compare(truth, one_hot(truth), one_hot(half), max_drop=20)
        assert passed.rows[1].verdict is Verdict.KEPT
        failed = compare(truth, one_hot(truth), one_hot(half), max_drop=20, max_drop_class=5)
        row = failed.rows[1]
        assert row.verdict is Verdict.LOST
        assert failed.max_drop_class_percentage_points == 5
        verdicts = {found.name: found.verdict for found in row.classes}
        assert verdicts == {
            "ground": Verdict.KEPT,
            "road": Verdict.KEPT,
            "tree": Verdict.KEPT,
            "sign": Verdict.LOST,
        }
        assert row.failures == (
            "lost: IoU of sign changed by -50.000 points (95 % interval -50.000 to -50.000), more "
            "than the 5 allowed",
        )

    def test_a_budget_for_classes_needs_classes(self, compare: Compare) -> None:
        truth = scene(0) > 0
        given = truth[:, None].astype(np.float32)
        with pytest.raises(UsageError, match="--max-drop-class is 5, and the network has one"):
            compare(truth, given, given, output=OutputContract(), max_drop_class=5)

    def test_labels_that_overlap_are_a_problem_each(self, compare: Compare) -> None:
        draw = np.random.default_rng(0)
        shape = (SHAPE[0], 4, *SHAPE[1:])
        truth = draw.random(shape) < 0.4
        sides = [np.where(draw.random(shape) < 0.1, ~truth, truth) for _ in range(2)]
        section = compare(truth, *(side.astype(np.float32) for side in sides), output=LABELS)
        for row, side in zip(section.rows, sides, strict=True):
            each = [
                100 * jaccard_score(truth[:, index].ravel(), side[:, index].ravel())
                for index in range(4)
            ]
            assert [found.iou for found in row.classes] == pytest.approx(each)
            assert row.iou == pytest.approx(np.mean(each))
            assert row.confusion is None
        changed = (sides[0] != sides[1]).any(axis=1).mean()
        assert section.rows[1].disagreement_percent == pytest.approx(100 * changed)

    def test_pixels_outside_the_field_count_nowhere(self, compare: Compare) -> None:
        truth = scene(0)
        field = np.zeros(SHAPE, bool)
        field[:, :6] = True
        spoiled = np.where(field, truth, 2).astype(np.uint8)
        section = compare(truth, one_hot(truth), one_hot(spoiled), fields=field)
        assert section.field_of_view_percent == 75
        assert section.rows[1].iou == 100
        assert section.rows[1].disagreement_percent == 0

    def test_outputs_of_a_device_are_judged_as_the_model_is(
        self, compare: Compare, tmp_path: Path
    ) -> None:
        truth, labels = scene(0), disturbed(scene(0), 0.2, 3)
        logits, masks = tmp_path / "logits", tmp_path / "masks"
        for folder in (logits, masks):
            folder.mkdir()
        for name, one, values in zip(NAMES, labels, np.log(one_hot(labels)), strict=True):
            np.save(logits / f"{name}.npy", values[None] + 3)
            write_png_file(masks / f"{name}.png", one)
        given = [
            read_predictions(folder, NAMES, size=(8, 8), output=FOUR, values=Values.LOGITS)
            for folder in (logits, masks)
        ]
        section = compare(truth, one_hot(truth), one_hot(labels), predictions=given)
        _, model, *devices = section.rows
        for row, device in zip(devices, given, strict=True):
            assert _figures(row) == _figures(model)
            assert row.name == device.name


def _figures(row: ParityRow) -> ParityRow:
    return replace(
        row,
        name="",
        file=None,
        runtime="",
        target=None,
        precision_requested=None,
        precision_executed=None,
    )
