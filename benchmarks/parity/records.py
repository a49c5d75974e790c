"""The parity section of a report: a row for each candidate, and the images that lost most.

A field with a default was added to ``report.json`` later: files of older versions lack it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, ClassVar

from msgspec import Meta

from segdeploy.benchmarks.parity.verdict import MLPERF_LINES_PERCENT, Verdict
from segdeploy.benchmarks.scores.accuracy import Scores
from segdeploy.benchmarks.speed.entries import RowIdentity
from segdeploy.calibration.json_record import Count, NotNegative, Percent, Text, require_measured

MlperfLine = Annotated[float, Meta(extra_json_schema={"enum": list(MLPERF_LINES_PERCENT)})]
Png = Annotated[
    str,
    Meta(
        pattern="^iVBORw0KGgo[A-Za-z0-9+/]+={0,2}$",
        extra_json_schema={"contentEncoding": "base64", "contentMediaType": "image/png"},
    ),
]
"""A PNG file in base64."""

Hue = Annotated[int, Meta(ge=0, le=255)]


class GatedScore(str, Enum):
    """Which score's change a section judges.

    Attributes:
        IOU: of one label: intersection over union of each image, averaged over images.
        MIOU: of several classes: the mean of theirs, each pooled over all pixels.
    """

    IOU = "iou"
    MIOU = "miou"

    @property
    def shown(self) -> str:
        """In a heading."""
        return {GatedScore.IOU: "IoU", GatedScore.MIOU: "mIoU"}[self]


@dataclass(frozen=True, kw_only=True)
class ClassLook:
    """A class as pictures show it.

    Attributes:
        colour: red, green, blue.
    """

    name: Text
    colour: tuple[Hue, Hue, Hue]


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class of several, over all pixels; with the change from the reference.

    Attributes:
        iou: ``None`` where the truth of the set does not hold the class, or it is the ignored
            index.
        dice: likewise.
        true_pixels: of the class in truth.
        predicted_pixels: as the row sees it.
        delta_percentage_points: candidate minus reference IoU; ``None`` for the reference.
        ci95_percentage_points: its 95 % interval: low, high.
        verdict: what that proves about the budget of a class; ``None`` where none was stated.
        shared_per_image: raw counts: pixels of the class on both sides, in the order of the
            evaluation set.
        either_per_image: on either side; IoU is the sum of the one over the sum of the other.
    """

    name: Text
    iou: Percent | None
    dice: Percent | None
    true_pixels: Count
    predicted_pixels: Count
    delta_percentage_points: float | None = None
    ci95_percentage_points: tuple[float, float] | None = None
    verdict: Verdict | None = None
    shared_per_image: Sequence[Count]
    either_per_image: Sequence[Count]


@dataclass(frozen=True, kw_only=True)
class PercentPerImage:
    """A score of each image on its own, in percent.

    Attributes:
        mean: over the images that have a value; ``None`` where none has.
        left_out: images without a value.
        values: in the order of the evaluation set.
    """

    mean: Percent | None
    left_out: Count
    values: Annotated[Sequence[Percent | None], Meta(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class PixelsPerImage:
    """A distance of each image, in pixels of the network's input grid.

    Attributes:
        mean: over the images that have a value; ``None`` where none has.
        left_out: images without a value.
        values: in the order of the evaluation set.
    """

    mean: NotNegative | None
    left_out: Count
    values: Annotated[Sequence[NotNegative | None], Meta(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class MeansOverImages:
    """Scores of each image on its own; each name is defined under definitions.

    Attributes:
        auc_per_image: ``None`` for a model that gives masks, not probabilities.
    """

    miou_per_image: PercentPerImage
    dice_per_image: PercentPerImage
    precision_per_image: PercentPerImage
    sensitivity_per_image: PercentPerImage
    specificity_per_image: PercentPerImage
    accuracy_per_image: PercentPerImage
    auc_per_image: PercentPerImage | None
    hausdorff: PixelsPerImage
    hausdorff95: PixelsPerImage


@dataclass(frozen=True, kw_only=True)
class WorstImage:
    """Foreground IoU of one image, in percent; of several classes its mean.

    Attributes:
        disagreement_percent: pixels whose class differs from the reference; ``None`` in older
            reports.
        collapsed: the candidate lost all foreground; always false in older reports.
    """

    name: Text
    reference_iou: Percent
    candidate_iou: Percent
    disagreement_percent: Percent | None = None
    collapsed: bool = False

    @property
    def change(self) -> float:
        """Candidate minus reference, percentage points."""
        return self.candidate_iou - self.reference_iou


@dataclass(frozen=True, kw_only=True)
class ParityRow(RowIdentity):
    """A candidate beside the reference, or the reference itself.

    Attributes:
        precision_executed: what really ran, in words.
        scores: all in percent; ``None`` for skipped rows.
        image_scores: ``None`` for skipped rows, of several classes, and in older reports.
        delta_iou_percentage_points: candidate minus reference on the same images, of the score
            that the section judges; ``None`` for the reference itself.
        ci95_percentage_points: 95 % paired bootstrap interval of the delta: low, high.
        disagreement_percent: pixels whose class differs from the reference.
        passed: the verdict is kept; false for a row that failed; ``None`` for the reference and
            for skipped rows. In older reports, which have no verdict: the delta itself within the
            budget, and no collapse.
        verdict: kept: the interval's lower end within the budget. lost: its upper end beyond. not
            proven: the budget lies inside the interval. not proven for fp16 arithmetic: kept, but
            in fp32 alone, and beyond what fp16 holds. collapsed: some image lost all its
            foreground, or of several classes the set all of one, whatever the interval. failed:
            the runtime crashed, hung or failed, and skipped holds the reason. ``None`` for the
            reference and for skipped rows, and in older reports.
        failures: why the row did not pass, and what would prove it, one sentence each; empty where
            it passed or was not judged, and in older reports.
        cautions: what its scores here do not show of another device, or what this one adds to
            them, one sentence each; empty in older reports.
        collapsed_images: foreground collapse: images on which the candidate predicts only
            background while truth and reference hold foreground. Empty in older reports.
        collapsed_classes: of several: that the candidate never predicts while truth and reference
            hold them. Empty in older reports.
        reference_iou_kept_percent: the candidate's IoU, or mIoU where the section judges that,
            over the reference's; above 100 is a gain. ``None`` for the reference, for skipped
            rows, where the reference's is 0, and in older reports.
        mlperf_lines_reached_percent: which of MLPerf's accuracy lines, 99 and 99.9 % of the
            reference, reference_iou_kept_percent reaches; ``None`` where that is.
        skipped: why the row was not measured.
        worst_images: largest losses first.
        iou_per_image_percent: raw samples, in the order of the evaluation set; of several classes
            ``None``, and classes has them.
        classes: each class of several, in order; empty where there is one label, and in older
            reports.
        confusion: pixels by true class (row) and predicted class (column); ``None`` where labels
            may overlap, where there is one, and in older reports.

    Raises:
        ValueError: a measured row without scores, a skipped one with some, or lines that MLPerf
            does not have.
    """

    measured: ClassVar = ("scores",)

    precision_executed: Text | None
    scores: Scores | None
    image_scores: MeansOverImages | None = None
    delta_iou_percentage_points: float | None
    ci95_percentage_points: tuple[float, float] | None
    disagreement_percent: Percent | None
    passed: bool | None
    verdict: Verdict | None = None
    failures: tuple[Text, ...] = ()
    cautions: tuple[Text, ...] = ()
    collapsed_images: tuple[Text, ...] = ()
    collapsed_classes: tuple[Text, ...] = ()
    reference_iou_kept_percent: NotNegative | None = None
    mlperf_lines_reached_percent: (
        Annotated[tuple[MlperfLine, ...], Meta(extra_json_schema={"uniqueItems": True})] | None
    ) = None
    skipped: Text | None
    worst_images: tuple[WorstImage, ...]
    iou_per_image_percent: Sequence[Percent] | None
    classes: tuple[ClassRow, ...] = ()
    confusion: tuple[tuple[Count, ...], ...] | None = None

    def __post_init__(self) -> None:
        require_measured(self, self.measured)
        lines = self.mlperf_lines_reached_percent or ()
        if len(set(lines)) != len(lines) or not set(lines) <= set(MLPERF_LINES_PERCENT):
            raise ValueError(
                f"mlperf_lines_reached_percent is {list(lines)!r:.60}; expected each of "
                f"{list(MLPERF_LINES_PERCENT)} once at most"
            )

    @property
    def iou(self) -> float:
        """Of a measured row, percent; of several classes mIoU.

        Raises:
            ValueError: the row was skipped.
        """
        if self.scores is None:
            raise ValueError(f"{self.name} was not measured: {self.skipped}")
        return self.scores.miou if self.scores.iou is None else self.scores.iou

    @property
    def failed(self) -> bool:
        """The runtime crashed, hung or failed; ``skipped`` holds the reason."""
        return self.skipped is not None and self.passed is False


@dataclass(frozen=True, kw_only=True)
class ParitySection:
    """Every candidate beside the reference over the same images.

    Attributes:
        reference: name of the row the others are compared with.
        score: whose change is judged.
        classes: names and colours of several classes; empty where there is one label, and in older
            reports.
        max_drop_percentage_points: the budget: how much of the score a candidate may lose.
        max_drop_class_percentage_points: how much IoU a candidate may lose of any class; ``None``
            where none was stated.
        image_names: in the order of every list of samples; empty in older reports.
        field_of_view_percent: pixels inside the fields of view, the only ones that are scored;
            ``None`` where every pixel is, and in older reports.
        rows: the reference first, then the candidates.
    """

    reference: Text
    score: GatedScore = GatedScore.IOU
    classes: tuple[ClassLook, ...] = ()
    max_drop_percentage_points: NotNegative
    max_drop_class_percentage_points: NotNegative | None = None
    images: Count
    image_names: tuple[Text, ...] = ()
    field_of_view_percent: Percent | None = None
    rows: tuple[ParityRow, ...]

    @property
    def passed(self) -> bool:
        """Every candidate that was compared passed, and at least one was.

        One whose runtime failed did not pass; one that was skipped does not count.
        """
        judged = [row.passed for row in self.rows if row.passed is not None]
        return bool(judged) and all(judged)


@dataclass(frozen=True, kw_only=True)
class PicturedImage:
    """An evaluation image that lost much, in five pictures.

    Attributes:
        candidate: name of the row of parity that lost most on it; its scores stand there.
        input_png_base64: as the network saw it, stretched to the full range of brightness; reduced
            by a whole factor where it is large.
        truth_png_base64: the true foreground; of several classes, here and below, their colours.
        reference_png_base64: what the reference takes for foreground.
        candidate_png_base64: what the candidate takes for it.
        disagreement_png_base64: red: foreground that only the reference sees. Blue: only the
            candidate. Of several classes red alone, where they differ.
    """

    name: Text
    candidate: Text
    input_png_base64: Png
    truth_png_base64: Png
    reference_png_base64: Png
    candidate_png_base64: Png
    disagreement_png_base64: Png
