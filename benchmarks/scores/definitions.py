"""What every score means, one sentence for each name, as the report prints it."""

from __future__ import annotations

POOLED: dict[str, str] = {
    "iou": (
        "Intersection over union of the foreground, computed for each image (100 where both are "
        "empty), then averaged over images: the published metric, which its tables call MIoU."
    ),
    "miou": (
        "Mean over the two classes, nucleus and background, of intersection over union from one "
        "confusion matrix pooled over all pixels (100 for a class that neither side contains)."
    ),
    "dice": (
        "Twice the shared foreground over the sum of both foregrounds, pooled over all pixels "
        "(100 where both are empty)."
    ),
    "precision": (
        "Share of the predicted foreground that is true, pooled over all pixels (nothing "
        "predicted: 100 where the truth is empty too, else 0)."
    ),
    "sensitivity": (
        "Share of the true foreground that is predicted, pooled over all pixels (nothing true: "
        "100 where nothing is predicted either, else 0)."
    ),
    "specificity": (
        "Share of the true background that is predicted, pooled over all pixels (no true "
        "background: 100 where none is predicted either, else 0)."
    ),
    "accuracy": "Share of pixels whose class is right, pooled over all pixels.",
    "auc": (
        "Area under the ROC curve from the probabilities, pooled over all pixels: the chance that "
        "a foreground pixel gets a higher probability than a background pixel, ties counting half."
    ),
}
"""The fields of ``Scores``. All but ``iou`` are of one pool of pixels."""

PER_IMAGE: dict[str, str] = {
    "miou_per_image": "miou computed for each image, then averaged over images.",
    "dice_per_image": "dice computed for each image, then averaged over images.",
    "precision_per_image": "precision computed for each image, then averaged over images.",
    "sensitivity_per_image": "sensitivity computed for each image, then averaged over images.",
    "specificity_per_image": "specificity computed for each image, then averaged over images.",
    "accuracy_per_image": "accuracy computed for each image, then averaged over images.",
    "auc_per_image": (
        "auc computed for each image, then averaged over images; images whose truth holds only "
        "one class have none and are left out."
    ),
    "hausdorff": (
        "Hausdorff distance for each image, then averaged over images: of all foreground pixels, "
        "predicted and true, the largest distance to the nearest foreground pixel of the other "
        "side, in pixels of the network's input grid (0 where both sides are empty; images where "
        "only one is have none and are left out)."
    ),
    "hausdorff95": (
        "As hausdorff, with the 95th percentile of the distances (over all foreground pixels of "
        "a side, not its outline alone; interpolated linearly) in place of the largest: that of "
        "the predicted or of the true foreground, whichever is larger."
    ),
}
"""The fields of ``ImageScores`` beside ``iou``, which both have."""

CLASSES: dict[str, str] = {
    "miou": (
        "Mean over the classes of intersection over union, each pooled over all pixels. The "
        "ignored index counts nowhere; a class that the masks of the set never hold is in no mean."
    ),
    "dice": "Mean over the same classes of twice the shared pixels over the sum of both sides.",
    "precision": "Mean over the same classes of the share of the predicted pixels that is true.",
    "sensitivity": "Mean over the same classes of the share of the true pixels that is predicted.",
    "specificity": (
        "Mean over the same classes of the share of the pixels of no such class in truth that is "
        "predicted so."
    ),
    "accuracy": (
        "Share of pixels whose class is right, pooled over all pixels; of labels that may overlap "
        "the mean over the labels."
    ),
}
"""The fields of ``Scores`` that several classes have. All are of one pool of pixels."""

DEFINITIONS: dict[str, str] = POOLED | PER_IMAGE
"""Every score of a report. Where a set has a field of view, pixels outside count nowhere."""
