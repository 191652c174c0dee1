"""Pixels by label and prediction, and the metrics that are computed from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64, Shaped, UInt8

from cffm_jax.config import IGNORED_LABEL
from cffm_jax.metrics import kernels
from cffm_jax.metrics.metric import Metric, Statistic, mean

MOST = 2**31
"""Pixels that the kernel counts together."""


def as_bytes(array: Shaped[np.ndarray, "*shape"], name: str) -> UInt8[np.ndarray, "*shape"]:
    """Integers as bytes; ValueError with the array's name for what does not fit."""
    array = np.asarray(array)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "iub" or (array.size and (array.min() < 0 or array.max() > 255)):
        raise ValueError(f"{name} must be integers in 0..255, got {array.dtype}")
    return array.astype(np.uint8)


def flat(array: UInt8[np.ndarray, ...]) -> UInt8[np.ndarray, " n"]:
    """Bytes in one axis, as `read_only`."""
    return read_only(array.reshape(-1))


def read_only(array: UInt8[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """In C order and not writeable, as the kernels take it: they are compiled for one kind."""
    array = np.ascontiguousarray(array).view()
    array.flags.writeable = False
    return array


@dataclasses.dataclass(frozen=True, eq=False)
class Confusion:
    """Pixels by (label, prediction).

    Attributes:
      counts: row = label, column = prediction.
    """

    counts: Int64[np.ndarray, "K K"]

    @classmethod
    def empty(cls, num_classes: int) -> Confusion:
        if not 1 <= num_classes <= IGNORED_LABEL:
            raise ValueError(f"num_classes must be in 1..{IGNORED_LABEL}, got {num_classes}")
        return cls(np.zeros((num_classes, num_classes), np.int64))

    def update(self, labels: Shaped[np.ndarray, ...], predictions: Shaped[np.ndarray, ...]) -> Confusion:
        """Adds labels and predictions of equal shape; ValueError on a value that is no class."""
        labels, predictions = as_pair(labels, predictions)
        counts = self.counts.copy()
        counted = kernels.add_pairs(flat(labels), flat(predictions), counts, MOST)
        require_counted(counted, labels, predictions, len(counts))
        return Confusion(counts)

    @classmethod
    def total(cls, parts: Sequence[Confusion]) -> Confusion:
        """All pixels of at least one part; the parts have the same classes."""
        counts = parts[0].counts.copy()
        for part in parts[1:]:
            counts += part.counts
        return cls(counts)

    def pixels(self) -> Int64[np.ndarray, " K"]:
        """Labelled pixels of each class."""
        return self.counts.sum(1)

    def ious(self) -> Float64[np.ndarray, " K"]:
        """Intersection over union of each class; nan where it does not occur in the labels."""
        union = self.counts.sum(0) + self.counts.sum(1) - np.diag(self.counts)
        return _ratio(np.diag(self.counts), np.where(self.pixels() > 0, union, 0))

    def accuracies(self) -> Float64[np.ndarray, " K"]:
        """Share of each class's pixels predicted as it; nan where the labels have none."""
        return _ratio(np.diag(self.counts), self.pixels())

    def miou(self) -> float:
        """Mean IoU over the classes that occur in the labels; nan without any."""
        return mean(self.ious().tolist())

    def class_accuracy(self) -> float:
        """Mean accuracy over the classes that occur in the labels; nan without any."""
        return mean(self.accuracies().tolist())

    def weighted_iou(self) -> float:
        """IoU weighted by how often each class occurs in the labels; nan without any."""
        pixels = self.pixels()
        total = int(pixels.sum())
        return float(np.nansum(self.ious() * pixels) / total) if total else math.nan

    def pixel_accuracy(self) -> float:
        """Share of the labelled pixels that are predicted right; nan without any."""
        total = int(self.counts.sum())
        return float(np.trace(self.counts) / total) if total else math.nan


def as_pair(
    labels: Shaped[np.ndarray, ...], predictions: Shaped[np.ndarray, ...]
) -> tuple[UInt8[np.ndarray, "*shape"], UInt8[np.ndarray, "*shape"]]:
    """Both as bytes. ValueError where the kernels would read what is not there."""
    labels, predictions = as_bytes(labels, "labels"), as_bytes(predictions, "predictions")
    if labels.shape != predictions.shape:
        raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} differ in shape")
    return labels, predictions


def require_counted(counted: int, labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> None:
    """ValueError if not all pixels were counted, or ignored."""
    if counted != labels.size:
        wrong = "labels" if ((labels >= num_classes) & (labels != IGNORED_LABEL)).any() else "predictions"
        raise ValueError(f"{wrong} hold a value that is not in 0..{num_classes - 1}")


def _ratio(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    return np.divide(part, total, out=np.full(len(part), np.nan), where=total > 0)


CONFUSION = Statistic("confusion", Confusion.empty, Confusion.update, Confusion.total)
_RIGHT = "share of the labelled pixels that are right; the mean over the classes of that share"
METRICS = (
    Metric(
        "miou",
        "mIoU",
        "IoU of each class that occurs, their mean",
        "IoU of each class that occurs in the ground truth, by one confusion matrix over all frames of all videos; "
        "their mean",
        CONFUSION,
        Confusion.miou,
        per_video="table",
        per_class=("iou", Confusion.ious),
    ),
    Metric(
        "weighted_iou",
        "wIoU",
        "the same IoUs, weighted by the classes' pixels",
        "the same IoUs, weighted by how many labelled pixels each class has",
        CONFUSION,
        Confusion.weighted_iou,
    ),
    Metric(
        "pixel_accuracy",
        "pixel acc.",
        "labelled pixels that are right",
        _RIGHT,
        CONFUSION,
        Confusion.pixel_accuracy,
        per_video="table",
    ),
    Metric(
        "class_accuracy",
        "class acc.",
        "the same for each class, the mean",
        _RIGHT,
        CONFUSION,
        Confusion.class_accuracy,
        per_class=("accuracy", Confusion.accuracies),
    ),
)
